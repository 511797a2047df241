"""llama.cpp's worst-case graph of a model that reads a text at once, without a cache, and embeds it.

That is the BERT family and similar models (src/models/bert.cpp, modern-bert.cpp, neo-bert.cpp,
gemma-embedding.cpp). Every token attends to every token of the batch, so the mask grows with the square of
the batch.
"""

from actors.memory.buffer import Node
from actors.memory.graph.decoder import Decoder
from actors.memory.graph.work import F32, KERNEL_HEADS

_ROOT_MEAN_SQUARE = frozenset(["eurobert", "gemma-embedding", "gemma-embedding2", "neo-bert"])
"""Architectures whose norm is computed in place, in the memory of its source."""

_WITHOUT_ROTATION = frozenset(["bert", "jina-bert-v2"])
"""Architectures without rotary positions."""


class Encoder(Decoder):
    """The graph of one device, without a cache."""

    def _embed(self) -> Node:
        tensors = self.shape.tensors
        # Learned positions are added on the host, like everything before them.
        learned = "position_embd.weight" in tensors
        x = self.input("x", self.row) if learned and self.gpu else super()._embed()
        if (kinds := tensors.get("token_types.weight")) is not None:
            kind = self.input("type", kinds.size // kinds.shape[1]) if self.gpu else None
            x = self.add(self.row, x, kind, in_place=True)
        if learned:
            if self.gpu:
                positions = self.input("positions", self.row)
            else:
                positions = self.add(self.row, self.input("pos", 4 * self.work.tokens))
            x = self.add(self.row, positions, x, in_place=True)
        return self._norm(x, self.row) if "token_embd_norm.weight" in tensors else x

    def _norm(self, x: Node, size: int) -> Node:
        in_place = self.shape.architecture in _ROOT_MEAN_SQUARE
        return self.add(size, self.add(size, x, in_place=in_place), in_place=True)

    def _head(self, x: Node) -> None:
        """Add the vectors of all tokens, and one of each text."""
        tensors, work = self.shape.tensors, self.work
        if "output_norm.weight" in tensors or "enc.output_norm.weight" in tensors:
            x = self._norm(x, F32 * self.shape.width * work.outputs)
        x.keep = True
        size = F32 * self.shape.width * work.sequences
        if work.pooling == "mean":
            weights = self.input("mean", F32 * work.tokens * work.sequences)
            self.add(size, self.add(F32 * self.shape.width * work.outputs, self.view(x)), weights, keep=True)
        elif work.pooling != "none":
            self.add(size, x, self.input("cls", 4 * work.sequences), keep=True)

    def _layer(self, layer: int, x: Node, *, selects: bool) -> Node:
        block = self.shape.blocks[layer]
        size = self.row
        out = self._read(layer, self._norm(x, size) if "attn_norm.weight" in block else x)
        if selects:
            size = F32 * self.shape.width * self.work.outputs
            out, x = self._select(out), self._select(x)
        after = "attn_output_norm.weight" in block
        if "post_attention_norm.weight" in block:
            out = self._norm(out, size)
        before, x = x, self.add(size, out, x, in_place=True)
        if after:
            x = self._norm(x, size)
        if "attn_norm_2.weight" in block:
            x = self._norm(self.add(size, x, before, in_place=True), size)
        hidden = x if after else self._norm(x, size)
        tokens = self.work.outputs if selects else self.work.tokens
        experts = "ffn_gate_inp.weight" in block
        out = self._experts(layer, hidden, tokens) if experts else self._feed_forward(layer, hidden, tokens)
        if "post_ffw_norm.weight" in block:
            out = self._norm(out, size)
        out = self.add(size, out, x, in_place=True)
        return self._norm(out, size) if after else out

    def _read(self, layer: int, hidden: Node) -> Node:
        """Return the attention's output."""
        shape, work, block = self.shape, self.work, self.shape.blocks[layer]
        q, k, v = self._qkv(layer, hidden)
        heads, kv_heads, tokens = shape.heads[layer], shape.kv_heads[layer], work.tokens
        size = F32 * shape.values[layer] * heads * tokens
        mask = (2 if work.flash else 4) * tokens * tokens
        mask_name = "mask" + ("s" if shape.windowed[layer] else "")
        if work.flash:
            k = self.add(2 * shape.keys[layer] * kv_heads * tokens, self.view(k))
            v = self.add(2 * shape.values[layer] * kv_heads * tokens, self.view(v))
            if self.gpu and shape.keys[layer] not in KERNEL_HEADS:  # computed on the host, where the mask is
                self.add(None, q, k, v)
                pipelined = self.copies > 1
                out = self.view(self.add(self.copies * size, keep=pipelined))
            else:
                out = self.view(self.add(size, self.view(q), k, v, self.input(mask_name, mask)))
        else:
            turned = self.add(F32 * shape.values[layer] * kv_heads * tokens, self.view(v))
            scores = self.add(F32 * tokens * tokens * heads, self.view(k), self.view(q))
            scores = self.add(
                F32 * tokens * tokens * heads, scores, self.input(mask_name, mask), in_place=True
            )
            out = self.add(size, self.view(self.add(size, turned, scores)))
        out = self._multiply(self.row, layer, "attn_output", out)
        return self.add(self.row, out, in_place=True) if "attn_output.bias" in block else out

    def _qkv(self, layer: int, hidden: Node) -> tuple[Node, Node, Node]:
        shape, tokens, block = self.shape, self.work.tokens, self.shape.blocks[layer]
        heads, kv_heads = shape.heads[layer], shape.kv_heads[layer]
        sizes = [
            F32 * tokens * width
            for width in (
                shape.keys[layer] * heads,
                shape.keys[layer] * kv_heads,
                shape.values[layer] * kv_heads,
            )
        ]
        if "attn_qkv.weight" in block:
            fused = self._multiply(sum(sizes), layer, "attn_qkv", hidden)
            if "attn_qkv.bias" in block:
                fused = self.add(sum(sizes), fused, in_place=True)
            parts = [self.view(fused) for _ in sizes]
            return self._turn(parts[0], sizes[0]), self._turn(parts[1], sizes[1]), parts[2]
        found = []
        for part, size in zip(("attn_q", "attn_k", "attn_v"), sizes, strict=True):
            x = self._multiply(size, layer, part, hidden)
            if f"{part}.bias" in block:
                x = self.add(size, x, in_place=True)
            x = self.view(x)
            if f"{part}_norm.weight" in block:
                x = self._norm(x, size)
            found.append(x if part == "attn_v" else self._turn(x, size))
        if shape.architecture.startswith("gemma"):
            found[0] = self.add(sizes[0], found[0], in_place=True)
        return found[0], found[1], found[2]

    def _turn(self, x: Node, size: int) -> Node:
        """Return queries or keys, rotated by their positions."""
        if self.shape.architecture in _WITHOUT_ROTATION:
            return x
        return self.add(size, x, self.input("pos", 4 * self.work.tokens), in_place=True)
