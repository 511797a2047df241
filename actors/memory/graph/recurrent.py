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
        if "ssm_conv1d_q.weight" in block:
            return self._kimi_delta(layer, x)
        return self._mamba2(layer, x) if "ssm_in.weight" in block else self._delta_net(layer, x)

    def _gate_sizes(self, layer: int) -> tuple[int, int]:
        """Return the bytes that a recurrent layer's gate lies in, and its own; 0: it is not copied."""
        block, inner = self.shape.blocks[layer], self.shape.number("ssm.inner_size")
        if (mixed := block.get("ssm_in.weight")) is None:
            return 0, 0
        part = F32 * inner * self.work.tokens
        return F32 * (mixed.shape[1] * (self.work.tokens - 1) + inner), part

    def _keep_others(self, state: int) -> None:
        """Copy the states of sequences that are in no batch. A batch has one sequence at least."""
        self.add(None, self.add(F32 * state * max(0, self.work.sequences - 1)))

    def _fetch(self) -> Node:
        """Return the channels of a layer's state."""
        sequences = max(1, self.work.sequences)
        return self.add(F32 * self.shape.conv_state * sequences, self.input("rs", 4 * sequences))

    def _gate(self, layer: int, mixed: Node) -> Node:
        """Return a copy of the gate, which is a part of `mixed`."""
        _, size = self._gate_sizes(layer)
        if layer == self.left_open:
            return self.input("gate", size)
        return self.add(size, self.view(mixed))

    def _short_convolution(self, layer: int, x: Node) -> Node:
        shape, sequences = self.shape, max(1, self.work.sequences)
        kept, self.fetched = self.fetched or self._fetch(), None
        mixed = self._multiply(3 * self.row, layer, "shortconv.in_proj", self._norm(x, self.row))
        product = self.add(self.row, self.view(mixed))
        conv = self.add(self.row + F32 * shape.conv_state * sequences, self.view(kept), self.view(product))
        self.add(None, self.view(conv))
        if layer in self.interrupted:
            self.fetched = self._fetch()
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
        self._keep_others(shape.ssm_state)
        self.add(None, self.view(scan))
        z = self._gate(layer, xz)
        y = self.add(wide, self.view(scan), self.add(wide, conv, in_place=True), in_place=True)
        return self.view(self._multiply(self.row, layer, "ssm_out", self.add(wide, z, y)))

    def _mamba2(self, layer: int, x: Node) -> Node:
        return self._mamba2_output(layer, *self._mamba2_scan(layer, x))

    def _mamba2_scan(self, layer: int, x: Node) -> tuple[Node, Node, Node]:
        """Return the projection of `x`, its channels after the convolution, and the result of the scan."""
        shape, block, tokens = self.shape, self.shape.blocks[layer], self.work.tokens
        kernel, inner = shape.number("ssm.conv_kernel"), shape.number("ssm.inner_size")
        sequences = max(1, self.work.sequences)
        width = block["ssm_conv1d.weight"].shape[1]
        wide, values = F32 * width * tokens, F32 * inner * tokens
        small = F32 * shape.number("ssm.time_step_rank") * tokens
        kept, self.fetched = self.fetched or self._fetch(), None
        hidden = self._norm(x, self.row)
        mixed = self._multiply(values + wide + small, layer, "ssm_in", hidden)
        size = F32 * width * (tokens + (kernel - 1) * sequences)
        conv = self.add(size, self.view(kept), self.view(mixed))
        self.add(None, self.view(conv))
        conv = self.add(wide, self.add(wide, self.add(wide, conv), in_place=True), in_place=True)
        step = self.add(small, self.add(small, self.view(mixed)), in_place=True)
        size = values + F32 * shape.ssm_state * sequences
        scan = self.add(size, self.view(conv), step, self.view(conv), self.view(conv))
        self._keep_others(shape.ssm_state)
        self.add(None, self.view(scan))
        if layer in self.interrupted:
            self.fetched = self._fetch()
        return mixed, conv, scan

    def _mamba2_output(self, layer: int, mixed: Node, conv: Node, scan: Node) -> Node:
        values = F32 * self.shape.number("ssm.inner_size") * self.work.tokens
        z = self._gate(layer, mixed)
        y = self.add(values, self.view(scan), self.add(values, self.view(conv)), in_place=True)
        y = self.add(values, z, y)
        if "ssm_norm.weight" in self.shape.blocks[layer]:
            y = self._norm(self.view(y), values)
        return self._multiply(self.row, layer, "ssm_out", self.view(y))

    def _delta_net(self, layer: int, x: Node) -> Node:
        shape, tokens = self.shape, self.work.tokens
        kernel, state = shape.number("ssm.conv_kernel"), shape.number("ssm.state_size")
        heads, groups = shape.number("ssm.time_step_rank"), shape.number("ssm.group_count")
        sequences = max(1, self.work.sequences)
        width = shape.conv_width
        wide, value, key = F32 * width * tokens, F32 * state * heads * tokens, F32 * state * groups * tokens
        hidden = self._norm(x, self.row)
        kept = self.add(F32 * shape.conv_state * sequences, self.input("rs", 4 * sequences))
        mixed = self._multiply(wide, layer, "attn_qkv", hidden)
        size = F32 * width * (tokens + (kernel - 1) * sequences)
        conv = self.add(size, self.view(kept), self.view(mixed))
        self.add(None, self.view(conv))
        states = self.add(F32 * shape.ssm_state * sequences, self.input("rs", 4 * sequences))
        self._keep_others(shape.ssm_state)
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

    def _kimi_delta(self, layer: int, x: Node) -> Node:
        """Kimi's delta attention: queries, keys and values have a convolution each."""
        shape, block, tokens = self.shape, self.shape.blocks[layer], self.work.tokens
        sequences, heads = max(1, self.work.sequences), shape.heads[layer]
        size = F32 * shape.number("kda.head_dim") * heads * tokens
        hidden = self._norm(x, self.row)
        kept = self._fetch()
        convolved: list[Node] = []
        for part in ("attn_q", "attn_k", "attn_v"):
            longer = size + F32 * shape.conv_state // 3 * sequences
            wide = self.add(longer, self.view(kept), self.view(self._multiply(size, layer, part, hidden)))
            self.add(None, self.view(wide))
            convolved.append(wide)
        states = self.add(F32 * shape.ssm_state * sequences, self.input("rs", 4 * sequences))
        self._keep_others(shape.ssm_state)
        parts: list[Node] = []
        for nth, wide in enumerate(convolved):
            result = self.add(size, self.view(self.add(size, wide)))
            if nth < 2:
                result = self.add(size, self.add(size, self.view(result)), in_place=True)
            parts.append(result)
        low = F32 * block["ssm_f_a.weight"].shape[1] * tokens
        decay = self._multiply(size, layer, "ssm_f_b", self._multiply(low, layer, "ssm_f_a", hidden))
        decay = self.add(size, self.add(size, decay, in_place=True), in_place=True)
        decay = self.add(size, self.view(decay))
        beta = self._multiply(F32 * heads * tokens, layer, "ssm_beta", hidden)
        beta = self.add(F32 * heads * tokens, self.view(beta))
        out = self.add(size + F32 * shape.ssm_state * sequences, *parts, decay, beta, self.view(states))
        self.add(None, self.view(out))
        y = self._norm(self.view(self.add(size, self.view(out))), size)
        low = F32 * block["ssm_g_a.weight"].shape[1] * tokens
        gate = self._multiply(size, layer, "ssm_g_b", self._multiply(low, layer, "ssm_g_a", hidden))
        y = self.add(size, y, self.add(size, self.view(gate)), in_place=True)
        return self._multiply(self.row, layer, "attn_output", self.add(size, y))
