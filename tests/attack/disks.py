"""A file system without room under all that the gateway keeps: requests go on, what is lost is told."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.attack.ground import launched, watched


def attack(folder: Path) -> Iterator[str]:
    """Fill the file system of caches and of the agents' data while somebody streams."""
    home = folder / "home"
    home.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(home)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return  # only root may mount
    try:
        with (
            launched(home / "gateway", agents=["rag"], agent_data=str(home / "agents")) as gateway,
            watched(gateway) as bystander,
        ):
            filler = home / "filler"
            try:
                with filler.open("wb") as file:
                    while True:
                        file.write(bytes(65536))
                        file.flush()
            except OSError:
                pass  # full
            for stream in (True, False):
                answer = gateway.chat("do:good", stream=stream)
                if answer.status_code != 200:
                    yield f"a chat: {answer.status_code} {answer.text[:200]}"
            answer = gateway.client.post(
                "/v1/agents/rag/documents", json={"name": "a.md", "text": "llama " * 99_999}
            )
            if answer.status_code == 500 or answer.status_code < 400:
                yield f"a document that has no room: {answer.status_code} {answer.text[:200]}"
            yield from bystander.faults()
            filler.unlink()
            answer = gateway.chat("do:good", stream=False)
            if answer.status_code != 200:
                yield f"a chat when there is room again: {answer.status_code}"
            yield from gateway.crashes()
    finally:
        subprocess.run(["umount", "-l", str(home)], check=False)
