"""Every wrong answer of a model server, on every API, streamed and whole: none is told as a whole one."""

from collections.abc import Iterator

import httpx

from tests.attack.fault_server import ERROR, FAULTS, Verdict
from tests.attack.ground import Bystander, Gateway

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
    "/completion",
    "/api/chat",
    "/api/generate",
)
ENDS = {
    "/v1/messages": b'"message_stop"',
    "/v1/responses": b"event: response.completed",
    "/completion": b'"stop":true',
    "/api/chat": b'"done":true',
    "/api/generate": b'"done":true',
}
ERRORS = (b'"error"', b"event: error")


def attack(gateway: Gateway, bystander: Bystander) -> Iterator[str]:
    """Ask for every fault; yield what is wrong with what came, and what it cost the bystander."""
    for name, (verdict, _) in FAULTS.items():
        for path in PATHS:
            for stream in (True, False):
                if fault := _fault(gateway, name, verdict, path, stream):
                    yield f"{name} on {path}, {'streamed' if stream else 'whole'}: {fault}"
                yield from (f"{name} on {path}: {fault}" for fault in bystander.faults())
    if gateway.memory > 500 * 2**20:
        yield f"the gateway has {gateway.memory >> 20} MiB in memory"


def _fault(gateway: Gateway, name: str, verdict: Verdict, path: str, stream: bool) -> str | None:
    try:
        answer = gateway.chat(f"do:{name}", path=path, stream=stream)
    except httpx.TimeoutException:
        return "no answer within a minute"
    except httpx.TransportError as error:
        # A cut connection is an honest end where no error frame can be.
        return None if verdict != "whole" else f"cut: {error}"
    whole = tells_whole(path, answer, stream)
    # Its own words about itself are passed on.
    if answer.status_code == 500 and ERROR["message"] not in answer.text:
        return f"500 {answer.text[:200]}"
    if verdict == "broken" and whole:
        return f"told as whole: {answer.status_code} {answer.text[-200:]!r}"
    if verdict == "whole" and not whole:
        return f"told as broken: {answer.status_code} {answer.text[-200:]!r}"
    return None


def tells_whole(path: str, answer: httpx.Response, stream: bool) -> bool:
    """Whether a client of this API takes the answer for a whole one."""
    if answer.status_code != 200:
        return False
    content = answer.content.replace(b'": ', b'":').replace(b'"error":null', b"")
    if any(error in content for error in ERRORS):
        return False
    return not stream or ENDS.get(path, b"data: [DONE]") in content
