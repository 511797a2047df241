"""The dry run, of real servers and of programs that behave in other ways."""

import os
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest
import structlog

from actors.servers.llama.dry_run import dry_run
from actors.servers.llama.log import HOST, MIB, Breakdown
from tests.gguf_files import F32, Q4_K, write

CHECKOUT = str(Path(__file__).parents[4])
LAYERS, WIDTH, WIDER, VOCABULARY = 32, 4096, 14336, 32000
TABLE = """\
common_memory_breakdown_print: | memory breakdown [MiB] | total   free    self   model   context   compute    unaccounted |
common_memory_breakdown_print: |   - CUDA0 (RTX 4090)   | 24080 = 23600 + (6170 =  5400 +     512 +     258) +       -5690 |
common_memory_breakdown_print: |   - Host               |                   294 =   281 +       0 +      13                |
common_params_fit_impl: projected to use 6170 MiB of device memory vs. 23600 MiB of free device memory
"""  # noqa: E501
READ = {
    "CUDA0": Breakdown(model=5400 * MIB, context=512 * MIB, compute=258 * MIB),
    HOST: Breakdown(model=281 * MIB, compute=13 * MIB),
}
NO_FIT = (
    "common_fit_params: failed to fit params to free device memory: not implemented for SPLIT_MODE_TENSOR"
)
HANGS = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "


def stand_in(code: str, *, then: str = "signal.pause()") -> list[str]:
    """A program that does `code`, and then would run for ever."""
    return [sys.executable, "-uc", HANGS + code + "; " + then]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8B's shape, without weights and without words."""
    tensors = [
        ("token_embd.weight", (WIDTH, VOCABULARY), Q4_K),
        ("output_norm.weight", (WIDTH,), F32),
        ("output.weight", (WIDTH, VOCABULARY), Q4_K),
    ]
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors += [(f"{block}.{name}.weight", (WIDTH,), F32) for name in ("attn_norm", "ffn_norm")]
        for name, shape in {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH, 1024),
            "attn_v": (WIDTH, 1024),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (WIDTH, WIDER),
            "ffn_up": (WIDTH, WIDER),
            "ffn_down": (WIDER, WIDTH),
        }.items():
            tensors.append((f"{block}.{name}.weight", shape, Q4_K))
    metadata = {
        "llama.context_length": 8192,
        "llama.block_count": LAYERS,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": WIDER,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": VOCABULARY,
        "tokenizer.ggml.model": "no_vocab",
    }
    return write(tmp_path_factory.mktemp("model") / "8b.gguf", metadata, tensors)


@pytest.fixture
def llama_server() -> str:
    """A real llama-server."""
    path = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if path is None:
        pytest.skip("there is no llama-server on the PATH, and LLAMA_SERVER names none")
    return path


def flags(model: Path) -> list[str]:
    """What the gateway gives a server: placed by hand, and so without the fit step."""
    written = (
        f"--model {model} --alias 8b --host 127.0.0.1 --port 9 --parallel 2 --kv-unified --ctx-size 8192"
    )
    return [*written.split(), "--gpu-layers", "99", "--fit", "off", "--cache-ram", "0"]


async def check(command: list[str], model: Path) -> None:
    """That the table of this server is right, and that the server is gone."""
    table = await dry_run(command, environment={"PYTHONPATH": CHECKOUT})
    left = [process for process in psutil.process_iter() if str(model) in cmdline(process)]
    assert left == []
    assert table is not None
    rows = len(table)
    weights = sum(row.model for row in table.values()) / MIB
    assert weights == pytest.approx(model.stat().st_size / MIB, abs=rows + 1)
    cache = sum(row.context for row in table.values()) / MIB
    assert cache == pytest.approx(8192 * LAYERS * 2 * 1024 * 2 / MIB, abs=rows)


def cmdline(process: psutil.Process) -> list[str]:
    """Its arguments, while it is there."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def test_the_embedded_server(real_server: None, model: Path) -> None:
    await check([sys.executable, "-m", "actors.servers.llama.embedded", *flags(model)], model)


async def test_llama_server(llama_server: str, model: Path) -> None:
    placed = ["--split-mode", "layer", "--tensor-split", "3,1", "-ot", "blk.1.ffn=CPU", "--log-disable"]
    await check([llama_server, *flags(model), *placed], model)


async def test_a_draft_model_is_added(llama_server: str, model: Path, tmp_path: Path) -> None:
    draft = tmp_path / "draft.gguf"
    draft.symlink_to(model)
    alone = await dry_run([llama_server, *flags(model)], environment={})
    both = await dry_run([llama_server, *flags(model), "-md", str(draft)], environment={})
    assert alone is not None
    assert both is not None
    taken, more = (sum(row.total for row in table.values()) for table in (alone, both))
    assert more > 1.9 * taken


async def test_it_ends_when_the_table_is_there(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        f"import os, pathlib; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); "
        "assert sys.argv[-8:] == '--fit on -lv 5 --host 127.0.0.1 --port 0'.split(); "
        f"assert '--log-disable' not in sys.argv; print({TABLE!r})"
    )
    argv = [*stand_in(code), "--fit", "off", "--log-disable"]
    began = time.monotonic()
    assert await dry_run(argv, environment={}, timeout=50) == READ
    assert time.monotonic() - began < 25
    assert not psutil.pid_exists(int(pid.read_text()))


@pytest.mark.parametrize(
    ("argv", "reason", "tail"),
    [
        (stand_in("print('hello')", then="sys.exit(3)"), "it told no sizes", ["hello"]),
        (stand_in(f"print({NO_FIT!r})"), "it told no sizes", [NO_FIT]),
        (stand_in("pass"), "it told no sizes in 0.2 s", []),
        (["/no/such/program"], "cannot be executed: No such file or directory", None),
    ],
    ids=["ends", "no-table", "hangs", "no-program"],
)
async def test_without_a_table(argv: list[str], reason: str, tail: list[str] | None) -> None:
    with structlog.testing.capture_logs() as logs:
        assert await dry_run(argv, environment={}, timeout=0.2 if "0.2" in reason else 30) is None
    assert [(line["event"], line["reason"], line.get("log_tail")) for line in logs] == [
        ("dry run failed", reason, tail)
    ]
