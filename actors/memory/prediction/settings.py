"""The settings of a llama-server that change its memory."""

from collections.abc import Sequence

import msgspec

from actors.memory.builds import NEWEST, Build
from actors.memory.shape import Pooling


class LoadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a llama-server. Sizes are in tokens; types of the cache have ggml's names.

    `flash_attention` None: used where the layers are, if possible. `gpu_layers` counts the output layer too;
    None: all layers. `tensor_split` has a share for each GPU; None: split by free memory. `overrides` is a
    pattern of tensors that stay on the host. `pooling` is None for a model that writes. `input_limit` is the
    length of the longest text that has to fit into one micro-batch, which is then as large as a slot's
    context, but at most this limit; 0: texts are read in parts. `build` of llama.cpp. `locked`: the host's
    weights are not mapped from the file, or must stay. `drafted`: tokens that a draft model or the model's
    `own_head` drafts at a time. `expert_cache`: MiB on GPUs for experts that are on the host.
    `prompt_cache`: most MiB of saved prompts, `checkpoints` of each slot; None: not chosen.
    `repack`: without GPUs, weights may be packed again for the CPU.
    """

    context: int = 4096
    parallel: int = 1
    type_k: str = "F16"
    type_v: str = "F16"
    flash_attention: bool | None = None
    micro_batch: int = 512
    batch: int = 2048
    unified: bool = False
    full_window: bool = False
    gpu_layers: int | None = None
    split: bool = True
    tensor_split: Sequence[float] | None = None
    main_gpu: int = 0
    overrides: str | None = None
    offload_kv: bool = True
    outputs: int | None = None
    pooling: Pooling | None = None
    input_limit: int = 0
    build: Build = NEWEST
    locked: bool = False
    drafted: int = 0
    own_head: bool = False
    expert_cache: int = 0
    prompt_cache: int | None = None
    checkpoints: int | None = None
    repack: bool = True

    @property
    def whole_batch(self) -> int:
        """Tokens of batch and micro-batch if each text has to fit into one; 0: texts are read in parts."""
        return min(self.input_limit, self.context if self.unified else self.context // self.parallel)
