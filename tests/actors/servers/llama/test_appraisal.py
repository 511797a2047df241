"""What a model will take: files whose header says little, and what earlier loads teach."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actors.config.schema import Config, Model
from actors.gpu.calibration import Calibration, Surcharge
from actors.gpu.monitor import Gpu, GpuMonitor, Sample
from actors.gpu.observer import Observer
from actors.hub.cache import ModelFiles
from actors.messages import Figures, Measured
from actors.placement.fit import Placement, fit
from actors.placement.ledger import HostMemory
from actors.servers import StartError
from actors.servers.llama.appraisal import Appraisal, Predictor, forgive_lost
from tests.gguf_files import F32, Q8_0, write

MIB = 1 << 20
GIB = 1 << 30
LAYERS = 8


@pytest.fixture
def calibration() -> Iterator[Calibration]:
    with closing(Calibration(None)) as memory:
        yield memory


@pytest.fixture
def unknown(tmp_path: Path) -> ModelFiles:
    """A model with layers, and without the dimensions that a prediction needs."""
    tensors: list[Any] = [("token_embd.weight", (4096, 32000), Q8_0)]
    for layer in range(LAYERS):
        tensors += [(f"blk.{layer}.mix.weight", (4096, 16384), Q8_0), (f"blk.{layer}.norm", (4096,), F32)]
    return ModelFiles(
        path=write(tmp_path / "new.gguf", {"new.block_count": LAYERS}, tensors, architecture="new")
    )


def predictor_of(calibration: Calibration, *gpus: int) -> Predictor:
    return Predictor(Config(), calibration, lambda: gpus)


def placed(appraisal: Appraisal, **rooms: int) -> Placement:
    """The first way that fits."""
    for option in appraisal.demand.options:
        shares = fit(option, rooms)
        if shares is not None:
            return Placement(option=option, shares=shares, why="")
    raise AssertionError("it fits nowhere")


EVIL: dict[str, dict[str, Any]] = {
    "layers that overflow": {"block_count": 2**32 - 1},
    "no layers": {"block_count": 0},
    "more layers than memory": {"block_count": 2**31, "embedding_length": 2**32 - 1},
    "infinite": {"attention.value_length": float("inf")},
    "not a number": {"attention.key_length": float("nan")},
    "below nothing": {"attention.head_count": -1.0},
    "infinite in a list": {"attention.head_count": [float("inf")] * 2},
    "text": {"attention.head_count": "many"},
    "unused layers": {"nextn_predict_layers": 2**32 - 1},
    "states": {"ssm.inner_size": float("inf"), "ssm.conv_kernel": 2**32 - 1},
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL.keys())
@pytest.mark.parametrize("more", [(), ("blk.0.ssm_conv1d.weight",), ("blk.",), ("blk.99999999.x",)])
def test_numbers_that_no_model_has(
    evil: dict[str, Any], more: tuple[str, ...], tmp_path: Path, calibration: Calibration
) -> None:
    good = {"block_count": 2, "embedding_length": 256, "attention.head_count": 4, "context_length": 512}
    metadata = {f"llama.{key}": value for key, value in {**good, **evil}.items()}
    names = [f"blk.{layer}.attn_{part}.weight" for layer in range(2) for part in "qkv"]
    tensors: list[Any] = [("token_embd.weight", (256, 64), F32), ("output_norm.weight", (256,), F32)]
    tensors += [(name, (256, 256), F32) for name in (*names, *more)]
    path = write(tmp_path / "evil.gguf", metadata, tensors)
    predictor = predictor_of(calibration, GIB, GIB)
    appraisal = predictor.appraise(Model(path=str(path)), ModelFiles(path=path), "1")
    for option in appraisal.demand.options:
        assert len(option.layers) < 2000
        if (shares := fit(option, {"a": GIB, "b": GIB})) is not None:
            appraisal.predict(Placement(option=option, shares=shares, why=""))


@pytest.mark.parametrize("number", [float("inf"), float("nan"), -1.0, 1e30])
@pytest.mark.parametrize("key", ["embedding_length", "attention.head_count", "patch_size", "image_size"])
def test_projectors_that_no_model_has(
    number: Any, key: str, tmp_path: Path, calibration: Calibration
) -> None:
    model = write(tmp_path / "m.gguf", {"llama.context_length": 512})
    good = {"embedding_length": 64, "attention.head_count": 4, "patch_size": 14, "image_size": 224}
    metadata = {f"clip.vision.{name}": value for name, value in {**good, key: number}.items()}
    tensors: list[Any] = [("v.blk.0.ffn_up.weight", (64, 128), F32)]
    projector = write(
        tmp_path / "p.gguf", {"clip.has_vision_encoder": True, **metadata}, tensors, architecture="clip"
    )
    with pytest.raises(StartError, match=f"the projector's {key} is "):
        predictor_of(calibration, GIB).appraise(
            Model(path=str(model)), ModelFiles(path=model, projector=projector), "1"
        )


def test_a_model_of_unknown_shape_is_split_by_its_layers(
    unknown: ModelFiles, calibration: Calibration
) -> None:
    appraisal = predictor_of(calibration, GIB // 2, GIB // 2).appraise(Model(path=""), unknown, "1")
    placement = placed(appraisal, a=GIB // 2, b=GIB // 2)
    assert placement.how == "split"
    assert sum(share.layers for share in placement.shares) == LAYERS + 1
    predicted = appraisal.predict(placement)
    assert [gpu.total for gpu in predicted.gpus] == [share.bytes for share in placement.shares]
    alone = placed(appraisal, a=GIB // 2)
    assert (alone.how, alone.option.gpu_layers) == ("partial", 4)


async def test_a_model_of_unknown_shape_does_not_forget_what_it_lacked(
    unknown: ModelFiles, calibration: Calibration
) -> None:
    gpu = Gpu(index=0, uuid="a", name="H100", total=8 * GIB, used=0, free=8 * GIB, driver="1")
    sample = Sample(asked_at=1.0, gpus=(gpu,), host=HostMemory(total=1, available=1))
    monitor = GpuMonitor(0, lambda: sample)
    observer = Observer(monitor, calibration, manages=True)
    monitor.start()
    await monitor.wait_first()
    await monitor.stop()
    predictor = predictor_of(calibration, 8 * GIB)
    took = guessed = None
    for number in range(14):
        appraisal = predictor.appraise(Model(path=""), unknown, "1")
        placement = placed(appraisal, a=8 * GIB)
        (share,) = placement.shares
        took = took or share.bytes + 100 * MIB
        assert number == 0 or share.bytes >= took, f"load {number + 1} gets too little"
        predicted = tuple(usage.total for usage in appraisal.predict(placement).gpus)
        guessed = guessed or predicted
        assert predicted == guessed, "what is learned from is the guess itself, not what was made of it"
        figures = Figures(predicted=predicted, buffers=(took,))
        observer.learn(
            Measured(
                model="new",
                epoch=number,
                demand=appraisal.demand,
                placement=placement,
                figures=figures,
                seen={},
                seconds=1.0,
            )
        )
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})


def ran_out(calibration: Calibration, appraisal: Appraisal, files: ModelFiles, model: str = "new") -> None:
    demand = appraisal.demand
    calibration.ran_out(
        Surcharge(
            file=demand.file,
            settings=demand.settings_key(demand.options[0]),
            bytes=7,
            model=model,
            paths=(str(files.path),),
        )
    )


def test_a_surcharge_goes_with_its_model(unknown: ModelFiles, calibration: Calibration) -> None:
    predictor = predictor_of(calibration, 8 * GIB)
    appraisal = predictor.appraise(Model(path=""), unknown, "1")
    ran_out(calibration, appraisal, unknown)
    forgive_lost(calibration, {"new"}.__contains__)
    again = predictor.appraise(Model(path=""), unknown, "1", appraisal)
    assert (again.demand.options[0].surcharge, again.demand.options[0].learned) == (7, (7, 0))
    # Not configured any more.
    forgive_lost(calibration, {"other"}.__contains__)
    assert calibration.surcharges() == []
    # Another file in its place, and none.
    ran_out(calibration, appraisal, unknown)
    with unknown.path.open("ab") as file:
        file.write(b"more")
    predictor.appraise(Model(path=""), unknown, "1", again)
    assert calibration.surcharges() == []
    ran_out(calibration, appraisal, unknown)
    unknown.path.unlink()
    forgive_lost(calibration)
    assert calibration.surcharges() == []
