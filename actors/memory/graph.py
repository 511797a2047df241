"""llama.cpp's worst-case graph of one device, as far as its memory goes.

Each function mirrors one of llama.cpp's graph builders (src/llama-graph.cpp, src/models/*.cpp): the same
tensors of the same sizes in the same order, without what they compute. Sizes are in bytes; activations are
32-bit floats.
"""

from collections.abc import Sequence

import msgspec

from actors.memory.buffer import Buffer, Node, align
from actors.memory.gguf import Tensor, block_of
from actors.memory.shape import Pooling, Shape

F32 = 4
BIG_BATCH = 32
"""Tokens from which on llama.cpp computes with weights of the host on the GPU."""

KERNEL_HEADS = frozenset([40, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576])
"""Widths of heads for which GPUs have flash attention; of others it is computed on the host."""

HADAMARD = 64
"""Rows of the rotation that goes before a quantised cache, at least."""


RAW_WEIGHTS = frozenset(["deepseek2", "nomic-bert-moe"])
"""Architectures whose weights of experts do not add up to one unless the header says so."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The batch that the buffers must be large enough for.

    `tokens` of a micro-batch, `outputs` of them with logits, `sequences` in `streams` of the cache, which
    has `cells` in each, and `window_cells` in layers with a sliding window. The types are ggml's names.
    `pooling`: how vectors of tokens become one of the text.
    """

    tokens: int
    outputs: int
    sequences: int
    streams: int
    cells: int
    window_cells: int
    flash: bool
    type_k: str
    type_v: str
    pooling: Pooling = "none"

    def cells_of(self, shape: Shape, layer: int) -> int:
        """Cells of the cache in each stream, for a layer."""
        return self.window_cells if shape.windowed[layer] else self.cells


class HostSide(msgspec.Struct, frozen=True, kw_only=True):
    """What lies on the host and is copied to the GPU when it is needed: tensors, and the cache of layers."""

    weights: frozenset[str] = frozenset()
    cache: frozenset[int] = frozenset()


def compute_buffer(
    shape: Shape,
    work: Work,
    layers: Sequence[int],
    *,
    first: bool,
    last: bool,
    gpu: bool,
    copies: int = 1,
    host: HostSide | None = None,
    kind: "type[Graph] | None" = None,
    foreign: frozenset[int] = frozenset(),
) -> int:
    """Bytes of the compute buffer of a device that has these layers.

    `first` and `last`: whether it has the embedding's and the head's side. Layers repeat: a few are enough.
    `kind`: how the graph is built, if not as that of a model that writes. `foreign`: layers that read a cache
    which is on another GPU.
    """
    if len(layers) > 14 and not shape.beside and not foreign:
        layers = [*layers[:12], *layers[-2:]]
    return (
        (kind or Graph)(shape, work, gpu=gpu, host=host or HostSide(), copies=copies, foreign=foreign)
        .build(layers, first=first, last=last)
        .required(copies)
    )


def row_bytes(kind: str, count: int) -> int:
    """Bytes of a row. Raises `ValueError` when it is no whole number of the type's blocks."""
    block, size = block_of(kind)
    if count % block:
        raise ValueError(
            f"a cache of the type {kind} needs rows in blocks of {block}; this model's have {count}"
        )
    return count // block * size


def on_gpu(tensor: Tensor) -> int:
    """Bytes of a tensor on a CUDA device, which pads quantised rows to 512 and tensors to 128 bytes."""
    block, size = block_of(tensor.type)
    padding = -tensor.shape[0] % 512 if block > 1 and tensor.shape else 0
    return align(tensor.size + padding // block * size)


_SECOND_NORMS = {"ffn_norm.weight", "post_attention_norm.weight"}
"""Of a layer that has a feed forward behind its attention."""


def _is_quantized(kind: str) -> bool:
    return block_of(kind)[0] > 1


class Graph:
    """The graph of a model that writes, with a cache of what it has read."""

    def __init__(
        self,
        shape: Shape,
        work: Work,
        *,
        gpu: bool,
        host: HostSide,
        copies: int,
        foreign: frozenset[int],
    ) -> None:
        self.host = host
        self.foreign = foreign
        self.beside: Node | None = None
        self.stacked: Node | None = None
        self.copies = copies
        self.shape = shape
        self.work = work
        self.gpu = gpu
        self.buffer = Buffer()
        self.add, self.view, self.input = self.buffer.add, self.buffer.view, self.buffer.input
        self.row = F32 * shape.width * work.tokens
        """Bytes of the activations between two layers."""

    def build(self, layers: Sequence[int], *, first: bool, last: bool) -> Buffer:
        x = self._embed() if first else self.input("x", self.row)
        if first and self.shape.beside:
            self.beside = self._project_beside(x)
        for layer in layers:
            x = self._layer(layer, x, selects=last and layer == self.shape.last)
        if last:
            self._head(x)
        return self.buffer

    def _embed(self) -> Node:
        """The batch may be tokens or embeddings, so both ways stay allocated."""
        tokens = self.work.tokens
        row = self.row * (1 + self.shape.stacked)
        if self.gpu:
            mixed, other = self.input("mix", row), self.input("n1", self.row)
            slots = self.input("slots", 8 * tokens)
            x = self.input("embd", self.row)
            if self.shape.stacked:  # as wide as what comes with images
                x, other = self.add(row, x), self.add(row, other)
        else:
            self.input("tok", 4 * tokens)
            self.input("inp_embd", row)
            mixed, slots = self.input("mix", row), self.input("slots", 8 * tokens)
            self.input("tok2", 4 * tokens)
            x, other = self.add(row), self.add(row)
        self.view(self.add(row, mixed), other, slots)
        if self.shape.stacked:
            self.stacked = x
            x = self.view(x)
        if self.shape.architecture.startswith("gemma"):
            scale = self.input("scale", 4 * tokens) if self.shape.architecture != "gemma2" else None
            x = self.add(self.row, x, scale, in_place=True)
        return x

    def _project_beside(self, x: Node) -> Node:
        """What each layer gets of the tokens: looked up on the host, and projected from the activations."""
        size = F32 * self.shape.beside * self.shape.layers * self.work.tokens
        found = self.add(size, self.input("beside", size), in_place=True)
        projected = self.add(size, self.add(size, x), in_place=True)
        projected = self._norm(projected, size)
        projected = self.add(size, self.add(size, projected, found, in_place=True), in_place=True)
        return self.add(size, self.view(projected))

    def _add_beside(self, layer: int, x: Node, tokens: int, *, selects: bool) -> Node:
        size, row = F32 * self.shape.beside * tokens, F32 * self.shape.width * tokens
        inner = self.add(size, self.add(size, x), in_place=True)
        if self.beside is not None:
            part = self.view(self.beside)
        else:
            part = self.input(f"beside {layer}", F32 * self.shape.beside * self.work.tokens)
        if selects:
            part = self.add(size, part, self.input("ids", 4 * tokens))
        inner = self.add(size, inner, part, in_place=True)
        return self.add(row, x, self._norm(self.add(row, inner), row), in_place=True)

    def _head(self, x: Node) -> None:
        size = F32 * self.shape.width * self.work.outputs
        hidden = self.add(size, self.add(size, x, in_place=True), in_place=True, keep=True)
        # With less than a big batch of outputs, the head is computed where it lies.
        weight = self._copy_of("output.weight") if self.work.outputs >= BIG_BATCH else None
        self.add(F32 * self.shape.vocabulary * self.work.outputs, hidden, weight, keep=True)

    def _multiply(self, size: int, layer: int, part: str, *sources: Node | None) -> Node:
        """A product with a weight of a layer, which is copied here first if it lies on the host."""
        return self.add(size, *sources, self._copy_of(f"blk.{layer}.{part}.weight"))

    def _copy_of(self, name: str) -> Node | None:
        return self.add(on_gpu(self.shape.tensors[name])) if name in self.host.weights else None

    def _cache_copies(self, layer: int) -> list[Node]:
        shape, work = self.shape, self.work
        if layer not in self.host.cache and layer not in self.foreign:
            return []
        cells = work.cells_of(shape, layer) * work.streams
        keys = row_bytes(work.type_k, shape.keys[layer] * shape.kv_heads[layer]) * cells
        values = row_bytes(work.type_v, shape.values[layer] * shape.kv_heads[layer]) * cells
        sizes = [keys] if shape.latent else [keys, values]
        if layer in self.foreign:  # an input, as what comes from another GPU is
            return [self.input(f"cache {layer} {nth}", size) for nth, size in enumerate(sizes)]
        return [self.add(size) for size in sizes]

    def _norm(self, x: Node, size: int) -> Node:
        return self.add(size, self.add(size, x, in_place=True), in_place=True)

    def _layer(self, layer: int, x: Node, *, selects: bool) -> Node:
        shape, block = self.shape, self.shape.blocks[layer]
        position = self.input("pos", 4 * self.work.tokens * (4 if shape.architecture == "qwen35" else 1))
        beside: Node | None = None
        if shape.attends[layer]:
            out, beside = self._attention(layer, x, position, selects=selects)
        elif shape.recurrent[layer]:
            out = self._recurrent(layer, x)
        else:
            out = self._reshape(layer, self._norm(x, self.row), self.work.tokens)
        residual, tokens = beside or x, self.work.tokens
        if selects:  # from here on, only tokens whose logits are wanted
            tokens = self.work.outputs
            out = self._select(out)
            residual = beside or self._select(x)
        size = F32 * shape.width * tokens
        if beside is not None:
            return self.add(size, residual, out, in_place=True)
        if "post_ffw_norm.weight" in block:
            out = self._norm(out, size)
        x = self.add(size, out, residual, in_place=True)
        if not block.keys() & _SECOND_NORMS:
            return x  # such models have one part in each layer
        out = self._reshape(layer, self._norm(x, size), tokens)
        if "post_ffw_norm.weight" in block:
            out = self._norm(out, size)
        x = self.add(size, out, x, in_place=True)
        if self.stacked is not None and layer < shape.stacked:
            x = self.add(size, x, self.view(self.stacked), in_place=True)
        return self._add_beside(layer, x, tokens, selects=selects) if shape.beside else x

    def _reshape(self, layer: int, hidden: Node, tokens: int) -> Node:
        """What the feed forward adds."""
        if "ffn_gate_inp.weight" in self.shape.blocks[layer]:
            return self._experts(layer, hidden, tokens)
        return self._feed_forward(layer, hidden, tokens)

    def _select(self, x: Node) -> Node:
        """Of these, the tokens whose logits are wanted."""
        outputs = self.work.outputs
        return self.add(F32 * self.shape.width * outputs, x, self.input("ids", 4 * outputs))

    # Attention

    def _attention(self, layer: int, x: Node, position: Node, *, selects: bool) -> tuple[Node, Node | None]:
        """What attention adds to `x`; and `x` with the feed forward, if both start from the same norm."""
        shape, work, block = self.shape, self.work, self.shape.blocks[layer]
        heads, kv_heads = shape.heads[layer], shape.kv_heads[layer]
        suffix = "s" if shape.windowed[layer] else ""
        hidden, gate, v = self._norm(x, self.row), None, None
        if shape.latent:
            q, k = self._latent_qk(layer, hidden, position)
        elif "attn_qkv.weight" in block:
            q, k, v = self._fused_qkv(layer, hidden, position)
        else:
            q, k, v, gate = self._separate_qkv(layer, hidden, position, suffix)
        self.add(None, self.view(k), self.input("kidx" + suffix, 8 * work.tokens))
        if v is not None:
            index = 8 * work.tokens * (1 if work.flash else shape.values[layer] * kv_heads)
            self.add(None, self.view(v), self.input("vidx" + suffix, index))
        beside = self._beside(layer, hidden, x, selects=selects) if self._is_parallel(layer) else None
        # Copies of a quantised cache do not fit into the place that the feed forward leaves.
        left = F32 * 3 * block["ffn_down.weight"].shape[0] * work.tokens if beside else 0
        gap = self.add(left) if left and _is_quantized(work.type_k) else None
        attend = self._flash if work.flash else self._softmax
        out = attend(layer, self.view(self.view(q)), suffix)
        self.add(None, gap)
        size = F32 * shape.values[layer] * heads * work.tokens
        if gate is not None:
            opened = self.add(size, self.add(size, self.view(gate)), in_place=True)
            out = self.add(size, out, opened, in_place=True)
        out = self._multiply(self.row, layer, "attn_output", out)
        return self.add(self.row, out, in_place=True) if "attn_output.bias" in block else out, beside

    def _is_parallel(self, layer: int) -> bool:
        """Whether the feed forward has no norm of its own, as in Cohere's models."""
        block = self.shape.blocks[layer]
        return "ffn_down.weight" in block and not block.keys() & _SECOND_NORMS

    def _beside(self, layer: int, hidden: Node, x: Node, *, selects: bool) -> Node:
        tokens = self.work.outputs if selects else self.work.tokens
        if selects:
            hidden, x = self._select(hidden), self._select(x)
        out = self._feed_forward(layer, hidden, tokens)
        return self.add(F32 * self.shape.width * tokens, out, x, in_place=True)

    def _mask(self, layer: int, suffix: str) -> Node:
        work = self.work
        cells = work.cells_of(self.shape, layer)
        size = (2 if work.flash else 4) * work.tokens // work.streams * cells * work.streams
        return self.input("mask" + suffix, size)

    def _flash(self, layer: int, q: Node, suffix: str) -> Node:
        shape, work = self.shape, self.work
        heads, kv_heads = shape.heads[layer], shape.kv_heads[layer]
        cells = work.cells_of(shape, layer) * work.streams
        plain = size = F32 * shape.values[layer] * heads * work.tokens
        if self.gpu and work.type_k != "F16":  # the kernel works on a copy in 16 bits
            size = align(size) + 2 * shape.keys[layer] * kv_heads * cells
        if self.gpu and work.type_v != "F16" and not shape.latent:
            size = align(size) + 2 * shape.values[layer] * kv_heads * cells
        out = self.add(size, q, self._mask(layer, suffix), *self._cache_copies(layer))
        if shape.latent:
            expanded = F32 * shape.number("attention.value_length_mla") * heads * work.tokens
            return self.add(expanded, self.view(self.add(expanded, self.view(out))))
        if _is_quantized(work.type_v) and shape.values[layer] % HADAMARD == 0:
            rotation = self.input("vrot" + suffix, F32 * HADAMARD * HADAMARD)
            return self.add(plain, rotation, self.view(out))
        return self.view(out)

    def _softmax(self, layer: int, q: Node, suffix: str) -> Node:
        shape, work = self.shape, self.work
        heads, cells = shape.heads[layer], work.cells_of(shape, layer)
        values = self.add(2 * shape.values[layer] * cells * work.streams) if shape.latent else None
        size = F32 * cells * (work.tokens // work.streams) * heads * work.streams
        scores = self.add(size, q, *self._cache_copies(layer))
        if shape.number("attn_logit_softcapping") or shape.architecture == "grok":
            scores = self.add(size, scores, in_place=True)
        scores = self.add(size, scores, self._mask(layer, suffix), in_place=True)
        size = F32 * shape.values[layer] * heads * work.tokens
        out = self.add(size, values, scores)
        if shape.latent:
            size = F32 * shape.number("attention.value_length_mla") * heads * work.tokens
            out = self.add(size, out)
        return self.add(size, self.view(out))

    def _latent_qk(self, layer: int, hidden: Node, position: Node) -> tuple[Node, Node]:
        shape, tokens, block = self.shape, self.work.tokens, self.shape.blocks[layer]
        heads = shape.heads[layer]
        key, rank = shape.number("attention.key_length_mla"), shape.number("attention.kv_lora_rank")
        rope = shape.number("rope.dimension_count")
        source = hidden
        if (low := block.get("attn_q_a.weight")) is not None:
            size = F32 * low.shape[1] * tokens
            source = self._norm(self._multiply(size, layer, "attn_q_a", hidden), size)
        part = "attn_q" if low is None else "attn_q_b"
        q = self._multiply(F32 * key * heads * tokens, layer, part, source)
        absorbed = self._multiply(F32 * rank * heads * tokens, layer, "attn_k_b", self.view(q))
        turned = self.add(F32 * rope * heads * tokens, self.view(q), position, in_place=True)
        q = self.add(F32 * shape.keys[layer] * heads * tokens, self.view(absorbed), turned)
        size = F32 * shape.keys[layer] * shape.kv_heads[layer] * tokens
        compressed = self._multiply(size, layer, "attn_kv_a_mqa", hidden)
        latent = self._norm(self.view(compressed), F32 * rank * tokens)
        turned = self.add(F32 * rope * tokens, self.view(compressed), position)
        return q, self.add(size, self.view(latent), turned)

    def _fused_qkv(self, layer: int, hidden: Node, position: Node) -> tuple[Node, Node, Node]:
        shape, tokens = self.shape, self.work.tokens
        size = F32 * shape.keys[layer] * shape.heads[layer] * tokens
        width = shape.blocks[layer]["attn_qkv.weight"].shape[1]
        fused = self._multiply(F32 * width * tokens, layer, "attn_qkv", hidden)
        q = self.add(size, self.view(fused), position)
        if shape.architecture == "phi3":
            q = self.add(size, q, in_place=True)
        k = self.add(F32 * shape.keys[layer] * shape.kv_heads[layer] * tokens, self.view(fused), position)
        return q, k, self.view(fused)

    def _separate_qkv(
        self, layer: int, hidden: Node, position: Node, suffix: str
    ) -> tuple[Node, Node, Node, Node | None]:
        shape, work, block = self.shape, self.work, self.shape.blocks[layer]
        size = F32 * shape.keys[layer] * shape.heads[layer] * work.tokens
        full = F32 * block["attn_q.weight"].shape[1] * work.tokens if "attn_q.weight" in block else size
        q = self._multiply(full, layer, "attn_q", hidden)
        if "attn_q.bias" in block:
            q = self.add(full, q, in_place=True)
        gate = q if full > size else None
        part = self.view(q)
        if "attn_q_norm.weight" in block:
            part = self._norm(part, size)
        q = self.add(size, part, position, in_place=True)
        if shape.architecture.startswith("gemma"):
            q = self.add(size, q, in_place=True)
        side = shape.keys[layer] & -shape.keys[layer]
        q = self._rotate(q, size, "krot" + suffix, side, work.type_k)
        if any(shape.windowed):  # llama.cpp's graph of such models
            k = self._key(layer, hidden, position)
            v = self._value(layer, hidden)
        else:
            v = self._value(layer, hidden)
            k = self._key(layer, hidden, position)
        kv_heads = shape.kv_heads[layer]
        value_size = F32 * shape.values[layer] * kv_heads * work.tokens
        key_size = F32 * shape.keys[layer] * kv_heads * work.tokens
        v = self._rotate(v, value_size, "vrot" + suffix, HADAMARD, work.type_v)
        k = self._rotate(k, key_size, "krot" + suffix, side, work.type_k)
        return q, k, v, gate

    def _key(self, layer: int, hidden: Node, position: Node) -> Node:
        block = self.shape.blocks[layer]
        size = F32 * self.shape.keys[layer] * self.shape.kv_heads[layer] * self.work.tokens
        k = self._multiply(size, layer, "attn_k", hidden)
        if "attn_k.bias" in block:
            k = self.add(size, k, in_place=True)
        part = self.view(k)
        if "attn_k_norm.weight" in block:
            part = self._norm(part, size)
        return self.add(size, part, position, in_place=True)

    def _value(self, layer: int, hidden: Node) -> Node:
        size = F32 * self.shape.values[layer] * self.shape.kv_heads[layer] * self.work.tokens
        v = self._multiply(size, layer, "attn_v", hidden)
        if "attn_v.bias" in self.shape.blocks[layer]:
            v = self.add(size, v, in_place=True)
        return self.view(v)

    def _rotate(self, x: Node, size: int, name: str, side: int, kind: str) -> Node:
        """What goes into a quantised cache is rotated first."""
        if not _is_quantized(kind) or side < HADAMARD:
            return x
        return self.add(size, self.input(name, F32 * side * side), self.view(x))

    # Recurrent layers

    def _recurrent(self, layer: int, x: Node) -> Node:
        block = self.shape.blocks[layer]
        if "time_mix_key.weight" in block:
            raise LookupError("layers of this make are not replayed")
        if "shortconv.conv.weight" in block:
            return self._short_convolution(layer, x)
        if "ssm_x.weight" in block:
            return self._mamba(layer, x)
        return self._mamba2(layer, x) if "ssm_in.weight" in block else self._delta_net(layer, x)

    def _short_convolution(self, layer: int, x: Node) -> Node:
        shape, sequences = self.shape, max(1, self.work.sequences)
        mixed = self._multiply(3 * self.row, layer, "shortconv.in_proj", self._norm(x, self.row))
        product = self.add(self.row, self.view(mixed))
        kept = self.add(F32 * shape.conv_state * sequences, self.input("rs", 4 * sequences))
        conv = self.add(self.row + F32 * shape.conv_state * sequences, self.view(kept), self.view(product))
        self.add(None, self.view(conv))
        out = self.add(self.row, self.view(mixed), self.add(self.row, conv), in_place=True)
        return self.view(self._multiply(self.row, layer, "shortconv.out_proj", out))

    def _mamba(self, layer: int, x: Node) -> Node:
        shape, block = self.shape, self.shape.blocks[layer]
        kernel, inner = shape.number("ssm.conv_kernel"), shape.number("ssm.inner_size")
        state, sequences = shape.number("ssm.state_size"), max(1, self.work.sequences)
        tokens = self.work.tokens
        wide = F32 * inner * tokens
        kept = self.add(F32 * shape.conv_state * sequences, self.input("rs", 4 * sequences))
        xz = self._multiply(2 * wide, layer, "ssm_in", self._norm(x, self.row))
        size = F32 * inner * (tokens + (kernel - 1) * sequences)
        conv = self.add(size, self.view(kept), self.view(xz))
        self.add(None, self.view(conv))
        conv = self.add(wide, self.add(wide, self.add(wide, conv), in_place=True), in_place=True)
        projected = block["ssm_x.weight"].shape[1]
        parts = self._multiply(F32 * projected * tokens, layer, "ssm_x", conv)
        step = self.add(wide, self.add(F32 * (projected - 2 * state) * tokens, self.view(parts)))
        step = self.add(wide, step, in_place=True)
        size = F32 * inner * (tokens + state * sequences)
        scan = self.add(size, self.view(conv), step, self.view(parts), self.view(parts))
        self.add(None, self.view(scan))
        z = self.add(wide, self.view(xz))
        y = self.add(wide, self.view(scan), self.add(wide, conv, in_place=True), in_place=True)
        return self.view(self._multiply(self.row, layer, "ssm_out", self.add(wide, z, y)))

    def _mamba2(self, layer: int, x: Node) -> Node:
        shape, block, tokens = self.shape, self.shape.blocks[layer], self.work.tokens
        kernel, inner = shape.number("ssm.conv_kernel"), shape.number("ssm.inner_size")
        sequences = max(1, self.work.sequences)
        width = block["ssm_conv1d.weight"].shape[1]
        wide, values = F32 * width * tokens, F32 * inner * tokens
        small = F32 * shape.number("ssm.time_step_rank") * tokens
        hidden = self._norm(x, self.row)
        kept = self.add(F32 * shape.conv_state * sequences, self.input("rs", 4 * sequences))
        mixed = self._multiply(values + wide + small, layer, "ssm_in", hidden)
        size = F32 * width * (tokens + (kernel - 1) * sequences)
        conv = self.add(size, self.view(kept), self.view(mixed))
        self.add(None, self.view(conv))
        conv = self.add(wide, self.add(wide, self.add(wide, conv), in_place=True), in_place=True)
        step = self.add(small, self.add(small, self.view(mixed)), in_place=True)
        size = values + F32 * shape.ssm_state * sequences
        scan = self.add(size, self.view(conv), step, self.view(conv), self.view(conv))
        self.add(None, self.view(scan))
        z = self.add(values, self.view(mixed))
        y = self.add(values, self.view(scan), self.add(values, self.view(conv)), in_place=True)
        y = self.add(values, z, y)
        if "ssm_norm.weight" in block:
            y = self._norm(y, values)
        return self.view(self._multiply(self.row, layer, "ssm_out", y))

    def _delta_net(self, layer: int, x: Node) -> Node:
        shape, block, tokens = self.shape, self.shape.blocks[layer], self.work.tokens
        kernel, state = shape.number("ssm.conv_kernel"), shape.number("ssm.state_size")
        heads, groups = shape.number("ssm.time_step_rank"), shape.number("ssm.group_count")
        sequences = max(1, self.work.sequences)
        if "ssm_conv1d.weight" not in block:  # one for each of queries, keys and values
            state = groups = shape.number("kda.head_dim")
            heads = groups = shape.heads[layer]
        width = shape.conv_width
        wide, value, key = F32 * width * tokens, F32 * state * heads * tokens, F32 * state * groups * tokens
        hidden = self._norm(x, self.row)
        kept = self.add(F32 * shape.conv_state * sequences, self.input("rs", 4 * sequences))
        mixed = self._multiply(wide, layer, "attn_qkv", hidden)
        size = F32 * width * (tokens + (kernel - 1) * sequences)
        conv = self.add(size, self.view(kept), self.view(mixed))
        self.add(None, self.view(conv))
        states = self.add(F32 * shape.ssm_state * sequences, self.input("rs", 4 * sequences))
        conv = self.add(wide, self.add(wide, conv), in_place=True)
        q = self.add(key, self.add(key, self.view(conv), in_place=True), in_place=True)
        k = self.add(key, self.add(key, self.view(conv), in_place=True), in_place=True)
        small = F32 * heads * tokens
        decay = self.add(small, self.add(small, hidden), in_place=True)
        beta = self.add(small, self.add(small, hidden), in_place=True)
        size = value + F32 * shape.ssm_state * sequences
        out = self.add(size, q, k, self.view(conv), self.view(decay), beta, self.view(states))
        self.add(None, self.view(out))
        y = self._norm(self.view(out), value)
        z = self.add(value, self._multiply(value, layer, "attn_gate", hidden), in_place=True)
        gated = self.add(value, y, z, in_place=True)
        return self.view(self._multiply(self.row, layer, "ssm_out", gated))

    # Feed forward

    def _feed_forward(self, layer: int, hidden: Node, tokens: int) -> Node:
        block = self.shape.blocks[layer]
        out = F32 * self.shape.width * tokens
        if "ffn_down.weight" not in block:
            return hidden
        size = F32 * block["ffn_down.weight"].shape[0] * tokens
        up = block.get("ffn_up.weight")
        if "ffn_gate.weight" in block:
            gate = self._multiply(size, layer, "ffn_gate", hidden)
            inner = self.add(size, gate, self._multiply(size, layer, "ffn_up", hidden))
        elif up is not None and F32 * up.shape[1] * tokens == 2 * size:
            inner = self.add(size, self._multiply(2 * size, layer, "ffn_up", hidden))
        else:
            inner = self.add(size, self._multiply(size, layer, "ffn_up", hidden), in_place=True)
        return self._multiply(out, layer, "ffn_down", inner)

    def _experts(self, layer: int, hidden: Node, tokens: int) -> Node:
        shape, block, add = self.shape, self.shape.blocks[layer], self.add
        experts, used = shape.number("expert_count"), shape.number("expert_used_count")
        inner = F32 * block["ffn_down_exps.weight"].shape[0] * used * tokens
        wide, out = F32 * shape.width * used * tokens, F32 * shape.width * tokens
        weights = self._route(hidden, tokens, experts, used)
        bias = "ffn_gate_exps.bias" in block
        source, chosen = self.view(hidden), weights.chosen
        gate: Node | None = None
        if "ffn_gate_exps.weight" in block:
            gate = self._multiply(inner, layer, "ffn_gate_exps", source, chosen)
            gate = add(inner, gate, chosen, in_place=True) if bias else gate
        up = self._multiply(inner, layer, "ffn_up_exps", source, chosen)
        up = add(inner, up, chosen, in_place=True) if bias else up
        active = add(inner, gate, up, in_place=gate is None)
        shared = "ffn_up_shexp.weight" in block
        early = self._shared_expert(layer, hidden, tokens) if shared and self._fuses_shared(layer) else None
        down = self._multiply(wide, layer, "ffn_down_exps", active, chosen)
        down = add(wide, down, chosen, in_place=True) if bias else down
        weighted = add(wide, down, weights.weights, in_place=True)
        slices = [self.view(weighted) for _ in range(used)]
        mixed = slices[0]
        for part in slices[1:]:
            mixed = add(out, mixed, part, in_place=True)
        if self.gpu and 2 <= used <= 15:
            add(None, down, weights.weights)
        if shared:
            inner_side = early or self._shared_expert(layer, hidden, tokens)
            side = self._multiply(out, layer, "ffn_down_shexp", inner_side)
            if "ffn_gate_inp_shexp.weight" in block:
                door = add(F32 * tokens, add(F32 * tokens, hidden), in_place=True)
                side = add(out, side, door, in_place=True)
            mixed = add(out, mixed, side, in_place=True)
        return mixed

    def _route(self, hidden: Node, tokens: int, experts: int, used: int) -> "_Routing":
        add, shape = self.add, self.shape
        logits = add(F32 * experts * tokens, hidden)
        probabilities = add(F32 * experts * tokens, logits, in_place=True)
        seen = self.view(probabilities)
        order = add(F32 * experts * tokens, probabilities)
        chosen = self.view(order)
        weights = add(F32 * used * tokens, seen, chosen)
        part = self.view(weights)
        if shape.architecture == "gpt-oss":
            weights = add(F32 * used * tokens, part)
            part = self.view(weights)
        elif shape.number("expert_weights_norm", int(shape.architecture not in RAW_WEIGHTS)):
            total = add(F32 * tokens, add(F32 * tokens, part), in_place=True)
            weights = add(F32 * used * tokens, part, total)
            part = self.view(weights)
        if self.gpu and experts & (experts - 1) == 0:
            add(None, logits, probabilities, order, weights)  # one fused kernel: all of them stay
        return _Routing(chosen, part)

    def _fuses_shared(self, layer: int) -> bool:
        """Whether a shared expert with a gate is computed beside the others: of the same type and height."""
        block = self.shape.blocks[layer]
        if not self.gpu or "ffn_gate_inp_shexp.weight" not in block:
            return False
        shared, gate = block["ffn_gate_shexp.weight"], block["ffn_gate_exps.weight"]
        return shared.type == gate.type not in ("F32", "F16") and shared.shape[1] == gate.shape[1]

    def _shared_expert(self, layer: int, hidden: Node, tokens: int) -> Node:
        block = self.shape.blocks[layer]
        size = F32 * block["ffn_up_shexp.weight"].shape[1] * tokens
        if "ffn_gate_shexp.weight" not in block:
            return self.add(size, self._multiply(size, layer, "ffn_up_shexp", hidden), in_place=True)
        gate = self._multiply(size, layer, "ffn_gate_shexp", hidden)
        return self.add(size, gate, self._multiply(size, layer, "ffn_up_shexp", hidden))


class _Routing(msgspec.Struct):
    chosen: Node
    weights: Node
