"""The graph of a model with a cache."""

from collections.abc import Sequence

from actors.memory.buffer import Buffer, Node
from actors.memory.graph.attention import SECOND_NORMS, Attention
from actors.memory.graph.recurrent import Recurrent
from actors.memory.graph.work import BIG_BATCH, F32


class Decoder(Attention, Recurrent):
    """The graph of one device, with a cache of the tokens read."""

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
        """Return the embeddings. A batch may have tokens or embeddings, so both paths stay allocated."""
        tokens = self.work.tokens
        row = self.row * (1 + self.shape.stacked)
        if self.gpu:
            mixed, other = self.input("mix", row), self.input("n1", self.row)
            slots = self.input("slots", 8 * tokens)
            x = self.input("embd", self.row)
            if self.shape.stacked:  # as wide as the activations of images
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
        """Return the additional embeddings of all layers: looked up on the host, plus a projection of `x`."""
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
        # With fewer outputs than a big batch, the output head is computed on its own device.
        weight = self._copy_of("output.weight") if self.work.outputs >= BIG_BATCH else None
        self.add(F32 * self.shape.vocabulary * self.work.outputs, hidden, weight, keep=True)

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
        if selects:  # from here on only tokens with logits
            tokens = self.work.outputs
            out = self._select(out)
            residual = beside or self._select(x)
        size = F32 * shape.width * tokens
        if beside is not None:
            return self.add(size, residual, out, in_place=True)
        if "post_ffw_norm.weight" in block:
            out = self._norm(out, size)
        x = self.add(size, out, residual, in_place=True)
        if not block.keys() & SECOND_NORMS:
            return x  # in such models each layer has one part
        out = self._reshape(layer, self._norm(x, size), tokens)
        if "post_ffw_norm.weight" in block:
            out = self._norm(out, size)
        x = self.add(size, out, x, in_place=True)
        if self.stacked is not None and layer < shape.stacked:
            x = self.add(size, x, self.view(self.stacked), in_place=True)
        return self._add_beside(layer, x, tokens, selects=selects) if shape.beside else x
