"""Common parts of graphs: nodes, products with weights, norms, and copies of tensors on the host."""

from actors.memory.buffer import Buffer, Node
from actors.memory.graph.work import F32, HostSide, Work, on_gpu
from actors.memory.shape import Shape

LAYER_NORM = frozenset(["cohere2", "command-r"])
"""Architectures whose norms subtract the mean, although they have no bias."""


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
        self.has_embedding = False
        """Whether the graph begins here, where masks of old builds are cast to 16 bits."""
        self.casts: dict[str, Node] = {}
        self.embedded: Node | None = None
        self.beside: Node | None = None
        self.stacked: Node | None = None
        self.interrupted: set[int] = set()
        """Recurrent layers that are completed after the state of the next one on this device is fetched."""
        self.left_open: int | None = None
        """The recurrent layer whose gate another device copies, because it has begun its own layers."""
        self.indexer: tuple[Node, Node] | None = None
        """What the indexer of the layer reads: activations, and compressed queries."""
        self.rotated_elsewhere: int | None = None
        """The layer of attention whose output another device rotates, because it has begun its own layers."""
        self.fetched: Node | None = None
        """The state of the next recurrent layer."""
        self.copies = copies
        self.shape = shape
        self.work = work
        self.gpu = gpu
        self.buffer = Buffer()
        self.add, self.view, self.input = self.buffer.add, self.buffer.view, self.buffer.input
        self.scales = "attn_norm.bias" not in shape.blocks[0] and shape.architecture not in LAYER_NORM
        """Whether norms only scale, as the root mean square does, in the memory of their source."""
        self.row = F32 * shape.width * work.tokens
        """Bytes of the activations between two layers."""

    def _multiply(self, size: int, layer: int, part: str, *sources: Node | None) -> Node:
        """Add a product with a weight of a layer, which is first copied from the host if it is there."""
        return self.add(size, *sources, self._copy_of(f"blk.{layer}.{part}.weight"))

    def _copy_of(self, name: str) -> Node | None:
        return self.add(on_gpu(self.shape.tensors[name])) if name in self.host.weights else None

    def _norm(self, x: Node, size: int) -> Node:
        return self.add(size, self.add(size, x, in_place=self.scales), in_place=True)

    def _select(self, x: Node) -> Node:
        """Add a selection of the tokens with logits."""
        outputs = self.work.outputs
        return self.add(F32 * self.shape.width * outputs, x, self.input("ids", 4 * outputs))

    def _turned(self, layer: int, size: int, x: Node, position: Node) -> Node:
        """Return queries or keys, rotated by their positions in layers that do that."""
        return self.add(size, x, position, in_place=True) if self.shape.turns[layer] else x
