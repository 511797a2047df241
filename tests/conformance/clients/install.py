"""Installs clients into a folder outside of the checkout, each group once for each change of its list.

The folder is CLIENTS_CACHE, or `llama-smart-proxy-clients` in the user's cache folder.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(
    os.environ.get("CLIENTS_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-smart-proxy-clients"
)


class CannotInstallError(Exception):
    """Says what could not be installed, and why."""


def python(name: str) -> Path:
    """The interpreter of an environment with `requirements/NAME.txt`, which lists every package.

    Raises `CannotInstallError`.
    """
    wanted = HERE / "requirements" / f"{name}.txt"
    folder = _folder(name, wanted)
    interpreter = folder / "bin" / "python"
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(interpreter), "-m", "pip", "install", "--quiet", "uv"])
        command = [
            "uv",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--python",
            str(interpreter),
            "-r",
            str(wanted),
        ]
        _run([str(interpreter), "-m", *command])
        (folder / "installed").touch()
    return interpreter


def npm(lists: Path) -> Path:
    """The folder with all packages of a package-lock.json. Raises `CannotInstallError`."""
    if not (npm_command := shutil.which("npm")):
        raise CannotInstallError("there is no npm on the PATH")
    folder = _folder(lists.name, lists / "package-lock.json")
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(lists / name, folder)
        _run([npm_command, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"])
        (folder / "installed").touch()
    return folder


def _folder(name: str, wanted: Path) -> Path:
    return CACHE / f"{name}-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]}"


def _run(command: list[str]) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotInstallError(f"{' '.join(command)}: {(done.stderr or done.stdout)[-800:]}")
