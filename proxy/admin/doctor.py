"""`/admin/doctor`: what works on this machine, what does not, and the cure. Changes nothing."""

import asyncio
from pathlib import Path

import msgspec
from aiohttp import web

from actors.config.changes import CurrentConfig
from actors.runtime import spawn
from proxy.admin.routes import Route
from proxy.doctor.checks import Finding
from proxy.doctor.diagnosis import diagnose


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `/admin/doctor`."""

    checks: list[Finding]


class DoctorView:
    """Runs the checks on request. Requests at the same time share one run."""

    def __init__(self, current: CurrentConfig, file: Path) -> None:
        self._current = current
        self._file = file
        self._running: asyncio.Task[list[Finding]] | None = None

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        return (Route(method="GET", path="/admin/doctor", handler=self.doctor, answer=Diagnosis),)

    async def doctor(self, _request: web.Request) -> web.Response:
        """Check what the gateway needs on this machine: what works, what does not, and the cure."""
        if self._running is None or self._running.done():
            self._running = spawn(diagnose(self._current.config, self._file, serves=True), name="doctor")
        await asyncio.wait([self._running])
        answer = Diagnosis(checks=self._running.result())
        return web.json_response(msgspec.to_builtins(answer))
