"""An image with the embedded llama.cpp server, made of the running Python: no registry, no distribution.

`python -m tests.docker_image [TAG]` packs the interpreter, its library, xllamacpp and the shared libraries
that they need into a tar, which the engine imports.
"""

import hashlib
import http.client
import importlib.metadata
import io
import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import tarfile
import urllib.parse
from pathlib import Path

import xllamacpp

REPOSITORY = "llama-smart-proxy-test"
SERVER = Path(__file__).resolve().parents[1] / "actors" / "backends" / "embedded.py"
_LIBRARY = f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
_LEFT_OUT = re.compile(
    r"/(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|site-packages|config-\d.*|pydoc_data)(/|$)"
)


class EngineConnection(http.client.HTTPConnection):
    """To the engine's socket."""

    def __init__(self) -> None:
        super().__init__("docker", timeout=120)

    def connect(self) -> None:
        """Over the Unix socket that DOCKER_HOST names."""
        self.sock = socket.socket(socket.AF_UNIX)
        address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        self.sock.connect(address.removeprefix("unix://"))

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        """The body of the answer. Raises `OSError` when there is no engine, or it refuses."""
        self.request(method, path, body, {"Content-Type": kind})
        response = self.getresponse()
        answer = response.read()
        if response.status >= 400:
            raise OSError(f"{method} {path}: {response.status} {answer.decode()}")
        return answer


def tag() -> str:
    """Of an image that has the present sources in it."""
    content = SERVER.read_bytes() + Path(__file__).read_bytes()
    version = f"{sys.version} {importlib.metadata.version('xllamacpp')}"
    return f"{REPOSITORY}:{hashlib.sha256(content + version.encode()).hexdigest()[:12]}"


def ensure() -> str:
    """The tag of the image, which is made unless the engine has it."""
    name = tag()
    connection = EngineConnection()
    try:
        connection.ask("GET", f"/images/{name}/json")
    except OSError:
        build(name)
    finally:
        connection.close()
    return name


def build(name: str) -> None:
    """Make the image; some seconds."""
    data, libraries = _pack()
    changes = [
        f"ENTRYPOINT {json.dumps(['/usr/bin/python3', '/opt/server/embedded.py'])}",
        "ENV PYTHONPATH=/opt/server PYTHONHOME=/usr PYTHONDONTWRITEBYTECODE=1 "
        f"LD_LIBRARY_PATH={':'.join(sorted({str(path.parent) for path in libraries}))}",
    ]
    repository, _, label = name.partition(":")
    query = [("fromSrc", "-"), ("repo", repository), ("tag", label), *(("changes", line) for line in changes)]
    connection = EngineConnection()
    try:
        connection.ask(
            "POST", f"/images/create?{urllib.parse.urlencode(query)}", data, kind="application/x-tar"
        )
    finally:
        connection.close()


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
    build(sys.argv[1] if len(sys.argv) > 1 else tag())
    print(sys.argv[1] if len(sys.argv) > 1 else tag())
