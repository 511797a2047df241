"""Attention layers."""

from actors.memory.buffer import Node, align
from actors.memory.graph.feed_forward import FeedForward
from actors.memory.graph.work import F32, is_quantized, row_bytes

HADAMARD = 64
"""Minimum number of rows of the rotation (a Hadamard matrix) before a quantised cache."""

SECOND_NORMS = {"ffn_norm.weight", "post_attention_norm.weight"}
"""Norms of a layer whose feed forward follows its attention."""


class Attention(FeedForward):
    """Attention with a cache, and the parallel feed forward that some models have."""

    def _attention(self, layer: int, x: Node, position: Node, *, selects: bool) -> tuple[Node, Node | None]:
        """Return the attention's output, and `x` plus the feed forward's output if both share a norm."""
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
        # Copies of a quantised cache do not fit into the memory that the feed forward frees.
        left = F32 * 3 * block["ffn_down.weight"].shape[0] * work.tokens if beside else 0
        gap = self.add(left) if left and is_quantized(work.type_k) else None
        attend = self._flash if work.flash else self._softmax
        out = attend(layer, self.view(self.view(q)), suffix)
        self.add(None, gap)
        size = F32 * shape.values[layer] * heads * work.tokens
        if gate is not None:
            opened = self.add(size, self.add(size, self.view(gate)), in_place=True)
            out = self.add(size, out, opened, in_place=True)
        out = self._multiply(self.row, layer, "attn_output", out)
        return self.add(self.row, out, in_place=True) if "attn_output.bias" in block else out, beside

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
        return self.input("mask" + suffix, size)

    def _flash(self, layer: int, q: Node, suffix: str) -> Node:
        shape, work = self.shape, self.work
        heads, kv_heads = shape.heads[layer], shape.kv_heads[layer]
        cells = work.cells_of(shape, layer) * work.streams
        plain = size = F32 * shape.values[layer] * heads * work.tokens
        if self.gpu and work.type_k != "F16":  # the kernel uses a copy in 16 bits
            size = align(size) + 2 * shape.keys[layer] * kv_heads * cells
        if self.gpu and work.type_v != "F16" and not shape.latent:
            size = align(size) + 2 * shape.values[layer] * kv_heads * cells
        out = self.add(size, q, self._mask(layer, suffix), *self._cache_copies(layer))
        if shape.latent:
            expanded = F32 * shape.number("attention.value_length_mla") * heads * work.tokens
            return self.add(expanded, self.view(self.add(expanded, self.view(out))))
        if is_quantized(work.type_v) and shape.values[layer] % HADAMARD == 0:
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
        return self.add(size, part, position, in_place=True)

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
