"""Finds the owner of a listening port, on Linux only. All functions block."""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil

Owner = Literal["ours", "shared", "others", "unknown"]
"""The owner of the sockets to which a connection may go."""

_LISTEN = "0A"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def listening(host: str, port: int) -> frozenset[int] | None:
    """Return the inodes of the sockets that accept connections to an address; None if unknown.

    With SO_REUSEPORT there may be several. Sockets bound to the address win over those bound to any address.
    """
    exact: set[int] = set()
    wild: set[int] = set()
    addresses = _addresses(host)
    try:
        for table in _TABLES:
            with table.open() as lines:
                for line in lines:
                    _, local, _, state, *rest = line.split()
                    if state == _LISTEN and local.endswith(f":{port:04X}"):
                        address = local.partition(":")[0]
                        place = exact if address in addresses else wild if not address.strip("0") else set()
                        place.add(int(rest[5]))
    except (OSError, ValueError):
        return None
    return frozenset(exact or wild)


def whose(sockets: frozenset[int], family: Iterable[psutil.Process]) -> Owner:
    """Find out whether these sockets belong to a family of processes."""
    if not sockets:
        return "unknown"
    held: set[int] = set()
    hidden = False
    for process in family:
        try:
            held |= _held_by(process.pid)
        except FileNotFoundError:  # the process has ended
            continue
        except OSError:  # the process belongs to another user
            hidden = True
    if sockets & held:
        return "ours" if sockets <= held else "shared"
    return "unknown" if hidden else "others"


def shareable(host: str, port: int) -> bool:
    """Whether another program of this user could start to listen on the same port."""
    if not hasattr(socket, "SO_REUSEPORT"):
        return False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _held_by(pid: int) -> set[int]:
    held: set[int] = set()
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        names = [descriptor.path for descriptor in descriptors]
    for name in names:
        with suppress(FileNotFoundError):
            kind, _, inode = os.readlink(name).partition(":")  # noqa: PTH115 (half the time)
            if kind == "socket":
                held.add(int(inode.strip("[]")))
    return held


def _addresses(host: str) -> set[str]:
    """Return an address in the kernel's notation: words of four bytes in the machine's byte order."""
    found: set[str] = set()
    with suppress(OSError, ValueError):
        for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            packed = ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).packed
            mapped = b"\0" * 10 + b"\xff\xff" + packed if len(packed) == 4 else packed
            for form in {packed, mapped}:
                words = (form[at : at + 4] for at in range(0, len(form), 4))
                found.add("".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words))
    return found
