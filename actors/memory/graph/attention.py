"""Attention layers."""

from actors.memory.buffer import Node, align
from actors.memory.graph.feed_forward import FeedForward
from actors.memory.graph.latent import Latent
from actors.memory.graph.recurrent import Recurrent
from actors.memory.graph.work import F32, is_quantized, row_bytes

HADAMARD = 64
"""Minimum number of rows of the rotation (a Hadamard matrix) before a quantised cache."""

SECOND_NORMS = {"ffn_norm", "ffn_norm.weight", "post_attention_norm.weight"}
"""Norms of a layer whose feed forward follows its attention."""


class Attention(FeedForward, Latent, Recurrent):
    """Attention with a cache, and the parallel feed forward that some models have."""

    def _attention(self, layer: int, x: Node, position: Node, *, selects: bool) -> tuple[Node, Node | None]:
        """Return the attention's output, and `x` plus the feed forward's output if both share a norm."""
        shape, work, block = self.shape, self.work, self.shape.blocks[layer]
        kv_heads = shape.kv_heads[layer]
        suffix = "s" if shape.windowed[layer] else ""
        hidden, gate, v = self._norm(x, self.row), None, None
        self.normed = hidden
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
        attend = self._flash if work.flash else self._softmax
        out = attend(layer, self.view(self.view(q)), suffix)
        beside = self._beside(layer, hidden, x, selects=selects) if self._is_parallel(layer) else None
        # A layer may have both attention and a state, as in falcon-h1.
        scanned = self._mamba2_scan(layer, x) if shape.recurrent[layer] else None
        size = self._attended(layer)
        if layer == self.rotated_elsewhere:
            self.add(None, out)
            out = self.input("rotated", size)
        elif self._rotates_values(layer):
            out = self.add(size, self.input("vrot" + suffix, F32 * HADAMARD * HADAMARD), out)
        if gate is not None:
            opened = self.add(size, self.add(size, self.view(gate)), in_place=True)
            out = self.add(size, out, opened, in_place=True)
        out = self._multiply(self.row, layer, "attn_output", out)
        if "attn_output.bias" in block:
            out = self.add(self.row, out, in_place=True)
        if scanned is not None:
            out = self.add(self.row, out, self._mamba2_output(layer, *scanned), in_place=True)
        return out, beside

    def _attended(self, layer: int) -> int:
        """Return the bytes of what the heads of a layer read."""
        return F32 * self.shape.values[layer] * self.shape.heads[layer] * self.work.tokens

    def _rotates_values(self, layer: int) -> bool:
        """Whether what the heads of a layer read has to be rotated back."""
        shape, work = self.shape, self.work
        quantized = work.flash and not shape.latent and is_quantized(work.type_v)
        return quantized and shape.values[layer] % HADAMARD == 0

    def _rotates_late(self, layer: int) -> bool:
        """Whether a layer fetches its state before what the layer before attended to is rotated back."""
        recurrent, before = self.shape.recurrent, layer - 1
        return (
            recurrent[layer]
            and not recurrent[before]
            and self.shape.attends[before]
            and self._rotates_values(before)
        )

    def _cache_copies(self, layer: int) -> list[Node]:
        shape, work = self.shape, self.work
        if layer not in self.host.cache and layer not in self.foreign:
            return []
        cells = work.cells_of(shape, layer) * work.streams
        keys = row_bytes(work.type_k, shape.keys[layer] * shape.kv_heads[layer]) * cells
        values = row_bytes(work.type_v, shape.values[layer] * shape.kv_heads[layer]) * cells
        sizes = [keys] if shape.latent else [keys, values]
        if layer in self.foreign:  # an input, like everything that comes from another GPU
            return [self.input(f"cache {layer} {nth}", size) for nth, size in enumerate(sizes)]
        return [self.add(size) for size in sizes]

    def _is_parallel(self, layer: int) -> bool:
        """Whether the layer's feed forward has no norm of its own, as in Cohere's models."""
        block = self.shape.blocks[layer]
        return "ffn_down.weight" in block and not block.keys() & SECOND_NORMS

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
        if work.flash and work.casts_masks and self.has_embedding:
            if suffix not in self.casts:
                self.casts[suffix] = self.add(size, self.input("mask" + suffix, 2 * size))
            return self.casts[suffix]
        return self._selected(layer, self.input("mask" + suffix, size))

    def _flash(self, layer: int, q: Node, suffix: str) -> Node:
        shape, work = self.shape, self.work
        heads, kv_heads = shape.heads[layer], shape.kv_heads[layer]
        cells = work.cells_of(shape, layer) * work.streams
        size = F32 * shape.values[layer] * heads * work.tokens
        if self.gpu and work.type_k != "F16":  # the kernel uses a copy in 16 bits
            size = align(size) + 2 * shape.keys[layer] * kv_heads * cells
        if self.gpu and work.type_v != "F16" and not shape.latent:
            size = align(size) + 2 * shape.values[layer] * kv_heads * cells
        out = self.add(size, q, self._mask(layer, suffix), *self._cache_copies(layer))
        if shape.latent:
            expanded = F32 * shape.number("attention.value_length_mla") * heads * work.tokens
            return self.add(expanded, self.view(self.add(expanded, self.view(out))))
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
        q = self._turned(layer, size, part, position)
        if shape.architecture.startswith("gemma"):
            q = self.add(size, q, in_place=True)
        side = shape.keys[layer] & -shape.keys[layer]
        q = self._rotate(q, size, "krot" + suffix, side, work.type_k)
        if any(shape.windowed):  # llama.cpp's order for such models
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
        return self._turned(layer, size, part, position)

    def _value(self, layer: int, hidden: Node) -> Node:
        size = F32 * self.shape.values[layer] * self.shape.kv_heads[layer] * self.work.tokens
        v = self._multiply(size, layer, "attn_v", hidden)
        if "attn_v.bias" in self.shape.blocks[layer]:
            v = self.add(size, v, in_place=True)
        return self.view(v)

    def _rotate(self, x: Node, size: int, name: str, side: int, kind: str) -> Node:
        """Return keys, values or queries, rotated if the cache is quantised."""
        if not is_quantized(kind) or side < HADAMARD:
            return x
        return self.add(size, self.input(name, F32 * side * side), self.view(x))
