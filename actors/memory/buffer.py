"""Replays ggml's graph allocator, to find the size of the buffer in which a graph is computed.

As in ggml-alloc.c (`ggml_gallocr`): nodes in their order, best fit, a result in the memory of a parent that
no other node reads, memory free again after its last reader.
"""

ALIGNMENT = 128
UNBOUNDED = 1 << 62


def align(size: int, step: int = ALIGNMENT) -> int:
    """Return `size`, rounded up to a multiple of `step`."""
    return -(-size // step) * step


class Node:
    """A tensor of a graph. `size` is in bytes; None: it needs no memory of its own."""

    __slots__ = ("address", "base", "in_place", "keep", "owns", "readers", "size", "sources", "views")

    def __init__(
        self,
        size: int | None,
        sources: "list[Node]",
        *,
        base: "Node | None" = None,
        in_place: bool = False,
        keep: bool = False,
    ) -> None:
        self.size = size
        self.sources = sources
        self.base = base
        """The tensor that this one is a view of; None: it is not a view."""
        self.in_place = in_place
        self.keep = keep
        self.readers = 0
        self.views = 0
        self.owns = False
        self.address = 0


class Buffer:
    """The inputs and the nodes of a graph, in the order in which they are computed."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._inputs: dict[str, Node] = {}
        self._leaves: list[Node] = []

    def add(
        self, size: int | None, *sources: Node | None, in_place: bool = False, keep: bool = False
    ) -> Node:
        """Add a node that is computed from `sources`. A source of None is skipped."""
        present = [source for source in sources if source is not None]
        self._nodes.append(node := Node(size, present, in_place=in_place, keep=keep))
        return node

    def view(self, of: Node, *sources: Node | None) -> Node:
        """Add a view of a node, which may read other nodes too. A source of None is skipped."""
        present = [of, *(source for source in sources if source is not None)]
        self._nodes.append(node := Node(None, present, base=of.base or of))
        return node

    def input(self, name: str, size: int) -> Node:
        """Return the input of this name, or its copy on this device. The first call adds it."""
        if name not in self._inputs:
            self._inputs[name] = Node(size, [])
        return self._inputs[name]

    def leaf(self, size: int) -> Node:
        """Add a node without sources. It has memory from the beginning to its last reader, and no copies."""
        self._leaves.append(node := Node(size, []))
        return node

    def required(self, copies: int = 1) -> int:
        """Return the bytes of the buffer. With pipeline parallelism each input has several `copies`."""
        heap = _Heap()
        for node in self._nodes:
            if node.base is not None:
                node.base.views += 1
            for source in node.sources:
                source.readers += 1
        for node in self._leaves:
            assert node.size is not None
            node.owns, node.address = True, heap.take(node.size)
        for node in self._inputs.values():
            assert node.size is not None
            node.owns, node.keep = True, node.keep or copies > 1
            for _ in range(copies):
                node.address = heap.take(node.size)
        for node in self._nodes:
            if node.base is None and node.size is not None:
                self._place(node, node.size, heap)
            for source in node.sources:
                self._read(source, heap)
        return heap.top

    @staticmethod
    def _place(node: Node, size: int, heap: "_Heap") -> None:
        node.owns = True
        if node.in_place:
            for source in node.sources:
                free = source.owns and not source.keep and source.readers == 1 and not source.views
                if source.base is None and free and source.size == size:
                    node.address, source.owns = source.address, False
                    return
        node.address = heap.take(size)

    @staticmethod
    def _read(source: Node, heap: "_Heap") -> None:
        """Remove one reader of a node. Without readers its memory is free."""
        source.readers -= 1
        if source.readers or source.views:
            return
        owner = source
        if source.base is not None:
            owner = source.base
            owner.views -= 1
            if owner.views or owner.readers:
                return
        if owner.owns and not owner.keep:
            assert owner.size is not None
            heap.give_back(owner.address, owner.size)
            owner.owns = False


class _Heap:
    """Free ranges, sorted by address. The last one has no end."""

    def __init__(self) -> None:
        self._free: list[list[int]] = [[0, UNBOUNDED]]
        self.top = 0

    def take(self, size: int) -> int:
        size = align(size)
        best = self._free[-1]
        for block in self._free[:-1]:
            if block[1] >= size and (best is self._free[-1] or block[1] <= best[1]):
                best = block
        address = best[0]
        best[0] += size
        best[1] -= size
        if not best[1]:
            self._free.remove(best)
        self.top = max(self.top, address + size)
        return address

    def give_back(self, address: int, size: int) -> None:
        size = align(size)
        if not size:
            return
        for index, block in enumerate(self._free):
            if block[0] + block[1] == address:
                block[1] += size
                following = self._free[index + 1] if index + 1 < len(self._free) else None
                if following is not None and block[0] + block[1] == following[0]:
                    block[1] += following[1]
                    del self._free[index + 1]
                return
            if address + size == block[0]:
                block[0] = address
                block[1] += size
                if index and self._free[index - 1][0] + self._free[index - 1][1] == address:
                    self._free[index - 1][1] += block[1]
                    del self._free[index]
                return
        self._free.append([address, size])
        self._free.sort()
