"""What one running server has read: by this it is known whose prompt is in a slot. Pure."""

from collections.abc import Iterator

import msgspec

from actors.prompts.chain import Chain

KEPT = 256
"""Most conversations that are remembered of one server."""
BODIES = 32 << 20
"""Most bytes of their requests."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was answered, with the `turns` before it that it continues.

    `tokens`: of prompt and answer; `prompt`: of the prompt; `at`: when it ended, in monotonic seconds.
    `body`: the chat request itself, with which the server can be asked for the prompt again; empty if it is
    not kept. `slot`: the one that it was given, if it was given one.
    """

    client: str
    chain: Chain
    tokens: int
    prompt: int
    at: float
    turns: int = 1
    body: bytes = b""
    slot: int | None = None


class Records:
    """The latest requests of one server."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def add(self, record: Record) -> None:
        """Add a request; it replaces the one that it continues."""
        turns = record.turns
        kept = []
        for known in self._records:
            if known.client == record.client and record.chain.extends(known.chain):
                turns = max(turns, known.turns + (known.chain != record.chain))
            else:
                kept.append(known)
        self._records = [*kept[1 - KEPT :], msgspec.structs.replace(record, turns=turns)]
        self._drop_bodies()

    def _drop_bodies(self) -> None:
        room = BODIES
        for index in reversed(range(len(self._records))):
            size = len(self._records[index].body)
            room -= size
            if size and room < 0:
                self._records[index] = msgspec.structs.replace(self._records[index], body=b"")

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def forget(self, record: Record) -> None:
        """Note that the server has this one no more."""
        self._records = [known for known in self._records if known != record]

    def known(self, chain: Chain, client: str | None = None) -> float:
        """Return how many tokens of a prompt the server has read already, about: for anybody, or a client."""
        return max(
            (
                chain.shared(known.chain) * known.prompt
                for known in self._records
                if client in (None, known.client)
            ),
            default=0.0,
        )

    def of_slot(self, slot: int, tokens: int) -> Record | None:
        """Return the request whose prompt and answer a slot of so many tokens has.

        The last token of an answer is not in the slot. None if it cannot be told whose they are.
        """
        found = [
            known
            for known in self._records
            if tokens <= known.tokens <= tokens + 1 and known.slot in (None, slot)
        ]
        return found[-1] if found and len({known.client for known in found}) == 1 else None
