"""The graph of a model with a cache."""

from collections.abc import Collection, Sequence

from actors.memory.buffer import Node
from actors.memory.graph.attention import SECOND_NORMS, Attention
from actors.memory.graph.work import BIG_BATCH, F32

RESIDUAL_FIRST = frozenset(["lfm2", "lfm2moe"])
"""Architectures whose sums are put where the residual was, if possible, not where the new summand was."""


class Decoder(Attention):
    """The graph of one device, with a cache of the tokens read."""

    def build(self, layers: Sequence[int], *, first: bool, last: bool) -> None:
        """Add the nodes of these layers."""
        self.has_embedding = first
        self._cut(layers, first=first, last=last)
        x = self._embed() if first else self._receive(layers[0])
        self.embedded = x if first else None
        for layer in layers:
            x = self._layer(layer, x, selects=last and layer == self.shape.last)
        if last:
            self._head(x)

    def add_leaves_of(self, layers: Collection[int]) -> None:
        """Add what layers that are not in the graph take from the beginning."""
        for layer in layers:
            if self.shape.latent and self.shape.indexed[layer]:
                self.buffer.leaf(self._chosen(layer))

    def _cut(self, layers: Sequence[int], *, first: bool, last: bool) -> None:
        """Cut the graph inside of recurrent layers where another device has the layers before, or after."""
        shape = self.shape
        before = {layer: shape.interrupted(layer) for layer in layers if shape.recurrent[layer]}
        self.interrupted = {layer for layer in before.values() if layer is not None and layer >= layers[0]}
        if not first and (cut := shape.interrupted(layers[0])) is not None:
            whole, part = self._gate_sizes(cut)
            if part:
                self.fetched = self._fetch()
                copied = self.add(part, self.input("gate of the layer before", whole))
                # Without a pipeline the order of steps is not known; a copy that stays is an upper limit.
                self.add(None, copied if self.copies > 1 else None)
        self.left_open = None if last else shape.interrupted(layers[-1] + 1)
        self.rotated_elsewhere = layers[-1] if not last and self._rotates_late(layers[-1] + 1) else None

    def cut_before(self, layer: int) -> tuple[int, int]:
        """Return the bytes that a cut before this layer adds to inputs: after the cut, and before it."""
        if (cut := self.shape.interrupted(layer)) is not None:
            return self._gate_sizes(cut)
        attended = self._attended(layer - 1) if self._rotates_late(layer) else 0
        return attended + self.row * self._adds_experts_late(layer), attended

    def _adds_experts_late(self, layer: int) -> bool:
        """Whether a layer fetches its state before the outputs of the experts before are added up."""
        before = self.shape.blocks[layer - 1]
        alone = "ffn_gate_inp.weight" in before and "ffn_up_shexp.weight" not in before
        return self.shape.recurrent[layer] and alone

    def _receive(self, layer: int) -> Node:
        """Return the activations that come from the device with the layer before."""
        x = self.input("x", self.row)
        if self._rotates_late(layer):
            size = self._attended(layer - 1)
            self.fetched = self._fetch()
            self.add(None, self.add(size, self.input("to rotate", size)))
        if not self._adds_experts_late(layer):
            return x
        self.fetched = self._fetch()
        return self.add(self.row, x, self.input("experts", self.row), in_place=True)

    def _embed(self) -> Node:
        """Return the embeddings. A batch may have tokens or embeddings, so both paths stay allocated."""
        tokens = self.work.tokens
        row = self.row * (1 + self.shape.stacked)
        if not self.work.mixes:
            return self._scaled(self.input("embd", self.row))
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
        return self._scaled(x)

    def _scaled(self, x: Node) -> Node:
        if self.shape.architecture.startswith("gemma"):
            scale = self.input("scale", 4 * self.work.tokens) if self.shape.architecture != "gemma2" else None
            x = self.add(self.row, x, scale, in_place=True)
        return x

    def _project_beside(self, x: Node) -> Node:
        """Return the additional embeddings of all layers: looked up on the host, plus a projection of `x`."""
        size = F32 * self.shape.beside * self.shape.layers * self.work.tokens
        projected = self.add(size, self.add(size, x), in_place=True)
        projected = self._norm(self.view(projected), size)
        found = self.add(size, self.input("beside", size), in_place=True)
        projected = self.add(size, self.add(size, projected, found, in_place=True), in_place=True)
        return self.add(size, self.view(projected))

    def _add_beside(self, layer: int, x: Node, tokens: int, *, selects: bool) -> Node:
        row = F32 * self.shape.width * tokens
        return self.add(row, x, self._beside_change(layer, x, selects=selects), in_place=True)

    def _beside_change(self, layer: int, x: Node, *, selects: bool = False) -> Node:
        """Return what a layer's additional embedding adds to its activations."""
        tokens = self.work.outputs if selects else self.work.tokens
        size, row = F32 * self.shape.beside * tokens, F32 * self.shape.width * tokens
        inner = self.add(size, self.add(size, x), in_place=True)
        if self.beside is None and self.embedded is not None:  # llama.cpp adds them where they are used first
            self.beside, self.embedded = self._project_beside(self.embedded), None
        if self.beside is not None:
            part = self.view(self.beside)
        else:
            part = self.input(f"beside {layer}", F32 * self.shape.beside * self.work.tokens)
        if selects:
            part = self.add(size, part, self.input("ids", 4 * tokens))
        inner = self.add(size, inner, part, in_place=True)
        return self._norm(self.add(row, inner), row)

    def _head(self, x: Node) -> None:
        size = F32 * self.shape.width * self.work.outputs
        hidden = self.add(size, self.add(size, x, in_place=True), in_place=True, keep=True)
        # With fewer outputs than a big batch, the output head is computed on its own device.
        weight = self._copy_of("output.weight") if self.work.outputs >= BIG_BATCH else None
        self.add(F32 * self.shape.vocabulary * self.work.outputs, hidden, weight, keep=True)

    def _add_up(self, size: int, out: Node, residual: Node) -> Node:
        first, second = (residual, out) if self.shape.architecture in RESIDUAL_FIRST else (out, residual)
        return self.add(size, first, second, in_place=True)

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
        x = self._add_up(size, out, residual)
        if not block.keys() & SECOND_NORMS:
            return x  # in such models each layer has one part
        out = self._reshape(layer, self._norm(x, size), tokens)
        if "post_ffw_norm.weight" in block:
            out = self._norm(out, size)
        x = self._add_up(size, out, x)
        if self.stacked is not None and layer < shape.stacked:
            x = self.add(size, x, self.view(self.stacked), in_place=True)
        return self._add_beside(layer, x, tokens, selects=selects) if shape.beside else x
