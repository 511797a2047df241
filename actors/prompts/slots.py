"""The slots of a llama.cpp server: what is in them, and how it is saved and restored."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
import msgspec

from actors.config.schema import authority
from actors.messages import ServerAddress
from actors.prompts.recall import known_part

ANSWER_LIMIT = 4 << 20
"""Most bytes of an answer. With many slots and long grammars that of /slots is large."""


T = TypeVar("T")


class SlotError(Exception):
    """The server does not do that with its slots. The message is the server's."""


class Slot(msgspec.Struct, frozen=True):
    """One slot. `n_prompt_tokens` in its cache; None before its first request, or if the build is silent."""

    id: int
    is_processing: bool = False
    n_prompt_tokens: int | None = None
    id_task: int = -1


class Moved(msgspec.Struct, frozen=True):
    """What was saved or restored."""

    tokens: int
    bytes: int


class _Answer(msgspec.Struct):
    n_saved: int = 0
    n_written: int = 0
    n_restored: int = 0
    n_read: int = 0


class Slots:
    """Asks one server. All methods raise `SlotError`."""

    def __init__(self, session: aiohttp.ClientSession, address: ServerAddress) -> None:
        self._session = session
        base = f"http://{authority(address.host, address.port)}"
        self._url, self._chat = f"{base}/slots", f"{base}/v1/chat/completions"
        key = address.key
        self._headers = {} if key is None else {"Authorization": f"Bearer {key.secret}"}

    async def look(self) -> list[Slot]:
        """Return all slots."""
        return _read_slots(await self._ask("GET", self._url))

    async def save(self, slot: int, name: str) -> Moved:
        """Write what is in a slot to a file in the server's folder. Waits until the slot is free."""
        answer = await self._move(slot, "save", name)
        return Moved(answer.n_saved, answer.n_written)

    async def restore(self, slot: int, name: str) -> Moved:
        """Replace what is in a slot by a saved prompt."""
        answer = await self._move(slot, "restore", name)
        return Moved(answer.n_restored, answer.n_read)

    async def recall(self, body: bytes, least: float) -> None:
        """Have the server take a prompt from its own cache in host memory into a slot.

        If it has less than `least` of it, from 0 to 1, this raises `SlotError`, and the server reads no more.
        """
        limit = aiohttp.ClientTimeout(total=None, sock_connect=5)
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            async with self._session.post(self._chat, data=body, headers=headers, timeout=limit) as response:
                if response.status != 200:
                    raise SlotError(f"status {response.status}")
                known = None
                async for line in response.content:
                    if known is None and (known := known_part(line)) is not None and known < least:
                        raise SlotError("the server's own cache does not have it any more")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise SlotError(f"{type(error).__name__}: {error}") from error

    async def _move(self, slot: int, action: str, name: str) -> _Answer:
        url = f"{self._url}/{slot}?action={action}"
        return _read_answer(await self._ask("POST", url, {"filename": name}))

    async def _ask(self, method: str, url: str, body: dict[str, str] | None = None) -> bytes:
        # The caller limits the time.
        limit = aiohttp.ClientTimeout(total=None, sock_connect=5)
        try:
            async with self._session.request(
                method, url, json=body, headers=self._headers, timeout=limit
            ) as response:
                raw = await _read(response.content)
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise SlotError(f"{type(error).__name__}: {error}") from error
        if status != 200:
            raise SlotError(f"status {status}: {raw[:300].decode(errors='replace')}")
        return raw


def _reader(kind: type[T]) -> Callable[[bytes], T]:
    decoder = msgspec.json.Decoder(kind)

    def read(raw: bytes) -> T:
        try:
            return decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SlotError(f"an answer that cannot be read: {error}") from error

    return read


_read_slots = _reader(list[Slot])
_read_answer = _reader(_Answer)


async def _read(content: aiohttp.StreamReader) -> bytes:
    try:
        await content.readexactly(ANSWER_LIMIT)
    except asyncio.IncompleteReadError as whole:
        return whole.partial
    raise SlotError(f"an answer of more than {ANSWER_LIMIT} bytes")


async def within(work: Awaitable[T], limit: float) -> T:
    """Wait for an answer. Raises `SlotError` if it takes too long."""
    # Not `asyncio.timeout`: saving is also done by a task that is being cancelled.
    task = asyncio.get_running_loop().create_task(_of(work))
    try:
        await asyncio.wait([task], timeout=limit)
        if not task.done():
            raise SlotError(f"no answer within {limit:.1f} s")
        return task.result()
    finally:
        task.cancel()


async def _of(work: Awaitable[T]) -> T:
    return await work
