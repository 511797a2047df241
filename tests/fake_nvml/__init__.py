"""GPUs for a gateway under test: this folder, first on PYTHONPATH, has a `pynvml` of its own."""

import json
import os
from pathlib import Path
from typing import Any


def write(path: Path, **machine: Any) -> dict[str, str]:
    """Say what NVML shall tell from its next question on, as `pynvml` here has it; return the environment.

    The file changes at once, so that it may be written while the gateway asks.
    """
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(machine))
    draft.replace(path)
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"FAKE_NVML": str(path), "PYTHONPATH": os.pathsep.join(folders)}
