"""Layers that keep a state of the tokens read."""

from actors.memory.buffer import Node
from actors.memory.graph.parts import Parts
from actors.memory.graph.work import F32


class Recurrent(Parts):
    """State space models, delta nets, and short convolutions."""

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
        if "ssm_conv1d.weight" not in block:  # it has one each for queries, keys and values
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
