"""Loads of models by llama.cpp: their settings, and what it allocated."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from actors.memory.prediction.settings import LoadSettings

_POOLINGS = ("none", "mean", "cls", "last", "rank")
_WORDS = {
    "ctx": "context", "np": "parallel", "ub": "micro_batch", "swa_full": "full_window", "ngl": "gpu_layers",
    "ts": "tensor_split", "ot": "overrides", "offload_kqv": "offload_kv", "batch": "batch",
    "n_outputs": "outputs", "unified": "unified",
}  # fmt: skip


class Load(msgspec.Struct):
    """One load: its GPUs; bytes of weights, cache and compute buffer on each of them."""

    model: str
    settings: dict[str, Any]
    gpus: list[int]
    loaded: list[list[int]]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to the host."""
        return (
            not {"ngl", "ot"} & self.settings.keys() and self.settings.get("offload_kqv", True) is not False
        )

    @property
    def as_settings(self) -> LoadSettings:
        """In the predictor's words."""
        given = {_WORDS[key]: value for key, value in self.settings.items() if key in _WORDS}
        kind = self.settings.get("kv", "f16").upper()
        flash = {1: True, 0: False, -1: None}[self.settings.get("fa", 1)]
        if "pool" in self.settings:  # each token is an output
            given |= {"pooling": _POOLINGS[self.settings["pool"]], "outputs": 0}
        return LoadSettings(
            **given,
            type_k=kind,
            type_v=self.settings.get("kvv", kind).upper(),
            flash_attention=flash,
            split=self.settings.get("split_mode") != 0,
        )


def read(path: Path) -> Iterator[Load]:
    """The loads in a file, one to a line."""
    for line in path.read_text().splitlines():
        yield msgspec.json.decode(line, type=Load)
