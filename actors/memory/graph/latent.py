"""Multi-head latent attention: compressed keys, no values, and an indexer that selects the tokens to read."""

from actors.memory.buffer import Node
from actors.memory.graph.parts import Parts
from actors.memory.graph.work import F32


class Latent(Parts):
    """The queries, keys and masks of latent attention."""

    def _latent_qk(self, layer: int, hidden: Node, position: Node) -> tuple[Node, Node]:
        shape, tokens, block = self.shape, self.work.tokens, self.shape.blocks[layer]
        heads = shape.heads[layer]
        key, rank = shape.number("attention.key_length_mla"), shape.number("attention.kv_lora_rank")
        rope = shape.number("rope.dimension_count")
        source = hidden
        if shape.indexed[layer]:
            self._index_keys(layer, hidden, position)
        if (low := block.get("attn_q_a.weight")) is not None:
            size = F32 * low.shape[1] * tokens
            source = self._norm(self._multiply(size, layer, "attn_q_a", hidden), size)
        part = "attn_q" if low is None else "attn_q_b"
        q = self._multiply(F32 * key * heads * tokens, layer, part, source)
        absorbed = self._multiply(F32 * rank * heads * tokens, layer, "attn_k_b", self.view(q))
        turned = self._turned(layer, F32 * rope * heads * tokens, self.view(q), position)
        q = self.add(F32 * shape.keys[layer] * heads * tokens, self.view(absorbed), turned)
        size = F32 * shape.keys[layer] * shape.kv_heads[layer] * tokens
        compressed = self._multiply(size, layer, "attn_kv_a_mqa", hidden)
        latent = self._norm(self.view(compressed), F32 * rank * tokens)
        turned = self._turned(layer, F32 * rope * tokens, self.view(compressed), position)
        self.indexer = (hidden, source) if shape.indexed[layer] else None
        return q, self.add(size, self.view(latent), turned)

    def _index_keys(self, layer: int, hidden: Node, position: Node) -> None:
        """Add the keys by which the indexer finds tokens, and keep them in their cache."""
        width, tokens = self.shape.indexed[layer], self.work.tokens
        size = F32 * width * tokens
        k = self.add(size, self._multiply(size, layer, "indexer.attn_k", hidden))
        k = self.add(size, self.add(size, k, in_place=True), in_place=True)
        k = self.add(size, self.view(k), position)
        k = self.add(size, self.input("indexer rotation", F32 * width * width), k)
        self.add(None, self.view(k), self.input("indexer kidx", 8 * tokens))

    def _selected(self, layer: int, mask: Node) -> Node:
        """Return a mask that leaves only the tokens that the indexer selects."""
        if self.indexer is None:
            return mask
        hidden, low = self.indexer
        shape, work, tokens = self.shape, self.work, self.work.tokens
        heads, width = shape.number("attention.indexer.head_count"), shape.indexed[layer]
        cells = work.cells_of(shape, layer)
        chosen = self._chosen(layer)
        zeros = self.add(chosen, self.buffer.leaf(chosen), in_place=True)
        size = F32 * heads * width * tokens
        q = self._multiply(size, layer, "indexer.attn_q_b", low)
        q = self.add(size, self.view(q), self.input("pos", 4 * tokens))
        q = self.add(size, self.input("indexer rotation", F32 * width * width), q)
        weights = self._multiply(F32 * heads * tokens, layer, "indexer.proj", hidden)
        weights = self.add(F32 * heads * tokens, self.view(weights))
        assert mask.size is not None
        scores = self.add(F32 * cells * tokens, self.view(q), weights, self.input("indexer mask", mask.size))
        order = self.add(chosen, self.add(chosen, scores))
        blank = self.add(mask.size, mask)
        filled = self.view(self.view(blank), zeros, order)
        return self.add(mask.size, filled, mask)

    def _chosen(self, layer: int) -> int:
        """Return the bytes of the selected tokens' numbers."""
        most = self.shape.number("attention.indexer.top_k")
        return F32 * min(self.work.cells_of(self.shape, layer), most) * self.work.tokens
