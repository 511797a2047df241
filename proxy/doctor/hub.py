"""The hub, its token, and the clock by the hub's `Date`."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from actors.config.schema import Config
from actors.hub.download import HubError, download_session
from actors.hub.site import Access, Site
from proxy.doctor.checks import Finding, Patient

EARLIEST = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
"""No clock that is right shows an earlier time."""
TOLERANCE = 60.0
"""Seconds that the clock may differ from the hub's."""

SET_CLOCK = "set the clock, and let it be kept (timedatectl set-ntp true)"

ACCESS: dict[Access, str] = {
    "anonymous": "no token: public repositories only",
    "granted": "the token is accepted",
    "unknown": "the token cannot be checked there",
}


async def check_hub(patient: Patient) -> Sequence[Finding]:
    """Ask the hub, if any model may come from it; compare the clock with the hub's."""
    now = time.time()
    if (reason := _unused(patient.config)) is not None:
        return [Finding(name="hub", status="absent", found=reason), clock(now, None)]
    async with download_session() as session:
        try:
            state = await Site(patient.config.hub, session).look()
        except HubError as error:
            cure = "check the network, HTTPS_PROXY and hub.endpoint; without a network set hub.offline: true"
            found = Finding(name="hub", status="error", found=str(error), cure=cure)
            return [found, clock(now, None)]
    if state.access == "refused":
        cure = "make a new token at the hub, and set hub.token (or HF_TOKEN, or `hf auth login`)"
        found = Finding(
            name="hub", status="error", found=f"{state.endpoint}: the token is refused", cure=cure
        )
    else:
        found = Finding(name="hub", status="ok", found=f"{state.endpoint}; {ACCESS[state.access]}")
    return [found, clock(time.time(), state.clock)]


def _unused(config: Config) -> str | None:
    """Return why the hub is not asked; None if it may be needed."""
    if config.hub.offline:
        return "not asked: hub.offline is set"
    if not config.hub.allow and not any(model.repo for model in config.llama_cpp.models.values()):
        return "not asked: no model comes from it"
    return None


def clock(now: float, other: float | None) -> Finding:
    """Judge this machine's clock by the hub's, if it is known. Both are Unix times."""
    shown = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if other is not None and abs(now - other) > TOLERANCE:
        found = (
            f"{shown} is {abs(now - other):,.0f} s {'ahead of' if now > other else 'behind'} the hub's clock"
        )
        return Finding(name="time", status="error", found=found, cure=SET_CLOCK)
    if now < EARLIEST:
        return Finding(name="time", status="error", found=f"{shown} is long past", cure=SET_CLOCK)
    words = "not compared with another clock" if other is None else "as the hub's clock"
    return Finding(name="time", status="ok", found=f"{shown}, {words}")
