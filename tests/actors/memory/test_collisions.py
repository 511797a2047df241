"""Flags that say where a model goes, which the gateway decides: which collide, and what to use instead."""

import pytest

from actors.memory.collisions import collisions


@pytest.mark.parametrize(
    ("words", "flag", "instead"),
    [
        ("--main-gpu 1", "--main-gpu 1", "use devices: [1]"),
        ("-mg 2", "-mg 2", "use devices: [2]"),
        ("--main-gpu=1", "--main-gpu 1", "use devices: [1]"),
        ("--main_gpu 1", "--main-gpu 1", "use devices: [1]"),
        ("-mg=1", "-mg 1", "use devices: [1]"),
        ("-mg -1", "-mg -1", "use gpu_layers: 0"),
        ("--device CUDA1", "--device CUDA1", "use devices: [1]"),
        ("-dev CUDA0,CUDA2", "-dev CUDA0,CUDA2", "use devices: [0, 2]"),
        ("-dev=cuda1", "-dev cuda1", "use devices: [1]"),
        ("--tensor-split 3,1", "--tensor-split 3,1", "use tensor_split: [3, 1] with devices: [0, 1]"),
        ("-ts 3/1/0", "-ts 3/1/0", "use tensor_split: [3, 1, 0] with devices: [0, 1, 2]"),
        ("-sm row", "-sm row", "gpu.enabled: false"),
        ("--split-mode=tensor", "--split-mode tensor", "gpu.enabled: false"),
        ("-ot exps=CUDA1", "-ot exps=CUDA1", "PATTERN=CPU"),
        ("-ot a=CPU,b=CUDA0", "-ot a=CPU,b=CUDA0", "PATTERN=CPU"),
        ("--device-draft CUDA1", "--device-draft CUDA1", "it has the GPUs of its model"),
        ("--mmproj-device CUDA1", "--mmproj-device CUDA1", "it has the GPUs of its model"),
        ("env CUDA_VISIBLE_DEVICES=1,0 llama-server", "CUDA_VISIBLE_DEVICES=1,0", "use devices: [1, 0]"),
        ("env CUDA_VISIBLE_DEVICES=-1 x", "CUDA_VISIBLE_DEVICES=-1", "use gpu_layers: 0 for the host"),
        ("env NVIDIA_VISIBLE_DEVICES=all x", "NVIDIA_VISIBLE_DEVICES=all", "leave it out"),
        ("env LLAMA_ARG_MAIN_GPU=1 llama-server", "LLAMA_ARG_MAIN_GPU=1", "use devices: [1]"),
        ("env LLAMA_ARG_TENSOR_SPLIT=1,1 llama-server", "LLAMA_ARG_TENSOR_SPLIT=1,1", "tensor_split: [1, 1]"),
    ],
)
def test_what_collides(words: str, flag: str, instead: str) -> None:
    (found,) = collisions(words.split(), 2)
    assert found.message.startswith(f"{flag} collides with the placement")
    assert instead in found.message
    assert not list(collisions(words.split(), 0)), "where nothing is placed nothing collides"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--main-gpu 0",
        "--device none",
        # Not CUDA's: it has a numbering of its own, which nobody changes.
        "--device Vulkan1",
        "-sm none",
        "--split-mode layer",
        "-ngl 20",
        "--gpu-layers all",
        "-ot exps=CPU",
        "-ot exps=CUDA_Host",
        "--threads 8",
        # A value that looks like a flag.
        "--main-gpu 0 --alias -mg",
        "docker run --device /dev/dri image",
        "env LLAMA_ARG_N_GPU_LAYERS=9 llama-server",
    ],
)
def test_what_does_not(words: str) -> None:
    assert not list(collisions(words.split(), 2))


@pytest.mark.parametrize(
    ("words", "collides"),
    [
        ("--device CUDA0", False),
        ("-ts 1", False),
        ("-ts 3,1", False),
        ("-sm row", False),
        ("-ot a=CUDA0", False),
        ("--device CUDA1", True),
        ("-mg 1", True),
    ],
)
def test_on_a_single_gpu_there_is_nothing_to_mistake(words: str, collides: bool) -> None:
    assert bool(list(collisions(words.split(), 1))) is collides


def test_each_is_told_with_its_place() -> None:
    found = list(collisions(["-t", "8", "-mg", "1", "--tensor-split=1,1"], 2))
    assert [each.index for each in found] == [2, 4]
