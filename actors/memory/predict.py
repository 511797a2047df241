"""Predicts llama.cpp's allocations for a model, in bytes per device, from its header and the settings."""

import operator
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import msgspec

from actors.memory.buffer import align
from actors.memory.builds import NEWEST, Build
from actors.memory.gguf import Tensor
from actors.memory.graph.work import BIG_BATCH, F32, KERNEL_HEADS, HostSide, Work, on_gpu, row_bytes
from actors.memory.graph.worst_case import compute_buffer, cuts
from actors.memory.shape import ENCODERS, Pooling, Shape

HOST = -1
MODELLED = frozenset(
    [
        *ENCODERS,
        "apertus",
        "bailingmoe2",
        "cohere2",
        "command-r",
        "deepseek2",
        "deepseek32",
        "ernie4_5",
        "ernie4_5-moe",
        "exaone4",
        "falcon-h1",
        "gemma2",
        "gemma3",
        "gemma3n",
        "gemma4",
        "glm-dsa",
        "glm4moe",
        "gpt-oss",
        "granitehybrid",
        "granitemoe",
        "hunyuan-dense",
        "hunyuan-moe",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "llama",
        "llama4",
        "mamba",
        "mamba2",
        "mimo2",
        "minimax-m2",
        "mistral3",
        "nemotron_h",
        "nemotron_h_moe",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen2vl",
        "qwen3",
        "qwen35",
        "qwen35moe",
        "qwen3moe",
        "qwen3next",
        "qwen3vl",
        "qwen3vlmoe",
        "seed_oss",
        "smollm3",
        "step35",
    ]
)
"""Architectures whose graphs were compared with llama.cpp's own figures; see tests/actors/memory."""

NEARLY_MODELLED = frozenset(["mistral4"])
"""Architectures whose graph is replayed, except for products that llama.cpp leaves to the host."""

HOST_ROWS = ("token_embd", "per_layer_token", "position_embd", "token_types")
"""Beginnings of the names of tensors whose rows are looked up singly: llama.cpp keeps them on the host."""

REPACKED = frozenset(["Q4_0", "Q4_K", "IQ4_NL", "MXFP4"])
"""Types of weights that llama.cpp packs again for CPUs with AVX2, or for ARM's."""

PIPELINE = 4
"""Number of copies of the inputs with pipeline parallelism, which works on so many batches at a time."""

OWN_ROWS = 5
"""Number of rows of activations to add to the estimate if a graph cannot be replayed at all (measured)."""

ALTUP_ROWS = 8
"""Number of rows of activations that go from one GPU to the next, for models with AltUp (measured)."""

FIRST_LAYERS = ("token_embd_norm", "per_layer_model_proj", "per_layer_proj_norm")
"""Beginnings of the names of tensors outside of layers that are placed with the first layer."""

SPILL, SPILL_EXPERTS, SPILL_ENCODER = 3.4, 6.3, 2.1
"""Maximum memory beyond its graph of a partly offloaded model, in activations of a micro-batch (measured).

Of models without experts, with experts, and of encoders.
"""

FALLBACK_MARGIN, REPLAY_MARGIN = 1.15, 1.1
"""Factors for graphs that are not modelled: of the estimate, and of the replay of a similar graph."""

Certainty = Literal["exact", "bound", "fallback"]


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


class MemoryUsage(msgspec.Struct, kw_only=True):
    """Bytes on one device."""

    weights: int = 0
    kv: int = 0
    compute: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.kv + self.compute + self.output


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The predicted memory. `certainty`: exact, bound (an upper limit), fallback (estimate with reserve)."""

    gpus: tuple[MemoryUsage, ...]
    host: MemoryUsage
    certainty: Certainty
    layers: tuple[int, ...]
    """The device of each layer, and of the output after them; -1 is the host."""


def predict(shape: Shape, settings: LoadSettings, gpus: Sequence[int]) -> Prediction:
    """Predict the memory, given each GPU's free bytes. Raises `ValueError` for settings llama.cpp refuses."""
    return _Predictor(shape, settings, gpus).run()


def most_of_cuts(shape: Shape, settings: LoadSettings, starts: Sequence[int]) -> list[int]:
    """Return the bytes that each GPU takes more where the cuts between them are least favourable.

    `starts`: the first layer of each GPU except the first. A cut inside a block costs more than one between.
    """
    costs = cuts(shape, _Predictor(shape, settings, [1] * (len(starts) + 1)).work)
    if not costs:
        return [0] * (len(starts) + 1)
    after, before = (max(cost[side] for cost in costs) for side in (0, 1))
    own = [costs[start - 1] if 0 < start <= len(costs) else (0, 0) for start in starts]
    more = [0] * (len(starts) + 1)
    for nth, (after_own, before_own) in enumerate(own):
        more[nth] += PIPELINE * (before - before_own)
        more[nth + 1] += PIPELINE * (after - after_own)
    return more


def repacked(shape: Shape) -> int:
    """Return the bytes of weights that llama.cpp, without GPUs, packs again for the CPU."""
    return sum(
        tensor.size
        for name, tensor in shape.tensors.items()
        if tensor.type in REPACKED and len(tensor.shape) > 1 and tensor.shape[1] % 8 == 0
        if not name.startswith(HOST_ROWS)
        or (name == "token_embd.weight" and shape.writes and "output.weight" not in shape.tensors)
    )


def worst_cut(shape: Shape, settings: LoadSettings) -> int:
    """Return the most bytes that cuts add to a GPU without pipeline parallelism, and with what they copy."""
    costs = cuts(shape, _Predictor(shape, settings, [1]).work)
    return 2 * sum(max((cost[side] for cost in costs), default=0) for side in (0, 1))


def layer_usages(shape: Shape, settings: LoadSettings) -> list[MemoryUsage]:
    """Return weights and cache of each layer, and last of the output layer, as if all were on GPUs."""
    apart = msgspec.structs.replace(settings, gpu_layers=None, tensor_split=None, split=True)
    predictor = _Predictor(shape, apart, [1] * (shape.layers + 1))
    predictor.place_layers()
    # Each device has one copy of these tensors, for any number of layers.
    copied = sum(on_gpu(tensor) for name, tensor in shape.tensors.items() if name.startswith("rope_f"))
    for usage in predictor.usage[: shape.layers]:
        usage.weights -= copied
    return predictor.usage


def layer_bytes(shape: Shape, settings: LoadSettings) -> list[int]:
    """Return the bytes of each layer, and last of the output layer: the totals of `layer_usages`."""
    return [usage.total for usage in layer_usages(shape, settings)]


class _Predictor:
    def __init__(self, shape: Shape, settings: LoadSettings, gpus: Sequence[int]) -> None:
        self.shape = shape
        self.settings = settings
        self.gpus = list(gpus) if settings.split or not gpus else [gpus[settings.main_gpu]]
        self.nearly = shape.architecture in NEARLY_MODELLED
        self.modelled = shape.architecture in MODELLED or self.nearly
        self.gpu_layers = shape.layers + 1 if settings.gpu_layers is None else settings.gpu_layers
        self.devices = self._assign()
        self.work = self._work()
        self.usage = [MemoryUsage() for _ in self.gpus]
        self.host = MemoryUsage(output=F32 * self._outputs)
        self.on_host: list[Tensor] = []

    def run(self) -> Prediction:
        self.place_layers()
        self._place_compute()
        if self.settings.own_head:
            self._place_head()
        if self.on_host and self.usage:
            self.usage[0].compute += self.settings.expert_cache << 20
        if not self.modelled:
            certainty: Certainty = "fallback"
        else:
            settings = self.settings
            known = self._is_whole and not self.nearly and settings.build.is_tested and not settings.own_head
            certainty = "exact" if known else "bound"
        return Prediction(
            gpus=tuple(self.usage), host=self.host, certainty=certainty, layers=tuple(self.devices)
        )

    def place_layers(self) -> None:
        """Place weights and cache, without compute buffers."""
        self._place_weights()
        self._place_cache()

    # The devices of layers

    def _assign(self) -> list[int]:
        """Return the device of each layer and of the output, as `llama_model::load_tensors` chooses it."""
        count = self.shape.layers + 1
        first, on_gpu = max(count - self.gpu_layers, 0), min(self.gpu_layers, count)
        weights = list(self.settings.tensor_split or self.gpus)[: len(self.gpus)]
        total = sum(self.settings.tensor_split or self.gpus) or 1
        bounds = [bound / total for bound in accumulate(weights)]

        def device(layer: int) -> int:
            if not self.gpus or not first <= layer < first + on_gpu:
                return HOST
            share = (layer - first) / on_gpu
            return next((gpu for gpu, bound in enumerate(bounds) if bound > share + 1e-9), len(self.gpus) - 1)

        return [device(layer) for layer in range(count)]

    @property
    def _batches(self) -> tuple[int, int]:
        """The number of tokens of a batch, and of a micro-batch."""
        settings = self.settings
        batch = min(settings.whole_batch or settings.batch, settings.context)
        return batch, min(settings.whole_batch or settings.micro_batch, batch)

    @property
    def _outputs(self) -> int:
        """Maximum number of floats of llama.cpp's output buffer on the host.

        Each output has a row as wide as the vocabulary. In a model that embeds or ranks, each token of a
        micro-batch is an output, with its vector besides, and the server's batches are micro-batches.
        """
        shape, slots = self.shape, max(1, self.settings.parallel)
        if self.settings.pooling is None:
            return shape.vocabulary * slots
        return (shape.vocabulary + shape.width) * max(slots, self._batches[1])

    def _work(self) -> Work:
        shape, settings = self.shape, self.settings
        batch, micro_batch = self._batches
        context = align(settings.context, 256)
        cells = context if settings.unified else align(context // settings.parallel, 256)
        total = cells if settings.unified else cells * settings.parallel
        tokens = align(min(total, micro_batch), settings.parallel)
        sequences = settings.parallel if settings.unified else 1
        window = align(min(cells, shape.window * sequences + micro_batch), 256)
        of_slots = min(batch, settings.parallel * (1 + settings.drafted))
        outputs = of_slots if settings.outputs is None else settings.outputs or batch
        if not settings.build.limits_outputs:
            outputs = tokens
        if not shape.cached:  # a token attends only to tokens of its batch
            cells = window = outputs = tokens
        return Work(
            tokens=tokens,
            outputs=min(tokens, outputs),
            sequences=settings.parallel,
            streams=1 if settings.unified or not shape.cached else settings.parallel,
            cells=cells,
            window_cells=cells if settings.full_window else window,
            pooling=settings.pooling or "none",
            mixes=settings.build.mixes_inputs,
            casts_masks=settings.build.casts_masks,
            flash=self._flash,
            type_k=settings.type_k,
            type_v=settings.type_v,
        )

    @property
    def _flash(self) -> bool:
        """Whether flash attention is used. Without a setting llama.cpp uses it where the layers are."""
        if self.settings.flash_attention is not None:
            return self.settings.flash_attention
        return not self.gpus or KERNEL_HEADS.issuperset(self.shape.keys)

    @property
    def _is_whole(self) -> bool:
        """Whether all of the model is on GPUs, or nothing of it."""
        spilled = self.settings.overrides is not None or not self.settings.offload_kv
        return not self.gpus or (HOST not in self.devices and not spilled)

    # Weights

    def _place_weights(self) -> None:
        shape = self.shape
        output = self.devices[shape.layers]
        for name, tensor in shape.tensors.items():
            if name.startswith("blk."):
                layer = int(name.split(".")[1])
                if layer <= shape.last:
                    self._place(tensor, self.devices[layer])
            elif name.startswith(FIRST_LAYERS):
                self._place(tensor, self.devices[0])
            elif name.startswith(HOST_ROWS):
                self._place(tensor, HOST)
            elif name.startswith("rope_f"):  # each device has a copy
                for device in set(self.devices[: shape.layers]):
                    self._place(tensor, device)
            else:
                self._place(tensor, output)
        if "output.weight" not in shape.tensors and shape.writes and output != HOST:
            # The embedding is also the output head: a second copy of it goes to the GPU.
            embedding = shape.tensors["token_embd.weight"]
            self._place(msgspec.structs.replace(embedding, name="output.weight"), output)

    def _place(self, tensor: Tensor, device: int) -> None:
        if self.settings.overrides and re.search(self.settings.overrides, tensor.name):
            device = HOST
        if device == HOST:
            self.host.weights += align(tensor.size, 64)
            self.on_host.append(tensor)
        else:
            self.usage[device].weights += on_gpu(tensor)

    def _place_head(self) -> None:
        """Place the layers for multi-token prediction, their cache, and a buffer like the model's own."""
        shape = self.shape
        for layer in range(shape.last + 1, shape.layers):
            device = self.devices[layer]
            for tensor in shape.blocks[layer].values():
                self._place(tensor, device)
            usage = self.host if device == HOST else self.usage[device]
            usage.kv += self._cache_of(layer) * self.work.streams
            usage.compute += max((each.compute for each in (*self.usage, self.host)), default=0)

    # The cache

    def _place_cache(self) -> None:
        shape, work = self.shape, self.work
        for layer in range(shape.last + 1):
            device = self.devices[layer] if self.settings.offload_kv else HOST
            usage = self.host if device == HOST else self.usage[device]
            if shape.caches[layer]:
                usage.kv += self._cache_of(layer) * work.streams
            if shape.recurrent[layer]:
                # With an own head, a state is kept for each drafted token that may have to be taken back.
                states = max(1, work.sequences) * (1 + self.settings.drafted * self.settings.own_head)
                usage.kv += F32 * (shape.conv_state + shape.ssm_state) * states

    def _cache_of(self, layer: int) -> int:
        """Return the bytes of one stream of a layer's cache."""
        shape, work = self.shape, self.work
        keys = row_bytes(work.type_k, shape.keys[layer] * shape.kv_heads[layer])
        width = shape.values[layer] * shape.kv_heads[layer]
        if not work.flash:  # values are transposed, with the largest width of all layers
            width = max(map(operator.mul, shape.values, shape.kv_heads))
        values = 0 if shape.latent else row_bytes(work.type_v, width)
        chosen = row_bytes(work.type_k, shape.indexed[layer])
        if not shape.latent:
            chosen += row_bytes(work.type_v, shape.indexed[layer])
        return (keys + values + chosen) * work.cells_of(shape, layer)

    # Compute buffers

    def _place_compute(self) -> None:
        shape, layers = self.shape, range(self.shape.last + 1)
        if not self.gpus:
            self.host.compute += self._buffer(list(layers), gpu=False)
            return
        spilled = self._host_side()
        for gpu, usage in enumerate(self.usage):
            # For big batches the first GPU also computes the layers on the host.
            host = spilled if gpu == 0 else None
            if host is None and spilled is not None and not self.settings.offload_kv:
                host = HostSide(cache=spilled.cache)  # each GPU reads the caches of its own layers
            takers = {gpu, HOST} if gpu == 0 and spilled is not None else {gpu}
            mine = [layer for layer in layers if self.devices[layer] in takers or len(self.gpus) == 1]
            if mine:
                usage.compute += (
                    self._buffer(mine, gpu=True, host=host) + self._cut(mine) + self._between(host)
                )
        activations = F32 * shape.width * self.work.tokens
        inputs = self._masks() + self._value_indices()
        copies = self._copies
        self.host.compute += (
            4 * activations + inputs if copies == 1 else 2 * activations + copies * (2 * activations + inputs)
        )

    def _cut(self, mine: list[int]) -> int:
        """Return the bytes for activations where the graph is cut inside a block, between two GPUs.

        Mamba's graph is cut there, and the graph of any recurrent layer that is not modelled may be.
        """
        shape, modelled = self.shape, self.modelled
        if self._copies == 1 or modelled:
            return 0
        alone = [
            block["ssm_in.weight"].shape[1]
            for block in shape.blocks
            if "ssm_in.weight" in block and "ffn_norm.weight" not in block
        ]
        width = shape.conv_width if modelled else max([shape.conv_width, *alone])
        if shape.number("altup.num_inputs"):
            width = max(width, ALTUP_ROWS * shape.width)
        return F32 * width * self.work.tokens * self._copies * (2 * (mine[0] != 0) + (mine[-1] != shape.last))

    @property
    def _copies(self) -> int:
        """The number of copies of the inputs: pipeline parallelism works on four batches at a time."""
        everything = self.gpu_layers > self.shape.layers and self._is_whole
        return PIPELINE if len(self.gpus) > 1 and everything else 1

    def _buffer(self, layers: list[int], *, gpu: bool, host: HostSide | None = None) -> int:
        first, last = layers[0] == 0, layers[-1] == self.shape.last
        shape, work, copies = self.shape, self.work, self._copies
        gpus = {self.devices[layer] for layer in layers}
        foreign = {
            layer
            for layer in layers
            if shape.cached and self.devices[shape.sources[layer]] not in {*gpus, HOST}
        }
        try:
            size = compute_buffer(
                shape,
                work,
                layers,
                first=first,
                last=last,
                gpu=gpu,
                copies=copies,
                host=host,
                foreign=frozenset(foreign),
            )
        except LookupError:  # a layer lacks a tensor that the graph needs
            size, self.modelled = 0, False
        if size and self.modelled:
            return int(REPLAY_MARGIN * size) if self.nearly else size
        passed = 0 if size else OWN_ROWS * F32 * shape.width * work.tokens * copies
        return max(int(REPLAY_MARGIN * size), int(FALLBACK_MARGIN * self._estimate()) + passed)

    def _host_side(self) -> HostSide | None:
        """Return the weights and caches on the host that big batches copy to the first GPU, or None."""
        if self._is_whole or self.work.tokens < BIG_BATCH:
            return None
        cache = {
            layer
            for layer in range(self.shape.last + 1)
            if self.shape.attends[layer]
            and (self.devices[self.shape.sources[layer]] == HOST or not self.settings.offload_kv)
        }
        weights = {tensor.name for tensor in self.on_host if not tensor.name.startswith(HOST_ROWS)}
        return HostSide(weights=frozenset(weights), cache=frozenset(cache))

    def _between(self, host: HostSide | None) -> int:
        """Return an upper limit of the bytes kept where the graph goes from the GPU to the host and back."""
        if host is None:
            return 0
        experts = self.shape.number("expert_count") > 0
        rows = SPILL_EXPERTS if experts else SPILL if self.shape.cached else SPILL_ENCODER
        spill = int(rows * F32 * self.shape.width * self.work.tokens)
        gated = "ffn_gate_inp_shexp.weight" in self.shape.blocks[self.shape.last]
        spill += 2 * F32 * self.shape.beside * self.shape.layers * self.work.tokens
        waits = gated or self.shape.waits_for_experts(self.shape.last)
        if self.settings.overrides and (waits or not self.modelled):
            # Two copies of expert tensors exist at a time, while the shared expert's part is computed.
            spill += max((on_gpu(self.shape.tensors[name]) for name in host.weights), default=0)
        return spill

    def _masks(self) -> int:
        shape, work = self.shape, self.work
        row = (2 if work.flash else 4) * work.tokens // work.streams * work.streams
        kinds = {
            (work.cells_of(shape, layer), shape.windowed[layer])
            for layer in range(shape.layers)
            if shape.attends[layer]
        }
        return sum(row * cells for cells, _ in kinds)

    def _value_indices(self) -> int:
        shape, work = self.shape, self.work
        if work.flash or shape.latent:
            return 0
        by_window = {
            shape.windowed[layer]: 8 * work.tokens * shape.values[layer] * shape.kv_heads[layer]
            for layer in range(shape.layers)
            if shape.attends[layer]
        }
        return sum(by_window.values())

    def _estimate(self) -> int:
        """Estimate a compute buffer from dimensions alone, fitted to llama.cpp's for many architectures."""
        shape, work = self.shape, self.work
        used, expert = shape.number("expert_used_count"), shape.number("expert_feed_forward_length")
        dense = max(
            (block["ffn_up.weight"].shape[1] for block in shape.blocks if "ffn_up.weight" in block), default=0
        )
        wide = max(2 * dense, used * (2 * expert + shape.width) if used else 0)
        inner = shape.ssm_state // (
            shape.number("ssm.state_size") or shape.number("kda.head_dim") or shape.width
        )
        heads, kv_heads = max(shape.heads), max(shape.kv_heads)
        cells = work.cells * work.streams
        mask = (2 if work.flash else 4) * work.cells * work.tokens
        scores = 0 if work.flash else F32 * heads * work.cells * work.tokens
        converted = work.flash and (work.type_k, work.type_v) != ("F16", "F16")
        copies = 2 * cells * kv_heads * (max(shape.keys) + max(shape.values)) if converted else 0
        activations = work.tokens * F32 * (9.8 * shape.width + 2.07 * wide + 2.1 * inner)
        logits = F32 * shape.vocabulary * work.outputs
        return int(activations + logits + 0.74 * mask + 0.86 * scores + 0.70 * copies)
