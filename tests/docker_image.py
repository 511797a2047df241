"""An image with the embedded llama.cpp server, made of the running Python: no registry, no distribution.

`python -m tests.docker_image` packs the interpreter, its library, xllamacpp and the shared libraries
that they need into a tar, which the engine imports.
"""

import hashlib
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import urllib.parse
from pathlib import Path

import xllamacpp

from tests.engines import EngineClient, default_address

REPOSITORY = "llama-smart-proxy-test"
SERVER = Path(__file__).resolve().parents[1] / "actors" / "servers" / "llama" / "embedded.py"
_LIBRARY = f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
_LEFT_OUT = re.compile(
    r"/(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|site-packages|config-\d.*|pydoc_data)(/|$)"
)


def tag() -> str:
    """Of an image that has the present sources in it."""
    content = SERVER.read_bytes() + Path(__file__).read_bytes()
    version = f"{sys.version} {importlib.metadata.version('xllamacpp')}"
    return f"{REPOSITORY}:{hashlib.sha256(content + version.encode()).hexdigest()[:12]}"


def ensure(client: EngineClient) -> str:
    """The tag of the image, which is made unless the engine has it."""
    name = tag()
    try:
        client.ask("GET", f"/images/{name}/json")
    except OSError:
        build(client, name)
    return name


def build(client: EngineClient, name: str) -> None:
    """Make the image; some seconds."""
    data, libraries = _pack()
    changes = [
        f"ENTRYPOINT {json.dumps(['/usr/bin/python3', '/opt/server/embedded.py'])}",
        "ENV PYTHONPATH=/opt/server PYTHONHOME=/usr PYTHONDONTWRITEBYTECODE=1 "
        f"LD_LIBRARY_PATH={':'.join(sorted({str(path.parent) for path in libraries}))}",
    ]
    repository, _, label = name.partition(":")
    query = [("fromSrc", "-"), ("repo", repository), ("tag", label), *(("changes", line) for line in changes)]
    client.ask("POST", f"/images/create?{urllib.parse.urlencode(query)}", data, kind="application/x-tar")


def _pack() -> tuple[bytes, set[Path]]:
    """The tar, and the shared libraries in it."""
    program = Path(sys.executable).resolve()
    libraries = _libraries(program)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        for name in ("tmp", "proc", "sys", "dev", "etc", "models"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
        tar.add(program, "usr/bin/python3")
        tar.add(SERVER, f"opt/server/{SERVER.name}")
        package = Path(xllamacpp.__file__).parent
        information = importlib.metadata.distribution("xllamacpp").locate_file("")
        (metadata,) = Path(str(information)).glob("xllamacpp-*.dist-info")
        trees = {
            Path(sysconfig.get_path("stdlib")): _LIBRARY,
            package: "/opt/server/xllamacpp",
            metadata: f"/opt/server/{metadata.name}",
        }
        for root, target in trees.items():
            for path in sorted(root.rglob("*")):
                inside = path.relative_to(root)
                if target == _LIBRARY and _LEFT_OUT.search(f"/{inside}"):
                    continue
                if path.is_dir() or path.suffix == ".a" or ".opt-" in path.name:
                    continue
                if ".so" in path.name:
                    libraries |= _libraries(path)
                tar.add(path, f"{target}/{inside}".lstrip("/"), recursive=False)
        for library in sorted(libraries):
            tar.add(library, str(library).lstrip("/"), recursive=False)
    return buffer.getvalue(), libraries


def _libraries(path: Path) -> set[Path]:
    """What the dynamic linker would load for a file."""
    told = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
    return {Path(found) for found in re.findall(r"(/\S+)", told) if Path(found).is_file()}


if __name__ == "__main__":
    print(ensure(EngineClient(default_address())))
