"""The graph of a model with alternating updates (AltUp), as gemma3n: several activations for each token.

A layer predicts all of them, computes one, and corrects the others by its error (src/models/gemma3n.cpp).
"""

from collections.abc import Sequence

from actors.memory.buffer import Node
from actors.memory.graph.decoder import Decoder
from actors.memory.graph.work import F32

SPARSE_LAYERS = 10
"""Number of first layers whose feed forward drops small activations."""


class AltUp(Decoder):
    """The graph of one device."""

    def build(self, layers: Sequence[int], *, first: bool, last: bool) -> None:
        self.rows = self.shape.number("altup.num_inputs")
        self.wide = self.rows * self.row
        """Bytes of the activations between two layers."""
        if first and last:
            stacked, turned = self._embed_all(alone=True)
            self.active = self.view(stacked)
        else:
            if last:  # the device of the output makes the first activations
                self._embed_all(alone=False)
            self.active = self.input("x active", self.row)
            turned, stacked = self.input("x turned", self.wide), self.input("x", self.wide)
        if first:
            self.embedded = self.input("scaled", self.row)
        for layer in layers:
            stacked, turned = self._update(layer, stacked, turned)
        if last:
            self._head_all(stacked)

    def _embed_all(self, *, alone: bool) -> tuple[Node, Node]:
        beside = F32 * self.shape.beside * self.shape.layers * self.work.tokens
        name = "beside" if alone else "beside, to be scaled"
        if not self.gpu:
            self.view(self.add(self.row, self.input("mix", self.row)))
        found = self.input(name, beside)
        self.add(None, None if alone else self.add(beside, found, in_place=True))
        scaled, others = self.input("scaled", self.row), self.wide - self.row
        copies = self.add(others, self.add(others, scaled))
        self.add(None, self.add(self.row, scaled, in_place=True))
        copies = self.add(others, self.add(others, copies, in_place=True), in_place=True)
        stacked = self.add(self.wide, scaled, copies)
        turned = self.add(self.wide, self.view(stacked))
        if not alone:
            self.add(None, stacked, turned)
        return stacked, turned

    def _update(self, layer: int, x: Node, turned: Node) -> tuple[Node, Node]:
        add, view, row, wide, tokens = self.add, self.view, self.row, self.wide, self.work.tokens
        self._route_inputs(self.active)
        predicted = add(wide, turned)
        predicted = add(wide, add(wide, view(predicted)), x, in_place=True)
        position = self.input("pos", 4 * tokens)
        out, _ = self._attention(layer, view(predicted), position, selects=False)
        out = add(row, self._norm(out, row), view(predicted), in_place=True)
        low = F32 * self.shape.blocks[layer]["laurel_l.weight"].shape[1] * tokens
        side = self._norm(
            self._multiply(row, layer, "laurel_r", self._multiply(low, layer, "laurel_l", self.normed)), row
        )
        out = add(row, out, add(row, side, self.normed, in_place=True), in_place=True)
        out = add(row, out, in_place=True)
        out = add(row, self._norm(self._sparse(layer, self._norm(out, row)), row), out, in_place=True)
        error = add(wide, add(row, out, view(predicted), in_place=True))
        self._route_inputs(out)
        corrected = add(wide, add(wide, error, in_place=True), predicted, in_place=True)
        change = self._beside_change(layer, add(row, view(corrected)))
        others = add(wide - row, view(corrected), change)
        x = add(wide, view(corrected), others)
        self.active = view(x)
        return x, add(wide, view(x))

    def _route_inputs(self, x: Node) -> None:
        self.add(None, self.add(self.row, self._norm(x, self.row), in_place=True))

    def _sparse(self, layer: int, hidden: Node) -> Node:
        size = F32 * self.shape.blocks[layer]["ffn_down.weight"].shape[0] * self.work.tokens
        up = self._multiply(size, layer, "ffn_up", hidden)
        gate = self._multiply(size, layer, "ffn_gate", hidden)
        if layer < SPARSE_LAYERS:
            self.add(None, self.add(size, gate))
            gate = self.add(size, gate, in_place=True)
        gate = self.add(size, gate, in_place=True)
        return self._multiply(self.row, layer, "ffn_down", self.add(size, up, gate, in_place=True))

    def _head_all(self, x: Node) -> None:
        others = self.wide - self.row
        self.add(None, self.add(self.row, self.view(x)))
        merged = self.add(others, self.view(x))
        merged = self.add(others, self.add(others, self.add(others, merged), merged), in_place=True)
        self._head(self._select(self.add(self.row, self.view(x), self.view(merged))))
