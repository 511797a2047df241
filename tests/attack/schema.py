"""Requests that are made from the gateway's OpenAPI document: answers must be as it says, and no defects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CheckFunction
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.gateway import HELLO, Gateway, Json, running


def has_no_defect(_context: Any, response: Any, case: Any) -> None:
    """500 is a defect. 502 to 504 tell of something outside."""
    if response.status_code == 500:
        raise Failure(operation=case.operation.label, title="Defect", message=response.text[:300])


CHECKS: list[CheckFunction] = [
    has_no_defect,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SKIPPED = {"/admin/drain": "ends the gateway", "/admin/events": "has no end"}
TIMEOUT = 30
"""Seconds for one answer."""

VALID = schemathesis.GenerationMode.POSITIVE
INVALID = schemathesis.GenerationMode.NEGATIVE


def config(folder: str) -> Json:
    """The configuration of a gateway that may be asked anything: it reaches nothing outside."""
    return {
        "keys": {"root": {"secret": SECRET, "admin": True}},
        "hub": {"offline": True, "cache_dir": folder},
        "agents": ["vram"],
        "server_pool": {"queue_timeout": 20},
    }


SECRET = "secret-of-the-operator"


def attack(gateway: Gateway, *, examples: int, mode: schemathesis.GenerationMode = VALID) -> Iterator[str]:
    """Send so many requests to each operation; yield what is wrong with the answers."""
    document = gateway.client.get("/openapi.json", headers=HEADERS).json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=gateway.url)
    faults: list[str] = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), f"{result.err()}"
        operation = result.ok()
        if operation.path not in SKIPPED and (mode is VALID or _can_be_wrong(operation.definition.raw)):
            faults += _faults(operation, examples, mode)
    yield from dict.fromkeys(faults)


HEADERS = {"Authorization": f"Bearer {SECRET}"}


def _can_be_wrong(operation: Json) -> bool:
    """Whether a request may break the document's rules: for texts and free bodies there are none."""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return "schema" in body or any(one["in"] == "query" for one in operation["parameters"])


def attack_alone(folder: Path, examples: int) -> Iterator[str]:
    """Attack a gateway of its own, with valid requests and with invalid ones."""
    folder.mkdir()
    models = {"llama_cpp": {"models": {"demo": {"path": "builtin:demo", "ctx_size": 4096}}}}
    with running({**config(str(folder / "hub")), **models}, folder) as gateway:
        for mode in (VALID, INVALID):
            yield from attack(gateway, examples=examples, mode=mode)


def _faults(operation: Any, examples: int, mode: schemathesis.GenerationMode) -> list[str]:
    faults: list[str] = []
    count = 0

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        nonlocal count
        count += 1
        _aim(case, count)
        response = case.call(headers=HEADERS, timeout=TIMEOUT)
        try:
            case.validate_response(response, checks=CHECKS)
        except (Failure, FailureGroup) as error:
            asked = f"{response.request.method} {response.request.url} {response.request.body!r:.300}"
            faults.append(
                f"{operation.label}: {error}\n    {asked}: {response.status_code} {response.text[:300]}"
            )

    try:
        send()
    except Unsatisfiable:
        assert mode is INVALID, f"{operation.label}: no request can be made"  # all are valid
    return faults


def _aim(case: Any, number: int) -> None:
    """Let every second request be for a model that is there, and ask for no stream without end."""
    if isinstance(case.body, dict) and "model" in case.body and number % 2:
        case.body = {**case.body, "model": "demo", "stream": number % 4 == 1}
        if "messages" in case.body and number % 6 == 1:
            case.body["messages"] = HELLO
    if case.query and "follow" in case.query:
        case.query["follow"] = False
    if case.query and "wait" in case.query:
        case.query["wait"] = 0
