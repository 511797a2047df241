"""llama.cpp's own lines about memory, from real logs and from the formats in its source."""

# ruff: noqa: E501 - lines of logs are as they are

import time

import pytest

from actors.servers.llama.log import Breakdown, BufferLog, OutOfMemory, out_of_memory, parse_breakdown
from actors.servers.llama.server_log import explain_end
from actors.servers.output_lines import LINE_LIMIT

MIB = 1 << 20


def sizes(log: str) -> dict[str, dict[str, float]]:
    """What a `BufferLog` has of these lines, in MiB."""
    buffers = BufferLog()
    for line in log.splitlines():
        buffers.feed(line)
    return {
        device: {kind: round(size / MIB, 2) for kind, size in kinds.items()}
        for device, kinds in buffers.sizes.items()
    }


GPU = """\
load_tensors:   CPU_Mapped model buffer size =   281.81 MiB
load_tensors:        CUDA0 model buffer size =  4403.49 MiB
llama_context:  CUDA_Host  output buffer size =     0.49 MiB
llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB
sched_reserve:      CUDA0 compute buffer size =   258.50 MiB
sched_reserve:  CUDA_Host compute buffer size =    12.01 MiB
"""
IN_MIB = {
    "CPU_Mapped": {"weights": 281.81},
    "CUDA0": {"weights": 4403.49, "kv": 512.0, "compute": 258.5},
    "CUDA_Host": {"output": 0.49, "compute": 12.01},
}
# xllamacpp b11549 at verbosity 5: the fit step's set comes first.
FITTED = """\
0.00.008.208 I srv    load_model: loading model '/tmp/demo.gguf'
0.00.020.473 I load_tensors:          CPU model buffer size =     0.00 MiB
0.00.020.786 I llama_context:        CPU  output buffer size =     0.00 MiB
0.00.021.228 I llama_kv_cache:        CPU KV buffer size =     0.00 MiB
0.00.025.587 I sched_reserve:        CPU compute buffer size =     8.39 MiB
0.00.025.991 I common_fit_params: fitting params to free memory took 0.02 seconds
0.00.028.774 I load_tensors:   CPU_Mapped model buffer size =     1.65 MiB
0.00.028.926 I llama_context:        CPU  output buffer size =     0.00 MiB
0.00.028.966 I llama_kv_cache:        CPU KV buffer size =     5.00 MiB
0.00.046.974 I sched_reserve:        CPU compute buffer size =     8.39 MiB
"""
TWO_CACHES = """\
llama_context:  CUDA_Host  output buffer size =     4.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =   340.00 MiB
llama_kv_cache:      CUDA1 KV buffer size =   300.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =   580.00 MiB
"""
HYBRID = """\
llama_kv_cache:      CUDA0 KV buffer size =    96.00 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =    75.38 MiB
llama_dsv4_state:      CUDA0 DSV4 index state buffer size =     1.50 MiB
"""
RESERVED_ANEW = GPU + "sched_reserve:      CUDA0 compute buffer size =   300.00 MiB\n"
DRAFT = """\
load_tensors:        CUDA0 model buffer size =   500.00 MiB
llama_context:  CUDA_Host  output buffer size =     0.50 MiB
llama_kv_cache:      CUDA0 KV buffer size =    64.00 MiB
sched_reserve:      CUDA0 compute buffer size =    50.00 MiB
"""
PROJECTOR = """\
clip_ctx: CLIP using CUDA0 backend
load_hparams: model size:         801.50 MiB
load_hparams: metadata size:      0.15 MiB
reserve_compute_meta:      CUDA0 compute buffer size =   200.00 MiB
reserve_compute_meta:        CPU compute buffer size =     9.20 MiB
reserve_compute_meta:      CUDA0 compute buffer size =   121.25 MiB
clip_ctx: CLIP using CUDA0 backend
load_hparams: model size:         801.50 MiB
reserve_compute_meta:      CUDA0 compute buffer size =    10.00 MiB
"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", {}),
        (GPU, IN_MIB),
        (FITTED, {"CPU_Mapped": {"weights": 1.65}, "CPU": {"output": 0.0, "kv": 5.0, "compute": 8.39}}),
        (GPU + "srv    load_model: loading model 'again'\n" + GPU, IN_MIB),
        (TWO_CACHES, {"CUDA_Host": {"output": 4.0}, "CUDA0": {"kv": 920.0}, "CUDA1": {"kv": 300.0}}),
        (HYBRID, {"CUDA0": {"kv": 172.88}}),
        (RESERVED_ANEW, {**IN_MIB, "CUDA0": {"weights": 4403.49, "kv": 512.0, "compute": 300.0}}),
        (
            GPU + DRAFT,
            {
                "CPU_Mapped": {"weights": 281.81},
                "CUDA0": {"weights": 4903.49, "kv": 576.0, "compute": 308.5},
                "CUDA_Host": {"output": 0.99, "compute": 12.01},
            },
        ),
        (
            GPU + PROJECTOR,
            {
                **IN_MIB,
                "CPU": {"compute": 9.2},
                "CUDA0": {"weights": 5204.99, "kv": 512.0, "compute": 389.75},
            },
        ),
        (
            "load_tensors: RPC0[127.0.0.1:50052] model buffer size =     1.00 MiB\n"
            "load_tensors:   CPU_REPACK model buffer size =   445.00 MiB\n",
            {"RPC0[127.0.0.1:50052]": {"weights": 1.0}, "CPU_REPACK": {"weights": 445.0}},
        ),
        (
            "~llama_context:      CUDA0 compute buffer size is 258.5000 MiB, matches expectation of 258.5000 MiB\n"
            "print_info: file size   = 4.33 GiB (4.64 BPW)\n",
            {},
        ),
    ],
    ids=[
        "nothing",
        "gpu",
        "after-the-fit-step",
        "reload",
        "two-caches",
        "recurrent",
        "reserved-anew",
        "draft",
        "projector",
        "other-places",
        "other-lines",
    ],
)
def test_sizes_of_buffers(log: str, expected: dict[str, dict[str, float]]) -> None:
    assert sizes(log) == expected


CUDA_LOAD = """\
ggml_backend_cuda_buffer_type_alloc_buffer: allocating 144817.04 MiB on device 1: cudaMalloc failed: out of memory
alloc_tensor_range: failed to allocate CUDA1 buffer of size 151851674624
llama_model_load: error loading model: unable to allocate CUDA1 buffer
"""
CUDA_AT_WORK = """\
CUDA error: out of memory
  current device: 1, in function alloc at /src/ggml/src/ggml-cuda/ggml-cuda.cu:585
  cuMemCreate(&handle, reserve_size, &prop, 0)
"""
PIPELINED = """\
1.06.520.077 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 51748.72 MiB on device 1: cudaMalloc failed: out of memory
1.06.520.084 E ggml_gallocr_reserve_n_impl: failed to allocate CUDA1 buffer of size 54262464512
1.06.520.086 E graph_reserve: failed to allocate compute buffers
"""
RETRIED = (
    "1.06.520.107 W sched_reserve: compute buffer allocation failed, retrying without pipeline parallelism\n"
)
VULKAN = """\
ggml_vulkan: Device memory allocation of size 369827840 failed.
ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory
llama_model_load: error loading model: unable to allocate Vulkan1 buffer
"""
METAL = """\
ggml_metal_buffer_init: error: failed to allocate buffer, size = 11440.00 MiB
ggml_backend_metal_buffer_type_alloc_buffer: failed to allocate Metal buffer of 11995709440 bytes (out of memory)
"""
METAL_AT_WORK = """\
ggml_metal_synchronize: error: command buffer 0 failed with status 5
error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)
"""
CPU = """\
ggml_aligned_malloc: insufficient memory (attempted to allocate 47011.50 MB)
ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 49295130624
llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache
"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (CUDA_LOAD, OutOfMemory(device=1, asked=round(144817.04 * MIB))),
        (CUDA_AT_WORK, OutOfMemory(device=1)),
        ("ROCm error: out of memory", OutOfMemory()),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED", OutOfMemory()),
        ("CUDA error: the resource allocation failed", OutOfMemory()),
        (PIPELINED, OutOfMemory(device=1, asked=round(51748.72 * MIB))),
        (PIPELINED + RETRIED + CUDA_AT_WORK, OutOfMemory(device=1)),
        (VULKAN, OutOfMemory(device=1, asked=369827840)),
        (METAL, OutOfMemory(asked=11440 * MIB)),
        (METAL_AT_WORK, OutOfMemory()),
        (CPU, OutOfMemory(asked=round(47011.5 * MIB))),
        ("ggml_backend_sycl: can't allocate 4096 Bytes of memory on device", OutOfMemory(asked=4096)),
        ("Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)", OutOfMemory()),
        ("llama_model_load: error loading model: unable to allocate ROCm0 buffer", OutOfMemory(device=0)),
        ("llama_model_load: error loading model: unable to allocate CPU_REPACK buffer", OutOfMemory()),
        ("llama_init_from_model: failed to allocate compute pp buffers", OutOfMemory()),
        ("llama_init_from_model: failed to allocate buffer for rs cache", OutOfMemory()),
        ("process_ubatch: failed to allocate graph", OutOfMemory()),
        ("ggml_backend_sched_alloc_splits: failed to reserve graph buffers", OutOfMemory()),
        (
            "output_reserve: failed to allocate output buffer of size 12.50 MiB",
            OutOfMemory(asked=round(12.5 * MIB)),
        ),
        ("ggml_malloc: failed to allocate   8.00 MB", OutOfMemory(asked=8 * MIB)),
        ("  what():  std::bad_alloc", OutOfMemory()),
        ("llama_model_load: error loading model: mmap failed: Cannot allocate memory", OutOfMemory()),
    ],
)
def test_memory_ran_out(log: str, expected: OutOfMemory) -> None:
    assert out_of_memory(log.splitlines()) == expected


@pytest.mark.parametrize(
    "log",
    [
        GPU + FITTED + PROJECTOR,
        PIPELINED + RETRIED,
        "CUDA pool[0]: alloc of 512.00 MiB failed, flushing 96.00 MiB of cached buffers and retrying",
        "ggml_cuda_host_malloc: failed to allocate 1900.00 MiB of pinned memory: out of memory",
        "ggml_vulkan: Failed to allocate pinned memory (vk::Device::allocateMemory: ErrorOutOfDeviceMemory)",
        "ggml_vulkan: Failed ggml_vk_create_buffer (vk::Device::allocateMemory: ErrorOutOfHostMemory)",
        "WARNING: failed to allocate 12.00 MB of pinned memory",
        "load_all_data: failed to allocate host buffer for async uploads for device CUDA0",
        "ggml_backend_sched_alloc_splits: failed to allocate graph, reserving (backend_ids_changed = 1)",
        "reorder_qw: failed to allocate 4096 bytes for reorder temp buffer, skipping reorder",
        "srv alloc: failed to allocate memory for prompt cache state: std::bad_alloc",
        "warning: failed to mlock 102400-byte buffer (after previously locking 0 bytes): Cannot allocate memory",
        "gguf_init: encountered bad_alloc error while reading value for key 'tokenizer.ggml.tokens'",
        "common_fit_params: failed to fit params to free device memory: n_gpu_layers already set by user to 99, abort",
        "common_params_fit_impl: cannot meet free memory target of 1024 MiB, need to reduce device memory by 5 MiB",
        "CUDA error: an illegal memory access was encountered\n  current device: 0, in function f at g.cu:1",
        "main: exiting due to model loading error",
    ],
)
def test_memory_did_not_run_out(log: str) -> None:
    assert out_of_memory(log.splitlines()) is None


HEAD = "common_memory_breakdown_print: | memory breakdown [MiB] | total    free     self   model   context   compute    unaccounted |"
GPUS = """\
common_memory_breakdown_print: |   - CUDA0 (RTX 5090)   | 32606 = 30991 + ( 4205 =     0 +       0 +    4205) +       -2590 |
common_memory_breakdown_print: |   - CUDA1 (RTX 3090)   | 24575 = 23332 + (17829 =  1177 +   15360 +    1292) +      -16586 |
common_memory_breakdown_print: |   - Host               |                  25094 =  1502 +   21504 +    2088                |
"""
OVER = (
    "common_params_fit_impl: projected to use 22034 MiB of device memory vs. 54323 MiB of free device memory"
)
INITIAL = "common_params_fit_impl: getting device memory data for initial parameters:"
LOADED = (
    "llama_model_loader: loaded meta data with 27 key-value pairs and 11 tensors from {} "
    "(version GGUF V3 (latest))"
)
EXTRA = (
    "common_params_fit_impl: getting device memory data for the extra model at a context size of 4096:\n"
    f"{LOADED}\n{HEAD}\n"
    "common_memory_breakdown_print: |   - CUDA1 (RTX 3090)   | 24575 = 23332 + (  600 =   500 +      60 +      40) +        643 |\n"
    "common_memory_breakdown_print: |   - Host               |                     10 =     5 +       0 +       5                |\n"
)
UNPACKED = (
    "common_memory_breakdown_print: |   - CPU_REPACK |   445 =   445 +       0 +       0                |\n"
)
# A description with brackets in it, and an old build whose difference ran below zero.
BRACKETS = """\
0.01.2 I llama_memory_breakdown_print: | memory breakdown [MiB]  | total   free     self   model   context   compute       unaccounted |
0.01.2 I llama_memory_breakdown_print: |   - Vulkan0 (780M Graphics (RADV PHOENIX)) | 11165 = 8702 + (10001 =  9814 +     134 +      51) + 17592186036877 |
0.01.2 I llama_memory_breakdown_print: |   - Host                |                   197 =   166 +       0 +      30                   |
"""
TABLE = {"CUDA0": (0, 0, 4205), "CUDA1": (1177, 15360, 1292), "Host": (1502, 21504, 2088)}


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("\n".join([INITIAL, HEAD, GPUS, OVER]), TABLE),
        ("\n".join([HEAD, GPUS]), TABLE),
        ("\n".join([HEAD, GPUS + UNPACKED]), {**TABLE, "CPU_REPACK": (445, 0, 0)}),
        ("\n".join([HEAD, GPUS, HEAD, GPUS, OVER, HEAD, GPUS]), TABLE),
        (
            "\n".join([LOADED.format("a.gguf"), HEAD, GPUS, EXTRA.format("b c.gguf"), OVER]),
            {**TABLE, "CUDA1": (1677, 15420, 1332), "Host": (1507, 21504, 2093)},
        ),
        (
            "\n".join([LOADED.format("a.gguf"), HEAD, GPUS, EXTRA.format("a.gguf"), OVER]),
            {**TABLE, "CUDA1": (1177, 15420, 1332), "Host": (1502, 21504, 2093)},
        ),
        (BRACKETS, {"Vulkan0": (9814, 134, 51), "Host": (166, 0, 30)}),
    ],
    ids=["fit-step", "exit", "more-buffers", "later-tables", "draft", "mtp", "brackets"],
)
def test_the_table(log: str, expected: dict[str, tuple[int, int, int]]) -> None:
    assert parse_breakdown(log.splitlines()) == {
        device: Breakdown(model=model * MIB, context=context * MIB, compute=compute * MIB)
        for device, (model, context, compute) in expected.items()
    }


def test_a_projector_is_added_where_it_will_be() -> None:
    log = [
        "srv    load_model: [mtmd] estimated worst-case memory usage of mmproj is 931.95 MiB (took 61.20 ms)",
        "srv    load_model: [mtmd] adding 9.20 MiB to fit_params_target for device CPU",
        "srv    load_model: [mtmd] adding 922.75 MiB to fit_params_target for device CUDA0",
        HEAD,
        *GPUS.splitlines(),
    ]
    table = parse_breakdown(log)
    assert table is not None
    assert {device: row.projector for device, row in table.items()} == {
        "CUDA0": round(922.75 * MIB),
        "CUDA1": 0,
        "Host": round(9.2 * MIB),
    }
    assert table["CUDA0"].total == 4205 * MIB + round(922.75 * MIB)


@pytest.mark.parametrize(
    "log",
    ["", HEAD, HEAD + "\n" + GPUS.splitlines()[0], OVER + "\n" + HEAD + "\n" + GPUS],
    ids=["nothing", "head", "cut", "after-the-fit-step"],
)
def test_no_table(log: str) -> None:
    assert parse_breakdown(log.splitlines()) is None


HOSTILE = [
    "x",
    "1.",
    "failed to allocate ",
    "x: y buffer size = 1 MiB ",
    "| - x (y) | 1 = 1 + 1 ",
    "loaded meta data with  from (version ",
    "load_hparams: model size: ",
    "adding 1.",
    "DSV4 a state ",
    "size 1",
    "to allocate A1_",
]


@pytest.mark.parametrize("word", HOSTILE)
def test_no_line_takes_long_whatever_it_says(word: str) -> None:
    began = time.process_time()
    for beginning in ("", "x: CUDA0 DSV4 ", "common_memory_breakdown_print: | "):
        line = (beginning + word * LINE_LIMIT)[:LINE_LIMIT]
        sizes(line)
        assert out_of_memory(["failed: out of memory", line]) is not None
        parse_breakdown([HEAD, line])
        explain_end("ended", "early", [line])
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize(
    "line",
    [
        f"load_tensors: CUDA0 model buffer size = {'9' * 5000} MiB",
        "load_tensors: CUDA0 model buffer size = 1.2.3 MiB",
        "load_tensors: CUDA0 model buffer size = .. MiB",
        f"load_hparams: model size: {'9' * 400} MiB",
        f"| - CUDA0 (x) | 1 = 1 + (1 = {'9' * 5000} + 0 + 0) |",
        f"adding {'9' * 400} MiB to fit_params_target for device CUDA0",
        f"failed: out of memory, size {'9' * 5000} on device {'9' * 5000}",
        f"failed: out of memory, {'9' * 400}.5 MiB",
    ],
)
def test_numbers_that_are_none(line: str) -> None:
    sizes(line)
    out_of_memory([line])
    parse_breakdown([HEAD, line])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], False),
        (["srv  load_model: loading model 'x'"], False),
        (["warning: no usable GPU found, --gpu-layers option will be ignored"], True),
        (["load_tensors: offloaded 0/29 layers to GPU"], True),
        (["load_tensors:   CPU_Mapped model buffer size =  1199.00 MiB"], True),
        (["load_tensors:   AMX model buffer size =  1199.00 MiB"], True),
        (["load_tensors: offloaded 29/29 layers to GPU"], False),
        # Its weights are not told at every verbosity.
        (["llama_kv_cache:        CPU KV buffer size =   144.00 MiB"], False),
        (
            [
                "load_tensors: offloaded 29/29 layers to GPU",
                "load_tensors:   CPU_Mapped model buffer size =   281.81 MiB",
                "load_tensors:        CUDA0 model buffer size =  4403.49 MiB",
            ],
            False,
        ),
        (["load_tensors:      Vulkan0 model buffer size =  4403.49 MiB"], False),
        # The fit step tries how it would be with nothing on the GPU.
        (
            ["load_tensors: offloaded 0/29 layers to GPU", "load_tensors: offloaded 29/29 layers to GPU"],
            False,
        ),
    ],
)
def test_whether_it_uses_a_gpu(lines: list[str], expected: bool) -> None:
    buffers = BufferLog()
    for line in lines:
        buffers.feed(line)
    assert buffers.uses_no_gpu is expected
