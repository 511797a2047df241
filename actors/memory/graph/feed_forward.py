"""The second half of a layer, after attention or a state: one network, or experts."""

import msgspec

from actors.memory.buffer import Node
from actors.memory.graph.parts import Parts
from actors.memory.graph.work import F32

RAW_WEIGHTS = frozenset(["deepseek2", "llama4", "nomic-bert-moe"])
"""Architectures that do not normalize the weights of experts to a sum of 1, unless the header says so."""

WEIGHTS_FIRST = frozenset(["llama4"])
"""Architectures that multiply what experts read by their weights, instead of what they return."""

FUSED_COUNTS = (288, 576)
"""Numbers of experts that are no power of 2, but for which CUDA has a kernel that chooses among them."""


class FeedForward(Parts):
    """Feed-forward networks of a graph."""

    def _reshape(self, layer: int, hidden: Node, tokens: int) -> Node:
        """Return the output of the feed forward, or of the experts."""
        if "ffn_gate_inp.weight" in self.shape.blocks[layer]:
            return self._experts(layer, hidden, tokens)
        return self._feed_forward(layer, hidden, tokens)

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
        weights = self._route(hidden, tokens, experts, used, biased="exp_probs_b.bias" in block)
        bias = "ffn_gate_exps.bias" in block
        source, chosen = self.view(hidden), weights.chosen
        first = shape.architecture in WEIGHTS_FIRST
        if first:
            source = add(wide, add(wide, source), weights.weights, in_place=True)
        gate: Node | None = None
        if "ffn_gate_exps.weight" in block:
            gate = self._multiply(inner, layer, "ffn_gate_exps", source, chosen)
            gate = add(inner, gate, chosen, in_place=True) if bias else gate
        up = self._multiply(inner, layer, "ffn_up_exps", source, chosen)
        up = add(inner, up, chosen, in_place=True) if bias else up
        active = add(inner, gate, up, in_place=gate is None)
        shared = "ffn_up_shexp.weight" in block
        early: Node | None = None
        if shared and self._fuses_shared(layer):
            early = self._shared_expert(layer, hidden, tokens)
            add(None, source, chosen)  # what the kernel reads stays until it has written
        down = self._multiply(wide, layer, "ffn_down_exps", active, chosen)
        down = add(wide, down, chosen, in_place=True) if bias else down
        weighted = down if first else add(wide, down, weights.weights, in_place=True)
        slices = [self.view(weighted) for _ in range(used)]
        mixed = slices[0] if used > 1 else add(out, slices[0])
        for part in slices[1:]:
            mixed = add(out, mixed, part, in_place=True)
        if self.gpu and 2 <= used <= 15 and not first:
            add(None, down, weights.weights)
        if shared:
            inner_side = early or self._shared_expert(layer, hidden, tokens)
            side = self._multiply(out, layer, "ffn_down_shexp", inner_side)
            if "ffn_gate_inp_shexp.weight" in block:
                door = add(F32 * tokens, add(F32 * tokens, hidden), in_place=True)
                side = add(out, side, door, in_place=True)
            mixed = add(out, mixed, side, in_place=True)
        elif shape.waits_for_experts(layer):
            mixed = add(out, mixed, add(out, hidden, in_place=True), in_place=True)
        return mixed

    def _route(self, hidden: Node, tokens: int, experts: int, used: int, *, biased: bool) -> "_Routing":
        add, shape = self.add, self.shape
        logits = add(F32 * experts * tokens, hidden)
        probabilities = add(F32 * experts * tokens, logits, in_place=True)
        seen = self.view(probabilities)
        ranked = add(F32 * experts * tokens, probabilities, in_place=True) if biased else probabilities
        order = add(F32 * experts * tokens, ranked)
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
        if shape.scales("expert_weights_scale"):
            weights = add(F32 * used * tokens, part)
            part = self.view(weights)
        if self.gpu and ((experts & (experts - 1) == 0 and experts <= 512) or experts in FUSED_COUNTS):
            add(None, logits, probabilities, ranked, order, weights)  # one fused kernel: all of them stay
        return _Routing(chosen, part)

    def _fuses_shared(self, layer: int) -> bool:
        """Whether a shared expert of the others' type and height is computed with them."""
        block = self.shape.blocks[layer]
        shared, gate = block.get("ffn_gate_shexp.weight"), block.get("ffn_gate_exps.weight")
        if not self.gpu or shared is None or gate is None or self.shape.architecture in WEIGHTS_FIRST:
            return False
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
