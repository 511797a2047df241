"""The embedded llama.cpp server: `python -m actors.servers.llama.embedded` with llama-server's flags.

The `xllamacpp` package has llama.cpp's own HTTP server in a library, but not its command line. This module
is that command line, for the flags in `FLAGS`; any other flag is an error, because a setting that is
silently ignored is worse. Exit status: 0 after TERM or INT, 1 when the server cannot start, 2 for a flag.
"""

import argparse
import ctypes
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1


def _enum(kind: str, prefix: str, **synonyms: str) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        import xllamacpp

        name = prefix + synonyms.get(text, text).upper().replace("-", "_")
        try:
            return getattr(getattr(xllamacpp, kind), name)
        except AttributeError:
            raise ValueError(text) from None

    convert.__name__ = kind
    return convert


def _list(text: str) -> list[str]:
    return text.split(",")


def _names(text: str) -> set[str]:
    return set(text.split(","))


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(text)
    return text == "on"


_CACHE_TYPE = _enum("ggml_type", "GGML_TYPE_")

FLAGS: tuple[tuple[str, str, Any], ...] = (
    # flags, attribute of CommonParams, converter of the value (or the value itself, for a switch)
    ("-m --model", "model.path", str),
    ("-a --alias", "model_alias", _names),
    ("--host", "hostnames", _list),
    ("--port", "port", int),
    ("-c --ctx-size", "n_ctx", int),
    ("-np --parallel", "n_parallel", int),
    ("-kvu --kv-unified", "kv_unified", True),
    ("-no-kvu --no-kv-unified", "kv_unified", False),
    ("-ngl --gpu-layers --n-gpu-layers", "n_gpu_layers", int),
    ("-sm --split-mode", "split_mode", _enum("llama_split_mode", "LLAMA_SPLIT_MODE_")),
    ("-mg --main-gpu", "main_gpu", int),
    ("-t --threads", "cpuparams.n_threads", int),
    ("-tb --threads-batch", "cpuparams_batch.n_threads", int),
    ("--threads-http", "n_threads_http", int),
    ("-b --batch-size", "n_batch", int),
    ("-ub --ubatch-size", "n_ubatch", int),
    ("-n --predict --n-predict", "n_predict", int),
    ("--keep", "n_keep", int),
    (
        "-fa --flash-attn",
        "flash_attn_type",
        _enum("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_", on="enabled", off="disabled"),
    ),
    ("-ctk --cache-type-k", "cache_type_k", _CACHE_TYPE),
    ("-ctv --cache-type-v", "cache_type_v", _CACHE_TYPE),
    ("--swa-full", "swa_full", True),
    ("-nkvo --no-kv-offload", "no_kv_offload", True),
    ("-cb --cont-batching", "cont_batching", True),
    ("-nocb --no-cont-batching", "cont_batching", False),
    ("--context-shift", "ctx_shift", True),
    ("--no-context-shift", "ctx_shift", False),
    ("--cache-prompt", "cache_prompt", True),
    ("--no-cache-prompt", "cache_prompt", False),
    ("--cache-reuse", "n_cache_reuse", int),
    ("-cram --cache-ram", "cache_ram_mib", int),
    ("-ctxcp --ctx-checkpoints", "n_ctx_checkpoints", int),
    ("--rope-scaling", "rope_scaling_type", _enum("llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_")),
    ("--rope-freq-base", "rope_freq_base", float),
    ("--rope-freq-scale", "rope_freq_scale", float),
    ("--yarn-orig-ctx", "yarn_orig_ctx", int),
    ("-s --seed", "sampling.seed", int),
    ("--temp --temperature", "sampling.temp", float),
    ("--top-k", "sampling.top_k", int),
    ("--top-p", "sampling.top_p", float),
    ("--min-p", "sampling.min_p", float),
    ("--repeat-penalty", "sampling.penalty_repeat", float),
    ("--embedding --embeddings", "embedding", True),
    ("--pooling", "pooling_type", _enum("llama_pooling_type", "LLAMA_POOLING_TYPE_")),
    ("-mm --mmproj", "mmproj.path", str),
    ("--no-mmproj-offload", "mmproj_use_gpu", False),
    ("--image-min-tokens", "image_min_tokens", int),
    ("--image-max-tokens", "image_max_tokens", int),
    ("--jinja", "use_jinja", True),
    ("--no-jinja", "use_jinja", False),
    ("--chat-template", "chat_template", str),
    ("--reasoning-format", "reasoning_format", _enum("common_reasoning_format", "COMMON_REASONING_FORMAT_")),
    ("--metrics", "endpoint_metrics", True),
    ("--props", "endpoint_props", True),
    ("--slots", "endpoint_slots", True),
    ("--no-slots", "endpoint_slots", False),
    ("--slot-save-path", "slot_save_path", str),
    ("--no-webui --no-ui", "ui", False),
    ("--api-key", "api_keys", _list),
    ("-to --timeout", "timeout_read", int),
    ("--sse-ping-interval", "sse_ping_interval", int),
    ("--sleep-idle-seconds", "sleep_idle_seconds", int),
    ("-fit --fit", "fit_params", _switch),
    ("--warmup", "warmup", True),
    ("--no-warmup", "warmup", False),
    ("--check-tensors", "check_tensors", True),
    ("-lv --verbosity --log-verbosity", "verbosity", int),
)


def unknown_flag(arguments: Sequence[str]) -> int | None:
    """The index of the first argument that this command line does not know; None if it knows all."""
    takes_value = {name: not isinstance(kind, bool) for flags, _, kind in FLAGS for name in flags.split()}
    takes_value |= {"--reranking": False, "--rerank": False}
    index = 0
    while index < len(arguments):
        name, equals, _ = arguments[index].partition("=")
        if name not in takes_value:
            return index
        index += 2 if takes_value[name] and not equals else 1
    return None


def main() -> NoReturn:
    """Run the server until it is told to stop."""
    options = _parser().parse_args()
    if options.list_devices:
        _list_devices()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        import xllamacpp
    except ImportError as error:
        _fail(f"the xllamacpp package cannot be imported ({error}); install it, or a llama-server")
    try:
        # While it loads, TERM keeps its default action: Server() holds the GIL, so no handler could run.
        server = xllamacpp.Server(_params(xllamacpp, options))
    except Exception as error:  # the library raises plain exceptions of several kinds
        _fail(f"the model server cannot start: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        # Never the destructor, nor an ordinary exit: they wait for ever for a request in flight.
        signal.signal(number, lambda *_: os._exit(0))
    # One write: the library's log thread writes to the same place.
    os.write(2, f"ready on {server.listening_address}\n".encode())
    while True:
        signal.pause()


def _list_devices() -> NoReturn:
    """As llama-server does."""
    import xllamacpp

    lines = ["Available devices:"]
    for device in xllamacpp.get_device_info():
        if device["type"] != xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU:
            total, free = (device[key] >> 20 for key in ("memory_total", "memory_free"))
            lines.append(f"  {device['name']}: {device['description']} ({total} MiB, {free} MiB free)")
    os.write(1, "\n".join([*lines, ""]).encode())
    os._exit(0)


def _fail(message: str) -> NoReturn:
    os.write(2, f"error: {message}\n".encode())
    os._exit(1)


def _params(xllamacpp: Any, options: argparse.Namespace) -> Any:
    params = xllamacpp.CommonParams()
    # At 4, llama.cpp logs the sizes of its buffers.
    params.verbosity = 4
    if options.reranking:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    for index, (_, attribute, _) in enumerate(FLAGS):
        value = getattr(options, _destination(index))
        if value is None:
            continue
        *path, name = attribute.split(".")
        target = params
        for part in path:
            target = getattr(target, part)
        setattr(target, name, value)
    # llama-server reads it here too. Any user of the machine could read it in the process's arguments.
    if key := os.environ.get("LLAMA_API_KEY"):
        params.api_keys = [*params.api_keys, key]
    if os.environ.get("LLAMA_ARG_UI") == "0":
        params.ui = False
    return params


def _destination(index: int) -> str:
    attribute = FLAGS[index][1]
    return "f_embedding" if attribute == "embedding" else f"f_{index}"


def _parser() -> argparse.ArgumentParser:
    version = importlib.metadata.version("xllamacpp")
    parser = _Parser(prog="embedded llama-server", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"xllamacpp {version}")
    parser.add_argument("--list-devices", action="store_true")
    parser.add_argument("--reranking", "--rerank", action="store_true")
    for index, (flags, _, converter) in enumerate(FLAGS):
        settings: dict[str, Any] = {"dest": _destination(index), "default": None}
        if isinstance(converter, bool):
            parser.add_argument(*flags.split(), action="store_const", const=converter, **settings)
        else:
            parser.add_argument(*flags.split(), type=converter, metavar="VALUE", **settings)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        advice = (
            "the embedded server does not know every flag of llama-server; install llama.cpp for the rest"
        )
        self.exit(2, f"error: {message} ({advice})\n")


if __name__ == "__main__":
    main()
