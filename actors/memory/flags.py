"""Reads llama-server's flags that change a model's memory, and finds values that llama.cpp refuses.

As in llama.cpp's common/arg.cpp, build 11434: the last of a repeated flag counts, but all of repeated
`--override-tensor` count; underscores in long flags are hyphens. The embedded server accepts `--flag=value`
and `-f=value` too.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec

from actors.memory.gguf import block_of
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape

EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
FEED_FORWARD = r"\.ffn_(up|down|gate)\."
"""llama.cpp's own patterns of the tensors that --cpu-moe, --n-cpu-moe and --n-cpu-ffn keep on the host."""

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
LAYER_FLAGS = ("-ngl", "--gpu-layers", "--n-gpu-layers")
MAX_SLOTS = 256
NO_LIMIT = 8192
AUTO_SLOTS = 4
MAX_NUMBER = (1 << 31) - 1

_WORDS = {
    **dict.fromkeys(["on", "enabled", "true", "1"], True),
    **dict.fromkeys(["auto", "-1"], None),
    **dict.fromkeys(["off", "disabled", "false", "0"], False),
}
_Values = dict[str, Any]
_Read = Callable[[str, _Values], None]
"""Parses a flag's value and stores the result in the values. Raises `ValueError`."""


class ProjectorFlags(msgspec.Struct, frozen=True, kw_only=True):
    """llama-server's settings of a projector. None: llama-server decides."""

    image_max_tokens: int | None = None
    batch_tokens: int | None = None
    on_gpu: bool = True


class DraftFlags(msgspec.Struct, frozen=True, kw_only=True):
    """llama-server's settings of speculation. `model`: the file of a draft model; `kinds` of speculation.

    `most`: tokens drafted at a time. `gpu_layers` None: all layers. `overrides` as in `LoadSettings`.
    """

    model: str | None = None
    kinds: tuple[str, ...] = ()
    most: int = 3
    type_k: str = "F16"
    type_v: str = "F16"
    gpu_layers: int | None = None
    overrides: str | None = None

    @property
    def uses_own_head(self) -> bool:
        """Whether the model drafts by itself, with its layers for multi-token prediction."""
        return self.model is None and "draft-mtp" in self.kinds

    @property
    def drafts(self) -> bool:
        """Whether a model drafts."""
        return self.model is not None or self.uses_own_head


def settings_of(arguments: Sequence[str], *, context: int, parallel: int) -> LoadSettings:
    """Return the gateway's settings, changed by a model's own arguments.

    A context of 0 is the model's own. Flags that do not change memory are skipped. Raises `ValueError`, which
    names the flag.
    """
    values: _Values = {"context": context, "parallel": parallel, "unified": parallel > 1, "patterns": []}
    _read_all(arguments, _FLAGS, values)
    _join(values)
    draft = draft_flags(arguments)
    return LoadSettings(**values, drafted=draft.most if draft.drafts else 0, own_head=draft.uses_own_head)


def draft_flags(arguments: Sequence[str]) -> DraftFlags:
    """Return the settings of speculation in arguments. Raises `ValueError`, which names the flag."""
    values: _Values = {"patterns": []}
    _read_all(arguments, _DRAFT_FLAGS, values)
    _join(values)
    return DraftFlags(**values)


def adapters(arguments: Sequence[str]) -> list[str]:
    """Return the files of adapters and control vectors in a model's arguments."""
    return [
        part.rpartition(":")[0] if name.endswith("-scaled") else part
        for name, value, _ in flags_with_values(arguments, _ADAPTERS)
        for part in value.split(",")
    ]


def _join(values: _Values) -> None:
    patterns = values.pop("patterns")
    if values.pop("experts_on_host", False):
        patterns.append(EXPERTS)
    values["overrides"] = "|".join(patterns) or None


def projector_flags(arguments: Sequence[str]) -> ProjectorFlags:
    """Return a projector's settings in a model's arguments. Raises `ValueError`, which names the flag."""
    values: _Values = {}
    _read_all(arguments, _PROJECTOR_FLAGS, values)
    return ProjectorFlags(**values)


def is_given(arguments: Sequence[str], *names: str) -> bool:
    """Whether any of these flags is among the arguments. A value that looks like the flag counts too."""
    return any(name in names for name, _ in _flags(arguments))


def flags_with_values(arguments: Sequence[str], names: Collection[str]) -> Iterator[tuple[str, str, int]]:
    """Yield each given flag of `names`, its value, and the flag's index. All `names` must take a value."""
    end = -1
    for name, index in _flags(arguments):
        if index > end and name in names:
            _, equals, value = arguments[index].partition("=")
            end = index if equals else index + 1
            yield name, value if equals else "".join(arguments[end : end + 1]), index


def without(arguments: Sequence[str], *names: str) -> list[str]:
    """Return the arguments without these flags and their values. All `names` must take a value."""
    dropped: set[int] = set()
    for _, _, index in flags_with_values(arguments, names):
        dropped |= {index} if "=" in arguments[index] else {index, index + 1}
    return [word for index, word in enumerate(arguments) if index not in dropped]


def last_of(arguments: Sequence[str], *names: str) -> tuple[str, str] | None:
    """Return the last of these flags that is given, with its value, or None."""
    found = None
    for name, index in _flags(arguments):
        if name in names:
            _, equals, value = arguments[index].partition("=")
            found = name, value if equals else "".join(arguments[index + 1 : index + 2])
    return found


def check(shape: Shape, settings: LoadSettings) -> None:
    """Raise `ValueError` for settings that llama.cpp would refuse for this model."""
    if settings.parallel > MAX_SLOTS:
        raise ValueError(f"{settings.parallel} slots are more than llama.cpp's {MAX_SLOTS}")
    if not settings.batch and not settings.micro_batch:
        raise ValueError("--batch-size and --ubatch-size cannot both be 0")
    _check_cache(shape, settings)


def _check_cache(shape: Shape, settings: LoadSettings) -> None:
    flash, types = settings.flash_attention is not False, (settings.type_k, settings.type_v)
    for flag, kind, widths in (("k", types[0], shape.keys), ("v", types[1], shape.values)):
        if kind.lower() not in CACHE_TYPES:
            raise ValueError(f"--cache-type-{flag}: {kind.lower()!r} is no type of a cache")
        block, _ = block_of(kind)
        # Whole rows must consist of blocks without flash attention, single heads with it.
        layers = zip(widths, shape.kv_heads, shape.caches, strict=True)
        rows = [width if flash else width * heads for width, heads, caches in layers if caches]
        if odd := next((row for row in rows if row % block), 0):
            what = "heads" if flash else "rows"
            raise ValueError(
                f"--cache-type-{flag} {kind.lower()} has blocks of {block}, which do not divide the model's "
                f"{what} of {odd}"
            )
    if not flash and block_of(types[1])[0] > 1:
        raise ValueError(f"--cache-type-v {types[1].lower()} needs flash attention, which is off")
    if shape.latent and types[0] != types[1]:
        raise ValueError("the model's cache has one type: --cache-type-k and --cache-type-v must be the same")


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each word as llama.cpp reads a flag, without a `=value`, and its index."""
    for index, word in enumerate(arguments):
        name = word.partition("=")[0] if word.startswith("-") else word
        yield name.replace("_", "-") if word.startswith("--") else name, index


def _read_all(arguments: Sequence[str], table: dict[str, _Read | _Values], values: _Values) -> None:
    end = -1
    for name, index in _flags(arguments):
        if index <= end or (entry := table.get(name)) is None:
            continue
        if isinstance(entry, dict):
            values.update(entry)
            continue
        _, equals, value = arguments[index].partition("=")
        if not equals:
            end = index + 1
            if end == len(arguments):
                raise ValueError(f"{name}: expected a value")
            value = arguments[end]
        try:
            entry(value, values)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


# Readers of values


def _number(key: str, least: int = 0) -> _Read:
    def read(value: str, values: _Values) -> None:
        values[key] = _whole(value, least)

    return read


def _whole(value: str, least: int) -> int:
    if not value.isdecimal() or not least <= int(value) <= MAX_NUMBER:
        raise ValueError(f"expected a number, {least} or more, got {value!r}")
    return int(value)


def _read_parallel(value: str, values: _Values) -> None:
    if value == "-1":
        values.update(parallel=AUTO_SLOTS, unified=True)
    else:
        values["parallel"] = _whole(value, 1)


def _read_flash(value: str, values: _Values) -> None:
    if value not in _WORDS:
        raise ValueError(f"expected on, off or auto, got {value!r}")
    values["flash_attention"] = _WORDS[value]


def _cache_type(key: str) -> _Read:
    def read(value: str, values: _Values) -> None:
        if value not in CACHE_TYPES:
            raise ValueError(f"{value!r} is no type of a cache; such are {', '.join(CACHE_TYPES)}")
        values[key] = value.upper()

    return read


def _read_layers(value: str, values: _Values) -> None:
    # For llama.cpp every negative number means all layers.
    every = value in ("all", "auto") or re.fullmatch(r"-\d+", value)
    values["gpu_layers"] = None if every else _whole(value, 0)


def _read_device(value: str, values: _Values) -> None:
    if value == "none":
        values["gpu_layers"] = 0


def _read_split_mode(value: str, values: _Values) -> None:
    if value not in ("none", "layer", "row", "tensor"):
        raise ValueError(f"expected none, layer, row or tensor, got {value!r}")
    values["split"] = value != "none"


def _read_split(value: str, values: _Values) -> None:
    try:
        shares = tuple(float(word) for word in re.split("[,/]+", value))
    except ValueError:
        shares = (-1.0,)
    if not all(0 <= share < float("inf") for share in shares):
        raise ValueError(f"expected numbers with commas between, got {value!r}")
    values["tensor_split"] = shares if any(shares) else None


def _read_overrides(value: str, values: _Values) -> None:
    for part in value.split(","):
        pattern, equals, buffer = part.partition("=")
        if not equals:
            raise ValueError(f"expected PATTERN=BUFFER, got {part!r}")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no pattern: {error}") from None
        if buffer == "CPU":
            values["patterns"].append(pattern)


def _first_layers(pattern: str) -> _Read:
    def read(value: str, values: _Values) -> None:
        if count := _whole(value, 0):
            values["patterns"].append(rf"blk\.({'|'.join(map(str, range(count)))}){pattern}")

    return read


def _read_pooling(value: str, values: _Values) -> None:
    if value != "none":
        values["outputs"] = 0


def _read_load_mode(value: str, values: _Values) -> None:
    values["locked"] = value not in ("auto", "mmap")


def _read_cache(value: str, values: _Values) -> None:
    # Without a limit it may grow for ever; the default is what it would have at least.
    values["prompt_cache"] = NO_LIMIT if value == "-1" else _whole(value, 0)


def _read_kinds(value: str, values: _Values) -> None:
    values["kinds"] = tuple(value.split(","))


def _text(key: str) -> _Read:
    def read(value: str, values: _Values) -> None:
        values[key] = value

    return read


def _by_name(table: dict[str, Any]) -> dict[str, Any]:
    return {name: entry for names, entry in table.items() for name in names.split()}


_FLAGS: dict[str, _Read | _Values] = _by_name(
    {
        "-c --ctx-size": _number("context"),
        "-np --parallel": _read_parallel,
        "-b --batch-size": _number("batch"),
        "-ub --ubatch-size": _number("micro_batch"),
        "-ctk --cache-type-k": _cache_type("type_k"),
        "-ctv --cache-type-v": _cache_type("type_v"),
        "-fa --flash-attn": _read_flash,
        "-kvu --kv-unified": {"unified": True},
        "-no-kvu --no-kv-unified": {"unified": False},
        "--swa-full": {"full_window": True},
        "-kvo --kv-offload": {"offload_kv": True},
        "-nkvo --no-kv-offload": {"offload_kv": False},
        " ".join(LAYER_FLAGS): _read_layers,
        "-dev --device": _read_device,
        "-sm --split-mode": _read_split_mode,
        "-mg --main-gpu": _number("main_gpu"),
        "-ts --tensor-split": _read_split,
        "-ot --override-tensor": _read_overrides,
        "-cmoe --cpu-moe": {"experts_on_host": True},
        "-ncmoe --n-cpu-moe": _first_layers(EXPERTS),
        "-ncffn --n-cpu-ffn": _first_layers(FEED_FORWARD),
        # Embeddings are computed from all tokens, so each token is an output.
        "--embedding --embeddings --rerank --reranking": {"outputs": 0},
        "--pooling": _read_pooling,
        # The host's weights cannot be dropped and read again.
        "--mlock --no-mmap -dio --direct-io": {"locked": True},
        "--mmap -ndio --no-direct-io": {"locked": False},
        "-lm --load-mode": _read_load_mode,
        "--moe-cache-mib": _number("expert_cache"),
        "-cram --cache-ram": _read_cache,
        "-ctxcp --ctx-checkpoints --swa-checkpoints": _number("checkpoints"),
        "--repack": {"repack": True},
        "-nr --no-repack": {"repack": False},
    }
)
_DRAFT_FLAGS: dict[str, _Read | _Values] = _by_name(
    {
        "-md --model-draft --spec-draft-model": _text("model"),
        "--spec-type": _read_kinds,
        "--spec-draft-n-max": _number("most"),
        "-ctkd --cache-type-k-draft --spec-draft-type-k": _cache_type("type_k"),
        "-ctvd --cache-type-v-draft --spec-draft-type-v": _cache_type("type_v"),
        "-ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl": _read_layers,
        "-otd --override-tensor-draft --spec-draft-override-tensor": _read_overrides,
        "-cmoed --cpu-moe-draft --spec-draft-cpu-moe": {"experts_on_host": True},
        "-ncmoed --n-cpu-moe-draft --spec-draft-n-cpu-moe --spec-draft-ncmoe": _first_layers(EXPERTS),
    }
)
_ADAPTERS = ("--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled")
_PROJECTOR_FLAGS: dict[str, _Read | _Values] = _by_name(
    {
        "--image-max-tokens": _number("image_max_tokens", 1),
        "--mtmd-batch-max-tokens": _number("batch_tokens"),
        "--mmproj-offload": {"on_gpu": True},
        "--no-mmproj-offload": {"on_gpu": False},
    }
)
COUNTED_FLAGS = frozenset([*_FLAGS, *_PROJECTOR_FLAGS, *_DRAFT_FLAGS])
"""Flags that are read here."""
