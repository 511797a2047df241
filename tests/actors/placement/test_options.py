"""The ways to run a model, against what `predict` says of each of them."""

import time
from functools import cache

import msgspec
import pytest

from actors.memory.flags import EXPERTS
from actors.memory.prediction.layers import repacked
from actors.memory.prediction.predict import predict
from actors.memory.prediction.results import MemoryUsage, Prediction
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape
from actors.placement.fit import Share, fit
from actors.placement.options import (
    SERVER,
    SMALLEST_CONTEXT,
    Demand,
    Draft,
    Option,
    Projector,
    demand_of,
    demand_of_size,
)
from tests.actors.memory.zoo import MODELS, model

MIB, GIB = 1 << 20, 1 << 30
SMALL = GIB // 2
"""Capacity in GPUs with which no model of the zoo is satisfied, so that all ways are there."""

SETTINGS = {
    "plain": LoadSettings(),
    "shared cache": LoadSettings(context=32768, parallel=4, unified=True),
    "no flash": LoadSettings(context=8192, flash_attention=False),
    "large batch": LoadSettings(context=32768, micro_batch=2048),
    "small cache": LoadSettings(context=32768, type_k="Q8_0", type_v="Q8_0"),
}
ALL = sorted(MODELS)


@cache
def shape(name: str) -> Shape:
    return Shape(model(name))


@cache
def demand(name: str, said: str) -> Demand:
    return demand_of(shape(name), SETTINGS[said], capacity=SMALL)


def exact(name: str, asked: LoadSettings, option: Option, split: tuple[float, ...] = (1.0,)) -> Prediction:
    chosen = msgspec.structs.replace(
        asked,
        context=option.context,
        gpu_layers=option.gpu_layers,
        overrides=option.overrides,
        tensor_split=split,
    )
    return predict(shape(name), chosen, [1] * len(split))


def ways(name: str) -> list[tuple[str, Option]]:
    """The ways, many of those with fewer and fewer layers, and the settings that they are of."""
    found = []
    for said in SETTINGS:
        options = demand(name, said).options
        partial = [option for option in options if option.how == "partial"]
        found += [(said, option) for option in options if option.how != "partial"]
        found += [(said, option) for option in partial[::3]]
    return found


@pytest.mark.parametrize("name", ALL)
def test_on_one_gpu_it_is_what_is_predicted(name: str) -> None:
    for said, option in ways(name):
        if option.how == "host":
            continue
        predicted = exact(name, SETTINGS[said], option).gpus[0].total
        assert option.on_one >= predicted, (option.how, option.gpu_layers)
        if option.how != "partial":
            assert option.on_one == predicted, option.how
        # Ranges of layers share one figure; no more than this is lost by that.
        assert option.on_one <= 1.05 * predicted + 16 * MIB, (option.how, option.gpu_layers)


@pytest.mark.parametrize("name", ALL)
def test_what_the_host_takes(name: str) -> None:
    for said, option in ways(name):
        if option.how == "host":
            host = predict(shape(name), SETTINGS[said], []).host
        else:
            host = exact(name, SETTINGS[said], option).host
        pinned = SERVER + host.kv + host.compute + host.output
        if option.how == "host":  # some weights are packed again
            again = repacked(shape(name))
            assert (option.pinned, option.mapped) == (pinned + again, max(0, host.weights - again))
            continue
        assert option.pinned >= pinned, (option.how, option.gpu_layers)
        # Rows of some types are padded on GPUs; it is no matter for what can be dropped and read again.
        assert option.mapped >= 0.99 * host.weights - MIB, (option.how, option.gpu_layers)
        assert option.mapped <= 1.01 * host.weights + MIB, (option.how, option.gpu_layers)
        if option.how != "partial":
            assert (option.pinned, option.mapped) == (pinned, host.weights), option.how
        # Some of it may be counted twice, but no layer's cache.
        assert option.pinned <= 1.05 * pinned + 64 * MIB, (option.how, option.gpu_layers)


class Split(msgspec.Struct, frozen=True):
    """A way over several GPUs, as `fit` chose it and as `predict` sees it."""

    said: str
    option: Option
    shares: tuple[Share, ...]
    predicted: Prediction

    @property
    def words(self) -> str:
        counts = [share.layers for share in self.shares]
        return f"{self.said}, {self.option.how}, {self.option.gpu_layers}: {counts}"


@cache
def splits(name: str) -> tuple[Split, ...]:
    """Ways over two to four GPUs, even and uneven, with little to spare."""
    found = []
    for said, asked in SETTINGS.items():
        options = demand(name, said).on_gpus
        partial = [option for option in options if option.how == "partial"]
        for option in [option for option in options if option.how != "partial"] + partial[::24]:
            assert option.shared is not None
            for rooms in ((1, 1), (3, 1), (1, 1, 1), (1, 2, 3), (4, 1, 1, 2), (1, 6, 2, 1)):
                size = 1.1 * sum(option.layers)
                free = {
                    str(gpu): int(size * room / sum(rooms)) + option.shared for gpu, room in enumerate(rooms)
                }
                shares = fit(option, free, strategy="distribute")
                if shares is not None and len(shares) > 1:
                    counts = tuple(float(share.layers) for share in shares)
                    found.append(Split(said, option, shares, exact(name, asked, option, counts)))
    return tuple(found)


@pytest.mark.parametrize("name", ALL)
def test_over_several_gpus_no_share_is_less_than_predicted(name: str) -> None:
    assert len(splits(name)) > 25
    for split in splits(name):
        for gpu, share in enumerate(split.shares):
            assert split.predicted.layers.count(gpu) == share.layers, split.words
            assert share.bytes >= split.predicted.gpus[gpu].total, (split.words, gpu)


@pytest.mark.parametrize(
    ("how", "median", "ninth", "worst"),
    [("whole", 0.02, 0.06, 0.7), ("partial", 0.06, 0.3, 1.5), ("experts on host", 0.4, 1.1, 2.0)],
)
def test_what_a_split_wastes(how: str, median: float, ninth: float, worst: float) -> None:
    """Over all its GPUs, relative to what is predicted for just that split.

    Seen of `whole`: median 1 %, nine tenths 4 %, worst 50 % (gemma3-1b with large batches, over four GPUs:
    its output is most of it). With experts on the host each is given what a single GPU would compute in.
    """
    wasted = sorted(
        sum(share.bytes for share in split.shares) / sum(usage.total for usage in split.predicted.gpus) - 1
        for name in ALL
        for split in splits(name)
        if split.option.how == how
    )
    quantiles = [wasted[int((len(wasted) - 1) * part)] for part in (0.5, 0.9, 1)]
    print(how, len(wasted), [f"{100 * part:.1f} %" for part in (wasted[0], *quantiles)])
    assert all(seen < limit for seen, limit in zip(quantiles, (median, ninth, worst), strict=True))


def test_the_layers_on_gpus_are_counted_down() -> None:
    known = shape("llama8b")
    partial = [option for option in demand("llama8b", "plain").options if option.how == "partial"]
    assert [option.gpu_layers for option in partial] == list(range(known.layers, 0, -1))
    whole = demand("llama8b", "plain").options[0]
    assert (whole.how, whole.gpu_layers, len(whole.layers)) == ("whole", None, known.layers + 1)
    for option in partial:
        # The last ones are on the GPU, and the output with them.
        assert option.gpu_layers is not None
        assert option.layers == whole.layers[-option.gpu_layers :]


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_preference(name: str) -> None:
    asked = LoadSettings(context=65536, parallel=2)
    options = demand_of(shape(name), asked, automatic=True, capacity=SMALL).options
    order = [option.how for option in options]
    ranks = {"whole": 0, "experts on host": 1, "partial": 2, "host": 3}
    assert order == sorted(order, key=lambda how: ranks[how])
    assert order[-1] == "host"
    assert order.count("experts on host") == bool(shape(name).number("expert_count"))
    whole = [option for option in options if option.how == "whole"]
    assert [option.context for option in whole] == [65536, 32768, 16384, 8192]
    sizes = [option.on_one for option in whole]
    assert sizes == sorted(sizes, reverse=True)
    if any(shape(name).attends):
        assert sizes[0] > sizes[-1]


def test_experts_on_the_host() -> None:
    experts = next(option for option in demand("mixtral", "plain").options if option.how == "experts on host")
    assert experts.overrides == EXPERTS
    assert experts.gpu_layers is None
    # 32 layers of 8 experts are nearly all of its 26 GiB.
    assert experts.mapped > 20 * GIB
    assert sum(experts.layers) < 3 * GIB


@pytest.mark.parametrize(
    ("context", "parallel", "contexts"),
    [
        (65536, 1, [65536, 32768, 16384, 8192]),
        (1 << 20, 1, [1 << 20, 1 << 19, 1 << 18, 1 << 17, 1 << 16]),
        (65536, 8, [65536, 32768, 16384]),
        (12000, 1, [12000]),
        (4096, 1, [4096]),
        (40960, 1, [40960, 20480, 10240]),
    ],
)
def test_an_automatic_context_is_halved(context: int, parallel: int, contexts: list[int]) -> None:
    asked = LoadSettings(context=context, parallel=parallel)
    options = demand_of(shape("qwen3-8b"), asked, automatic=True, capacity=SMALL).options
    assert [option.context for option in options if option.how == "whole"] == contexts
    assert all(option.context == contexts[-1] for option in options if option.how == "partial")
    assert contexts[-1] >= min(SMALLEST_CONTEXT, context)


def test_a_context_that_somebody_chose_stays() -> None:
    options = demand_of(shape("qwen3-8b"), LoadSettings(context=65536), capacity=SMALL).options
    assert {option.context for option in options} == {65536}


def test_what_large_gpus_will_not_need_is_left_out() -> None:
    asked = LoadSettings(context=65536)
    options = demand_of(shape("qwen3-8b"), asked, automatic=True, capacity=1000 * GIB)
    assert [(option.how, option.context) for option in options.on_gpus] == [("whole", 65536)]
    # Without GPUs there is nothing to shrink it for but the host.
    options = demand_of(shape("qwen3-8b"), asked, automatic=True)
    assert [(option.how, option.context) for option in options.on_gpus] == [("whole", 65536)]
    assert [option.context for option in options.on_host] == [65536, 32768, 16384, 8192]
    pinned = [option.pinned for option in options.on_host]
    assert pinned == sorted(pinned, reverse=True)


def test_parts_are_there_for_one_that_may_have_one_gpu_of_many() -> None:
    """Eight GPUs have room for twice the model, but a model that must not be split gets one."""
    options = demand_of(shape("llama70b"), LoadSettings(split=False), capacity=8 * 24 * GIB).options
    assert options[0].on_one > 24 * GIB
    assert any(option.how == "partial" for option in options)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (0, [("host", 0)]),
        (10, [("partial", 10)]),
        (36, [("partial", 36)]),
        (37, [("whole", None)]),
        (999, [("whole", None)]),
    ],
)
def test_layers_that_the_user_chose(layers: int, expected: list[tuple[str, int | None]]) -> None:
    options = demand_of(shape("qwen3-8b"), LoadSettings(gpu_layers=layers), capacity=SMALL).options
    assert [(option.how, option.gpu_layers) for option in options] == expected
    if layers:
        predicted = predict(shape("qwen3-8b"), LoadSettings(gpu_layers=layers), [1]).gpus[0].total
        assert options[0].on_one == predicted
        assert len(options[0].layers) == min(layers, 37)


def test_tensors_that_the_user_put_on_the_host() -> None:
    mine = r"blk\.[0-9]\.ffn_.*_exps"
    asked = LoadSettings(overrides=mine)
    options = demand_of(shape("qwen3moe-30b"), asked, capacity=SMALL).options
    assert [option.how for option in options] == ["whole", "host"]
    assert options[0].overrides == mine
    assert options[0].on_one == predict(shape("qwen3moe-30b"), asked, [1]).gpus[0].total
    assert options[0].certainty == "bound"


def test_a_model_that_must_not_be_split_has_no_shares() -> None:
    options = demand_of(shape("qwen3-8b"), LoadSettings(split=False), capacity=SMALL).options
    assert {option.shared for option in options if option.how != "host"} == {None}


def test_a_projector_goes_to_the_first_gpu() -> None:
    tower = MemoryUsage(weights=800 * MIB, compute=120 * MIB)
    projector = Projector(device=tower, host=MemoryUsage(compute=5 * MIB))
    plain = demand("qwen2-7b", "plain").options
    options = demand_of(shape("qwen2-7b"), LoadSettings(), projector=projector, capacity=SMALL).options
    for before, after in zip(plain[:-1], options[:-1], strict=True):
        assert after.on_one == before.on_one + 920 * MIB
        assert after.pinned == before.pinned + 5 * MIB
        assert after.certainty == "bound"
    assert options[-1].pinned == plain[-1].pinned + 125 * MIB
    assert options[-1].mapped == plain[-1].mapped + 800 * MIB
    rooms = {"a": 3 * GIB, "b": 3 * GIB}
    with_it, without = fit(options[0], rooms), fit(plain[0], rooms)
    assert with_it is not None
    assert without is not None
    assert with_it[0].layers < without[0].layers


def test_settings_that_llama_cpp_refuses() -> None:
    header = model("qwen3-0.6b")
    odd = {**header.metadata, "qwen3.attention.key_length": 80, "qwen3.attention.head_count_kv": 1}
    known = Shape(msgspec.structs.replace(header, metadata=odd))
    with pytest.raises(ValueError, match="needs rows in blocks of 32"):
        demand_of(known, LoadSettings(type_k="Q8_0"), capacity=SMALL)


def test_a_file_of_which_nothing_is_known() -> None:
    whole, host = demand_of_size(4 * GIB, LoadSettings(), capacity=SMALL).options
    assert (whole.how, whole.on_one, whole.certainty) == ("whole", 5 * GIB, "fallback")
    assert whole.shared is None
    assert (host.how, host.pinned, host.mapped) == ("host", SERVER + GIB, 4 * GIB)


def test_a_file_of_which_only_the_layers_are_known() -> None:
    layers = [GIB] * 7
    whole, *parts, host = demand_of_size(8 * GIB, LoadSettings(), layers, capacity=SMALL).options
    assert (whole.how, whole.on_one, len(whole.layers), whole.shared) == ("whole", 10 * GIB, 8, GIB)
    assert [part.gpu_layers for part in parts] == [7, 6, 5, 4, 3, 2, 1]
    for part in parts:
        assert part.gpu_layers is not None
        assert part.mapped == (8 - part.gpu_layers) * GIB
        assert part.on_one == (part.gpu_layers * 9 + 8) * GIB // 8
    assert (host.how, host.mapped) == ("host", 8 * GIB)
    # Over two GPUs, as llama.cpp splits layers.
    shares = fit(whole, {"a": 6 * GIB, "b": 6 * GIB})
    assert shares is not None
    assert [(share.layers, share.bytes) for share in shares] == [(4, 4 * GIB * 9 // 8 + GIB)] * 2
    assert demand_of_size(8 * GIB, LoadSettings(split=False), layers).options[0].shared is None


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, [("whole", None), ("host", 0)]),
        (0, [("host", 0)]),
        (2, [("partial", 2)]),
        (99, [("whole", None)]),
    ],
)
def test_layers_that_the_user_chose_of_an_unknown_file(
    layers: int | None, expected: list[tuple[str, int | None]]
) -> None:
    known = demand_of_size(4 * GIB, LoadSettings(gpu_layers=layers), [GIB] * 3, capacity=100 * GIB)
    assert [(option.how, option.gpu_layers) for option in known.options] == expected


def test_it_is_fast() -> None:
    slowest = 0.0
    for name in ("dsv3", "llama70b", "qwen3next-80b"):
        known = shape(name)
        began = time.process_time()
        demand_of(
            known, LoadSettings(context=131072, parallel=4, unified=True), automatic=True, capacity=SMALL
        )
        slowest = max(slowest, time.process_time() - began)
    assert slowest < 1, "a benchmark would say 0.1"


def test_a_draft_model_has_the_context_of_its_model() -> None:
    """Its figures beside a model were those of llama-server's own dry run (build 11434, on the CPU)."""
    draft = Draft(shape=Shape(model("smollm2-135m")), settings=LoadSettings(type_k="Q8_0", type_v="Q8_0"))
    asked = LoadSettings(context=16384, parallel=4, unified=True, drafted=3)
    beside = draft.beside(asked, Projector())
    alone = predict(Shape(model("smollm2-135m")), LoadSettings(context=16384, parallel=4, unified=True), [1])
    assert beside.device.kv == alone.gpus[0].kv * 17 // 32
    assert beside.device.weights == alone.gpus[0].weights
    assert beside.mapped == alone.host.weights
    on_host = draft.beside(msgspec.structs.replace(asked, gpu_layers=0), Projector())
    target = predict(Shape(model("llama1b")), asked, []).host
    assert (target.kv + on_host.host.kv) / MIB == pytest.approx(703, abs=1)
    assert (target.compute + on_host.host.compute) / MIB == pytest.approx(114, abs=1)
    with_draft, without = (
        demand_of(Shape(model("llama1b")), asked, draft=each, capacity=8 << 30).options[0]
        for each in (draft, None)
    )
    assert with_draft.on_one - without.on_one == beside.device.total
    assert with_draft.certainty == "bound"


def test_locked_weights_are_hard_memory() -> None:
    soft, hard = (
        demand_of(Shape(model("llama1b")), LoadSettings(locked=locked), capacity=8 << 30).options
        for locked in (False, True)
    )
    for one, other in zip(soft, hard, strict=True):
        assert (other.mapped, other.pinned) == (0, one.pinned + one.mapped)
    assert soft[-1].mapped > 300 * MIB


def test_an_own_head_is_loaded_and_drafts() -> None:
    header = model("llama8b")
    changed = {**header.metadata, "llama.nextn_predict_layers": 1}
    shape = Shape(msgspec.structs.replace(header, metadata=changed))
    without, having = (
        predict(shape, LoadSettings(context=8192, drafted=3 * head, own_head=head), [1])
        for head in (False, True)
    )
    whole = predict(Shape(header), LoadSettings(context=8192), [1])
    assert having.gpus[0].weights == whole.gpus[0].weights > without.gpus[0].weights
    assert having.gpus[0].kv == whole.gpus[0].kv > without.gpus[0].kv
    assert having.gpus[0].compute >= 2 * without.gpus[0].compute
    assert (without.certainty, having.certainty) == ("exact", "bound")


def test_what_a_server_grows_by_is_hard_memory() -> None:
    limits = LoadSettings(prompt_cache=512, checkpoints=2)
    for shape, more in ((Shape(model("llama1b")), 0), (Shape(model("gemma3-27b")), 2 * 416 * MIB)):
        asked = msgspec.structs.replace(limits, context=8192)
        grown, plain = demand_of(shape, asked), demand_of(shape, LoadSettings(context=8192))
        for one, other in zip(grown.options, plain.options, strict=True):
            assert one.grows == one.pinned - other.pinned == 512 * MIB + more


def test_weights_that_are_packed_again_are_hard_memory() -> None:
    """llama-server's dry run (build 11434, on the CPU) said 3,204 MiB of 4,403."""
    packed, plain = (
        demand_of(Shape(model("llama8b")), LoadSettings(repack=repack)).options[-1]
        for repack in (True, False)
    )
    assert packed.how == "host"
    assert (packed.pinned - plain.pinned) // MIB == 3204
    assert packed.pinned + packed.mapped == plain.pinned + plain.mapped
