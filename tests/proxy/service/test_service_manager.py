"""What systemd is told, on a real datagram socket."""

import asyncio
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.service.service_manager import ServiceManager


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)

    async def told(self) -> list[str]:
        """The lines of the next message."""
        async with asyncio.timeout(10):
            message = await asyncio.get_running_loop().sock_recv(self.socket, 4096)
        return message.decode().splitlines()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@lsp-test-{secrets.token_hex(8)}"
    made = Manager(address)
    yield made
    made.socket.close()


async def test_it_tells_that_it_serves_and_that_it_ends(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "HOME": "/"}
    ours = ServiceManager(environment)
    assert environment == {"HOME": "/"}, "model servers do not speak for the gateway"
    ours.ready("listening")
    assert await manager.told() == ["READY=1", "STATUS=listening"]
    ours.stopping("the rest", 60.5)
    assert await manager.told() == ["STOPPING=1", "STATUS=the rest", "EXTEND_TIMEOUT_USEC=60500000"]
    ours.close()


async def test_the_watchdog_is_fed_twice_in_its_time(manager: Manager) -> None:
    ours = ServiceManager(
        {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000", "WATCHDOG_PID": str(os.getpid())}
    )
    ours.ready("listening")
    assert (await manager.told())[0] == "READY=1"
    loop = asyncio.get_running_loop()
    assert await manager.told() == ["WATCHDOG=1"]
    began = loop.time()
    for _ in range(2):
        assert await manager.told() == ["WATCHDOG=1"]
    assert loop.time() - began >= 0.3, "not more often"
    ours.close()


async def test_somebody_elses_watchdog_is_not_ours(manager: Manager) -> None:
    ours = ServiceManager({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})
    ours.ready("listening")
    assert (await manager.told())[0] == "READY=1"
    ours.stopping("", 0)
    assert (await manager.told())[0] == "STOPPING=1"
    ours.close()


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "vsock:2:1234", "@", "/" + "x" * 300, "a\0b"])
async def test_nobody_who_listens_stops_nothing(address: str) -> None:
    ours = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000"})
    ours.ready("listening")
    await asyncio.sleep(0)
    ours.stopping("", 0)
    ours.close()


async def test_a_manager_that_does_not_read_yet_is_told_when_it_does(manager: Manager) -> None:
    ours = ServiceManager({"NOTIFY_SOCKET": manager.address})
    for _ in range(2000):  # more than the queue of a socket takes; none of them waits
        ours.stopping("full", 1)
    ours.ready("listening")
    while (told := await manager.told())[0] == "STOPPING=1":
        pass
    assert told == ["READY=1", "STATUS=listening"]
    ours.close()
