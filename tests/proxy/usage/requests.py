"""Finished requests, for tests of the ledger."""

from typing import Any

from proxy.access.keys import Key
from proxy.exchange import Exchange


def request(model: str | None = "small", **facts: Any) -> Exchange:
    """A finished request with these facts."""
    exchange = Exchange("POST", "/v1/chat/completions", facts.pop("request_id", "an-id"))
    exchange.endpoint = "/v1/chat/completions"
    exchange.recorded = True
    exchange.model = model
    exchange.status = 200
    if (key := facts.pop("key", None)) is not None:
        exchange.key = Key(name=key, digest=b"", hint="")
    for name, value in facts.items():
        setattr(exchange, name, value)
    return exchange
