"""Folders, ports, and the limit of open files."""

import asyncio
import errno
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from actors.commands.running_gateway import GatewayAwayError, GatewayRefusalError, ask
from actors.config.certificate import expiry
from actors.config.schema import Config, authority
from actors.folders import cache_folder, nearest_folder, unwritable
from actors.progress import readable_size
from actors.servers import StartError
from actors.servers.ports import PortBook
from proxy.doctor.checks import Finding, Patient, Status, in_thread
from proxy.door.connections import files_for, listening, most_clients
from proxy.handlers.readiness import needed_folders

LOW_SPACE = 1 << 30
"""Bytes below which the space of a folder is worth a warning."""
NO_SPACE = 16 << 20
"""Bytes below which a folder counts as full."""

PORT_TIMEOUT = 3.0
"""Seconds within which a gateway that listens must answer."""

FEW_CLIENTS = 64
"""Clients below which the limit of open files is an error."""

RENEWAL = timedelta(days=14)
"""How long before its end a certificate should have been renewed."""

Folders = Sequence[tuple[str, Path]]


async def check_folders(patient: Patient) -> Sequence[Finding]:
    """Look at each folder that is used: whether it can be written to, and its space."""
    folders = await in_thread(partial(needed_folders, patient.config, cache_folder()))
    return await in_thread(partial(_look_at_folders, folders))


def _look_at_folders(folders: Folders) -> list[Finding]:
    findings = [
        Finding(
            name="disk",
            status="error",
            found=f"{one.folder} cannot be written to: {one.reason}; for {', '.join(one.needed_for)}",
            cure=one.cure,
        )
        for one in unwritable(folders)
    ]
    refused = {need for one in unwritable(folders) for need in one.needed_for}
    needs: dict[Path, list[str]] = {}
    for need, folder in folders:
        if need not in refused:
            needs.setdefault(folder, []).append(need)
    return findings + [_space(", ".join(found), folder) for folder, found in needs.items()]


def _space(needs: str, folder: Path) -> Finding:
    """Write a file that has no name, since only that shows quotas and full disks; measure the space."""
    there = nearest_folder(folder)
    what = f"{folder} ({needs})"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
            file.flush()
        free = shutil.disk_usage(there).free
    except OSError as error:
        found = f"{what} cannot be written to: {error.strerror or error}"
        cure = "delete what is not needed (`run.py rm` deletes models), or raise the quota"
        return Finding(name="disk", status="error", found=found, cure=cure)
    found = f"{what}: {readable_size(free)} free"
    if free >= LOW_SPACE:
        return Finding(name="disk", status="ok", found=found)
    status: Status = "warning" if free >= NO_SPACE else "error"
    cure = "delete what is not needed (`run.py rm` deletes models), or use another disk"
    return Finding(name="disk", status=status, found=found, cure=cure)


async def check_ports(patient: Patient) -> Sequence[Finding]:
    """Look whether the gateway can listen, or does so already, and where its model servers can."""
    pool = patient.config.server_pool
    first = await _own_port(patient)
    try:
        port = await asyncio.to_thread(_free_port, PortBook(pool.host, pool.port_start))
    except (StartError, OverflowError) as error:
        cure = "set server_pool.port_start, or server_pool.host to an address of this machine"
        return [first, Finding(name="ports", status="error", found=f"model servers: {error}", cure=cure)]
    wanted = f"from {pool.port_start}" if pool.port_start else "any"
    found = f"model servers: {authority(pool.host, port)} is free ({wanted})"
    return [first, Finding(name="ports", status="ok", found=found)]


async def check_certificate(patient: Patient) -> Sequence[Finding]:
    """Look whether the certificate of `server.tls` can be used, and when it expires."""
    tls = patient.config.server.tls
    if not tls.enabled:
        return [Finding(name="TLS", status="absent", found="the gateway speaks plain HTTP")]
    try:
        expires = await in_thread(partial(expiry, tls))
    except ValueError as error:
        return [
            Finding(name="TLS", status="error", found=str(error), cure="set server.tls to a pair of files")
        ]
    return [judge_certificate(expires, datetime.now(UTC), str(tls.certificate))]


def judge_certificate(expires: datetime, now: datetime, file: str) -> Finding:
    """Judge a certificate by when it expires."""
    left = expires - now
    found = f"{file}: expires {expires:%Y-%m-%d %H:%M} UTC"
    if left > RENEWAL:
        return Finding(name="TLS", status="ok", found=found)
    status: Status = "warning" if left > timedelta() else "error"
    cure = "renew it; the gateway takes the new files without a restart"
    return Finding(name="TLS", status=status, found=found, cure=cure)


def _free_port(book: PortBook) -> int:
    port = book.take()
    book.give_back(port)
    return port


async def _own_port(patient: Patient) -> Finding:
    server = patient.config.server
    address = authority(server.host, server.port)
    if patient.serves:
        return Finding(name="ports", status="ok", found=f"{address}: this gateway listens")
    if not server.port:
        return Finding(name="ports", status="ok", found="server.port: 0 takes any free port")
    try:
        for one in await asyncio.to_thread(listening, server.host, server.port):
            one.close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and await asyncio.to_thread(_is_gateway, patient.config):
            return Finding(name="ports", status="ok", found=f"{address}: a gateway listens there already")
        found = f"{address}: {error.strerror or error}"
        return Finding(
            name="ports", status="error", found=found, cure=_PORT_CURES.get(error.errno or 0, ADDRESS)
        )
    return Finding(name="ports", status="ok", found=f"{address} is free")


ADDRESS = "set server.host to an address of this machine (127.0.0.1; 0.0.0.0 is all of them)"
_PORT_CURES = {
    errno.EADDRINUSE: "end the program that listens there, or set server.port (`run.py --port`)",
    errno.EACCES: "set server.port to 1024 or more, or give the gateway CAP_NET_BIND_SERVICE",
}


def _is_gateway(config: Config) -> bool:
    """Whether a gateway listens: it answers /health/live, and an unknown path in its own words."""
    with suppress(GatewayAwayError, GatewayRefusalError):
        return bool(ask(config, "GET", "/health/live", timeout=PORT_TIMEOUT) == {"status": "ok"})
    return False


async def check_files(patient: Patient) -> Sequence[Finding]:
    """Compare the limit of open files with what most clients need."""
    try:
        import resource  # noqa: PLC0415 (absent on Windows)
    except ImportError:
        return [Finding(name="open files", status="absent", found="this system has no such limit")]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [-1 if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard)]
    return [judge_files(*limits, queue_size=patient.config.server_pool.queue_size)]


def judge_files(soft: int, hard: int, *, queue_size: int) -> Finding:
    """Judge the limits of open files; -1 is no limit."""
    wanted = files_for(queue_size)
    # The gateway raises its soft limit itself.
    if -1 in (soft, hard) or max(soft, hard) >= wanted:
        return Finding(name="open files", status="ok", found=f"at least {wanted:,} are allowed")
    clients = most_clients(hard, queue_size)
    found = f"{hard:,} are allowed, which is enough for {clients:,} clients at the same time"
    cure = f"allow {wanted:,} (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of Docker)"
    status: Status = "warning" if clients >= FEW_CLIENTS else "error"
    return Finding(name="open files", status=status, found=found, cure=cure)
