"""Common parts of graphs: nodes, products with weights, norms, and copies of tensors on the host."""

from actors.memory.buffer import Buffer, Node
from actors.memory.graph.work import F32, HostSide, Work, on_gpu
from actors.memory.shape import Shape


class Parts:
    """A graph while it is built."""

    def __init__(
        self,
        shape: Shape,
        work: Work,
        *,
        gpu: bool,
        host: HostSide,
        copies: int,
        foreign: frozenset[int],
    ) -> None:
        self.host = host
        self.foreign = foreign
        self.beside: Node | None = None
        self.stacked: Node | None = None
        self.copies = copies
        self.shape = shape
        self.work = work
        self.gpu = gpu
        self.buffer = Buffer()
        self.add, self.view, self.input = self.buffer.add, self.buffer.view, self.buffer.input
        self.row = F32 * shape.width * work.tokens
        """Bytes of the activations between two layers."""

    def _multiply(self, size: int, layer: int, part: str, *sources: Node | None) -> Node:
        """Add a product with a weight of a layer, which is first copied from the host if it is there."""
        return self.add(size, *sources, self._copy_of(f"blk.{layer}.{part}.weight"))

    def _copy_of(self, name: str) -> Node | None:
        return self.add(on_gpu(self.shape.tensors[name])) if name in self.host.weights else None

    def _norm(self, x: Node, size: int) -> Node:
        return self.add(size, self.add(size, x, in_place=True), in_place=True)

    def _select(self, x: Node) -> Node:
        """Add a selection of the tokens with logits."""
        outputs = self.work.outputs
        return self.add(F32 * self.shape.width * outputs, x, self.input("ids", 4 * outputs))
