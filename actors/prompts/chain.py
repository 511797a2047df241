"""The beginning of a prompt, message by message, as digests. Pure.

Two requests whose first messages are the same have the same first digests. That is a guess about the prompt
that a server makes of them; the server itself compares tokens, so a wrong guess costs time and nothing else.
"""

import hashlib

import msgspec

DIGEST_BYTES = 16
MOST_PARTS = 4096
"""Most messages of a request that are looked at."""


class Chain(msgspec.Struct, frozen=True):
    """The parts of a prompt: what comes before the messages, and each message.

    `digests[n]` is of the first n + 1 parts, in hex; `sizes[n]` are their bytes together.
    """

    digests: tuple[str, ...]
    sizes: tuple[int, ...]

    def shared(self, other: "Chain") -> float:
        """Return how much of `other`, from 0 to 1 by bytes, this prompt begins with."""
        parts = 0
        for mine, theirs in zip(self.digests, other.digests, strict=False):
            if mine != theirs:
                break
            parts += 1
        # The part before the messages alone is no conversation.
        return 0.0 if parts < 2 else other.sizes[parts - 1] / other.sizes[-1]

    def extends(self, other: "Chain") -> bool:
        """Whether this prompt begins with all of `other`."""
        return self.digests[: len(other.digests)] == other.digests


class _Body(msgspec.Struct):
    messages: list[msgspec.Raw] | None = None
    prompt: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    response_format: msgspec.Raw = msgspec.Raw(b"")
    chat_template_kwargs: msgspec.Raw = msgspec.Raw(b"")
    cache_prompt: bool | None = None
    lora: msgspec.Raw = msgspec.Raw(b"")
    n: float | None = None
    n_cmpl: float | None = None
    id_slot: float | None = None


_decoder = msgspec.json.Decoder(_Body)


def chain_of(body: bytes | memoryview) -> Chain | None:
    """Return the chain of a request to a llama.cpp server.

    None if what the server keeps of it cannot be used again: it has no messages and no prompt, an adapter of
    its own, or several answers.
    """
    try:
        asked = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    single = (asked.n or 1) == 1 and (asked.n_cmpl or 1) == 1
    if bytes(asked.lora) or asked.cache_prompt is False or not single:
        return None
    messages = asked.messages if asked.messages is not None else [asked.prompt] if bytes(asked.prompt) else []
    if not messages or len(messages) > MOST_PARTS:
        return None
    before = b"\0".join(map(bytes, (asked.tools, asked.response_format, asked.chat_template_kwargs)))
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digests, sizes, total = [], [], 0
    for part in (before, *messages):
        piece = bytes(part)
        total += len(piece)
        state.update(len(piece).to_bytes(8, "little"))
        state.update(piece)
        digests.append(state.hexdigest())
        sizes.append(total)
    return Chain(tuple(digests), tuple(sizes))
