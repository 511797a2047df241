"""A user reads what the model's load does, where the model's reasoning would be."""

from tests.conftest import Start
from tests.e2e.test_failures import stand_in
from tests.gateway import HELLO


def test_a_load_is_told_in_the_reasoning(start: Start) -> None:
    models = {"slow": {**stand_in("slow-load"), "loading_state": "reasoning"}}
    gateway = start(models)
    body = {"model": "slow", "messages": HELLO, "stream": True}
    told = gateway.client.post("/v1/chat/completions", json=body)
    assert told.status_code == 200
    assert '"reasoning_content":"[gateway] slow: loading' in told.text
    assert told.text.rstrip().endswith("data: [DONE]")
    assert "[gateway]" not in gateway.client.post("/v1/chat/completions", json=body).text, "it is loaded"
