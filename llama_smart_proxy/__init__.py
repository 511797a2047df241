"""The command `llama-smart-proxy` of an installation: `run.py`, from anywhere.

`actors`, `agents` and `proxy` are names that other packages have too. So an installation keeps them, with
`run.py` and its `config.yaml`, in the folder `_house` of this package, which is on the path of this command's
processes alone.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOUSE = HERE / "_house" if (HERE / "_house").is_dir() else HERE.parent
"""The folder of `run.py`: the checkout, where that was installed with `pip install -e`."""


def main() -> int:
    """Run a command; return the exit status."""
    sys.path.insert(0, str(HOUSE))
    import run  # noqa: PLC0415 (it is found now)

    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    config = own / "llama-smart-proxy" / "config.yaml"
    return run.main(config if config.is_file() else HOUSE / "config.yaml")
