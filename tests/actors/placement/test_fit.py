"""Where a way to run a model goes, on GPUs with so many bytes of room."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.memory.prediction.predict import predict
from actors.memory.prediction.results import HOST
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape
from actors.placement.fit import Placement, Share, Wish, fit, mib
from actors.placement.options import MIB, Demand, Option, demand_of
from tests.actors.memory.zoo import MODELS, model
from tests.effort import examples

GIB = 1 << 30


@cache
def shape(name: str) -> Shape:
    return Shape(model(name))


@cache
def demand(name: str) -> Demand:
    return demand_of(shape(name), LoadSettings(context=8192), capacity=MIB)


def first_that_fits(name: str, rooms: Sequence[float]) -> Placement:
    """As the allocator goes through the ways, on idle GPUs with so many GiB."""
    free = {str(gpu): int(gib * GIB) for gpu, gib in enumerate(rooms)}
    for option in demand(name).options:
        shares = fit(option, free)
        if shares is not None:
            return Placement(option=option, shares=shares, why="it fits")
    raise AssertionError("the host has room for all")


def layered(*layers: int, compute: int = 0, shared: int | None = 0, projector: int = 0) -> Option:
    return Option(how="whole", context=1, layers=layers, compute=compute, shared=shared, projector=projector)


def counts(shares: Sequence[Share] | None) -> dict[str, int] | None:
    return None if shares is None else {share.device: share.layers for share in shares}


@pytest.mark.parametrize(
    ("name", "rooms", "how", "gpus"),
    [
        ("llama8b", [24], "one GPU", "0"),
        ("llama8b", [80, 8, 24], "one GPU", "1"),
        ("llama8b", [6, 6, 6], "one GPU", "0"),
        ("llama70b", [24, 24], "split", "01"),
        ("llama70b", [24, 8, 24, 40], "split", "03"),
        ("llama70b", [40, 8, 24, 24], "split", "02"),
        ("llama70b", [16, 16, 16], "split", "012"),
        ("llama70b", [24], "partial", "0"),
        ("qwen3moe-30b", [12], "experts on host", "0"),
        ("qwen3moe-30b", [1.7], "partial", "0"),
        ("llama8b", [0.4], "host", ""),
        ("llama8b", [], "host", ""),
    ],
)
def test_the_order(name: str, rooms: list[float], how: str, gpus: str) -> None:
    placement = first_that_fits(name, rooms)
    assert (placement.how, "".join(share.device for share in placement.shares)) == (how, gpus)


def test_a_byte_less_is_too_little() -> None:
    (option, *_) = demand("llama8b").options
    assert option.shared is not None
    assert fit(option, {"a": option.on_one}) == (Share(device="a", layers=33, bytes=option.on_one),)
    assert fit(option, {"a": option.on_one - 1}) is None


@pytest.mark.parametrize(("less", "fits"), [(0, True), (1, False)])
def test_a_byte_less_is_too_little_for_a_split(less: int, fits: bool) -> None:
    option = layered(10, 20, 30, 40, compute=1000, shared=5, projector=7)
    # 10 + 20 + 30 + 5 + 7 on the first, 40 + 5 on the second.
    shares = fit(option, {"a": 72, "b": 45 - less})
    assert counts(shares) == ({"a": 3, "b": 1} if fits else None)
    if shares:
        assert [share.bytes for share in shares] == [72, 45]


def test_the_smallest_gap_that_will_do() -> None:
    option = layered(10)
    assert counts(fit(option, {"a": 30, "b": 11, "c": 9, "d": 20})) == {"b": 1}
    assert counts(fit(option, {"a": 11, "b": 11})) == {"a": 1}, "and the first of equals"


def test_as_few_gpus_as_will_do_and_the_roomiest() -> None:
    option = layered(*[10] * 8)
    assert counts(fit(option, {"a": 30, "b": 50, "c": 20, "d": 40})) == {"b": 4, "d": 4}
    assert counts(fit(option, {"a": 30, "b": 30, "c": 20, "d": 5})) == {"a": 3, "b": 3, "c": 2}
    assert fit(layered(*[10] * 8, shared=None), {"a": 79, "b": 79}) is None, "it cannot be split"
    assert fit(option, {}) is None


def test_layers_are_in_proportion_to_the_room() -> None:
    assert counts(fit(layered(*[1] * 40), {"a": 30, "b": 10, "c": 1})) == {"a": 30, "b": 10}
    assert counts(fit(layered(*[1] * 20, compute=100), {"a": 60, "b": 20})) == {"a": 15, "b": 5}


def test_over_all_if_that_is_wanted() -> None:
    rooms = {"a": 100, "b": 50, "c": 50}
    option = layered(*[1] * 20)
    assert counts(fit(option, rooms)) == {"b": 20}
    assert counts(fit(option, rooms, strategy="distribute")) == {"a": 10, "b": 5, "c": 5}
    # What cannot be split has one, and a GPU without room for its part is left out.
    assert counts(fit(layered(20, shared=None), rooms, strategy="distribute")) == {"b": 1}
    assert counts(fit(layered(5, 5, shared=10), {"a": 30, "b": 30, "c": 8}, strategy="distribute")) == {
        "a": 1,
        "b": 1,
    }


def test_instances_that_a_model_has_alone() -> None:
    rooms = {"mig": 60, "b": 50, "c": 40}
    option = layered(*[10] * 8)
    assert counts(fit(option, rooms, alone=["mig"])) == {"b": 4, "c": 4}
    assert counts(fit(layered(55), rooms, alone=["mig"])) == {"mig": 1}
    assert fit(layered(*[10] * 11), rooms, alone=["mig"]) is None
    # Not even if the user asks for it: CUDA shows a process only the first of several instances.
    wish = Wish(devices=("mig", "b"), split=(1.0, 1.0))
    assert fit(option, {"mig": 60, "b": 50}, wish=wish, alone=["mig"]) is None


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ((3.0, 1.0), {"b": 6, "a": 2}),
        ((1.0, 1.0), {"b": 4, "a": 4}),
        ((0.6, 0.4), {"b": 5, "a": 3}),
        ((1.0, 1.0, 1.0), None),
        ((1.0, 7.0), None),
    ],
)
def test_a_split_that_the_user_chose(split: tuple[float, ...], expected: dict[str, int] | None) -> None:
    # The devices come in the order of the wish; the second has no room for 7.
    wish = Wish(devices=("b", "a"), split=split)
    shares = fit(layered(*[10] * 8), {"b": 100, "a": 60}, wish=wish)
    assert counts(shares) == expected


def test_a_split_counts_no_more_than_the_devices_that_are_there() -> None:
    wish = Wish(devices=("b", "a"), split=(1.0, 1.0))
    assert counts(fit(layered(*[10] * 8), {"a": 100}, wish=wish)) == {"a": 8}


@settings(max_examples=examples(150))
@given(
    name=st.sampled_from(sorted(MODELS)),
    free=st.lists(st.integers(0, 100 * GIB), max_size=4),
    strategy=st.sampled_from(["single-gpu-preferred", "distribute"]),
    alone=st.sets(st.sampled_from("0123")),
)
def test_nothing_is_overcommitted(name: str, free: list[int], strategy: str, alone: set[str]) -> None:
    rooms = {str(gpu): size for gpu, size in enumerate(free)}
    for option in demand(name).options:
        shares = fit(option, rooms, strategy=strategy, alone=alone)  # type: ignore[arg-type]
        if shares is None:
            continue
        devices = [share.device for share in shares]
        assert devices == sorted(set(devices)), "each once, in the order of the rooms"
        assert all(share.bytes <= rooms[share.device] for share in shares)
        assert all(share.layers > 0 for share in shares)
        assert sum(share.layers for share in shares) == len(option.layers)
        placed = sum(option.layers) + option.projector
        assert sum(share.bytes for share in shares) >= placed
        assert len(shares) < 2 or not alone & set(devices)
        assert bool(shares) == (option.how != "host")


@settings(max_examples=examples(400))
@given(
    layers=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    rooms=st.lists(st.integers(0, 60), min_size=2, max_size=4),
    shared=st.integers(0, 5),
    projector=st.integers(0, 5),
)
def test_if_any_split_fits_one_is_found(
    layers: list[int], rooms: list[int], shared: int, projector: int
) -> None:
    option = layered(*layers, compute=10_000, shared=shared, projector=projector)
    free = {str(gpu): room for gpu, room in enumerate(rooms)}
    roomiest = sorted(free, key=lambda gpu: -free[gpu])
    possible = []
    for count in range(2, len(rooms) + 1):
        chosen = sorted(roomiest[:count])
        for cuts in combinations(range(1, len(layers)), count - 1):
            bounds = [0, *cuts, len(layers)]
            taken = [sum(layers[at:to]) + shared for at, to in pairwise(bounds)]
            taken[0] += projector
            if all(size <= free[gpu] for size, gpu in zip(taken, chosen, strict=True)):
                possible.append(count)
    shares = fit(option, free)
    assert (shares is not None) == bool(possible)
    if shares is not None:
        assert len(shares) == min(possible)


@settings(max_examples=examples(300))
@given(
    layers=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    extra=st.integers(0, 40),
    name=st.sampled_from(["qwen3-0.6b", "llama1b", "dsv3"]),
    partial=st.booleans(),
)
def test_llama_cpp_splits_by_counts_as_they_say(
    layers: list[int], extra: int, name: str, partial: bool
) -> None:
    """`--tensor-split n1,n2` of as many layers as go to GPUs gives each of them just so many."""
    known = shape(name)
    total = known.layers + 1
    on_gpus = max(len(layers), min(total - 1, extra + len(layers))) if partial else total
    # As many counts, all positive, that sum up to it.
    wanted = [max(1, size * on_gpus // sum(layers)) for size in layers]
    wanted[wanted.index(max(wanted))] += on_gpus - sum(wanted)
    asked = LoadSettings(gpu_layers=on_gpus, tensor_split=[float(count) for count in wanted])
    devices = predict(known, asked, [1] * len(wanted)).layers
    assert [devices.count(gpu) for gpu in range(len(wanted))] == wanted
    assert devices.count(HOST) == total - on_gpus
    assert list(devices[total - on_gpus :]) == sorted(devices[total - on_gpus :])


@pytest.mark.parametrize(
    ("name", "rooms", "arguments"),
    [
        ("llama8b", [24], "--fit off --gpu-layers 999"),
        ("llama8b", [], "--fit off --gpu-layers 0"),
        ("llama8b", [3.2], "--fit off --gpu-layers 18"),
        (
            "qwen3moe-30b",
            [12],
            r"--fit off --gpu-layers 999 --override-tensor \.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU",
        ),
        ("llama70b", [24, 24], "--fit off --gpu-layers 999 --split-mode layer --tensor-split 41,40"),
        ("llama70b", [16, 17], "--fit off --gpu-layers 62 --split-mode layer --tensor-split 31,31"),
    ],
)
def test_what_llama_server_is_told(name: str, rooms: list[float], arguments: str) -> None:
    placement = first_that_fits(name, rooms)
    assert " ".join(placement.arguments) == arguments


def test_the_process_sees_its_own_gpus_only() -> None:
    rooms = {"GPU-b": 50, "GPU-a": 50, "GPU-c": 10}
    option = layered(*[10] * 8)
    shares = fit(option, rooms)
    assert shares is not None
    placement = Placement(option=option, shares=shares, why="")
    assert placement.environment == {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}
    on_host = Placement(option=Option(how="host", context=1, gpu_layers=0), shares=(), why="")
    assert on_host.environment == {"CUDA_VISIBLE_DEVICES": ""}


def test_where_llama_cpp_decides_it_is_told_nothing() -> None:
    placement = Placement(option=layered(1), shares=(), why="", managed=False)
    assert placement.arguments == []
    assert placement.environment == {}


def test_more_room_never_means_fewer_layers() -> None:
    before = 0
    for room in range(200, 9000, 200):
        option = first_that_fits("llama8b", [room / 1024]).option
        assert len(option.layers) >= before
        before = len(option.layers)
    assert before == 33


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 MiB"), (1, "1 MiB"), (GIB, "1,024 MiB"), (GIB + 1, "1,025 MiB")]
)
def test_bytes_in_words(size: int, words: str) -> None:
    assert mib(size) == words
