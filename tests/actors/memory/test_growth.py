"""What a server takes of main memory while it works: limits, and the figures of its log."""

import msgspec
import pytest

from actors.memory.growth import checkpoint_bytes, growth, with_limits
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape
from tests.actors.memory.headers import shape as recorded
from tests.actors.memory.zoo import model

MIB, GIB = 1 << 20, 1 << 30
ASKED = LoadSettings(context=32768, parallel=4, unified=True)


def zoo(name: str) -> Shape:
    return Shape(model(name))


def test_a_checkpoint_has_the_windows_of_a_model() -> None:
    """llama-server's log said 416 MiB for gemma3-27b."""
    assert checkpoint_bytes(zoo("gemma3-27b"), ASKED) == 416 * MIB
    short = msgspec.structs.replace(ASKED, context=512)
    assert checkpoint_bytes(zoo("gemma3-27b"), short) == 208 * MIB
    whole = msgspec.structs.replace(ASKED, full_window=True)
    assert checkpoint_bytes(zoo("gemma3-27b"), whole) == 0


def test_a_checkpoint_has_the_states_of_a_model() -> None:
    hybrid = zoo("qwen35-9b")
    assert checkpoint_bytes(hybrid, ASKED) == sum(hybrid.recurrent) * 4 * (
        hybrid.conv_state + hybrid.ssm_state
    )
    assert checkpoint_bytes(zoo("llama8b"), ASKED) == 0
    assert checkpoint_bytes(recorded("bge-m3"), ASKED) == 0


@pytest.mark.parametrize(
    ("host", "cache", "checkpoints"),
    [(16 * GIB, 512, 1), (64 * GIB, 2048, 1), (256 * GIB, 8192, 4), (4096 * GIB, 8192, 32), (1 * GIB, 0, 1)],
)
def test_the_limits_suit_the_host(host: int, cache: int, checkpoints: int) -> None:
    found = with_limits(zoo("gemma3-27b"), ASKED, host)
    assert (found.prompt_cache, found.checkpoints) == (cache, checkpoints)
    assert growth(zoo("gemma3-27b"), found) == cache * MIB + checkpoints * 4 * 416 * MIB


def test_what_the_user_chose_stays() -> None:
    chosen = msgspec.structs.replace(ASKED, prompt_cache=100, checkpoints=2)
    assert with_limits(zoo("gemma3-27b"), chosen, 16 * GIB) == chosen


def test_a_model_that_embeds_saves_nothing() -> None:
    for each in (recorded("bge-m3"), zoo("llama8b")):
        found = with_limits(each, msgspec.structs.replace(ASKED, pooling="mean"), 64 * GIB)
        assert growth(each, found) == 0


def test_without_limits_nothing_is_known() -> None:
    assert growth(zoo("gemma3-27b"), ASKED) == 0
