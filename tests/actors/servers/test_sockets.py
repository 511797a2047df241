"""Whose a port is."""

import os
import socket
import sys

import psutil
import pytest

from actors.servers.sockets import listening, shareable, whose

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


def listener(host: str, port: int = 0, *, reuse: bool = False) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse)
    made.bind((host, port))
    made.listen()
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_one_listener(host: str) -> None:
    with listener("127.0.0.1" if host == "localhost" else host) as one:
        port = one.getsockname()[1]
        sockets = listening(host, port)
        assert sockets == frozenset([os.fstat(one.fileno()).st_ino])
        assert whose(sockets, [psutil.Process()]) == "ours"
        assert whose(sockets, [psutil.Process(1)]) in ("others", "unknown")
        assert not shareable("127.0.0.1" if host == "localhost" else host, port)
    assert listening(host, port) == frozenset()
    assert whose(frozenset(), [psutil.Process()]) == "unknown"


def test_two_that_share_a_port() -> None:
    with listener("127.0.0.1", reuse=True) as one:
        port = one.getsockname()[1]
        assert shareable("127.0.0.1", port)
        with listener("127.0.0.1", port, reuse=True):
            assert len(listening("127.0.0.1", port) or ()) == 2
        assert shareable("127.0.0.1", port)


def test_an_address_goes_before_any_address() -> None:
    with listener("0.0.0.0", reuse=True) as every:
        port = every.getsockname()[1]
        assert listening("127.0.0.1", port) == frozenset([os.fstat(every.fileno()).st_ino])
        with listener("127.0.0.1", port, reuse=True) as one:
            assert listening("127.0.0.1", port) == frozenset([os.fstat(one.fileno()).st_ino])
