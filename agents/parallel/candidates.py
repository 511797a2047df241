"""Calls the models for answers, one model after the other, so that each is loaded at most once."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from actors.runtime import spawn
from agents.api import AgentError, Answer, Chat, Client, ModelInfo


def groups(requests: Sequence[Chat], models: Sequence[ModelInfo], last: str) -> list[tuple[list[int], int]]:
    """Group the requests' places by model, with the number that each model answers at a time.

    Loaded models come first. Of the rest, the model `last`, which is called again afterwards, comes last.
    """
    known = {name: info for info in models for name in (info.name, *info.aliases)}
    by_model: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        name = known[request.model].name if request.model in known else request.model
        by_model.setdefault(name, []).append(place)

    def turn(name: str) -> tuple[bool, bool]:
        return not (name in known and known[name].loaded), name == last

    def slots(name: str) -> int:
        return max(1, known[name].slots) if name in known else 1

    return [(by_model[name], slots(name)) for name in sorted(by_model, key=turn)]


async def ask_each(
    llm: Client, requests: Sequence[Chat], last: str
) -> AsyncGenerator[tuple[int, Answer | AgentError], None]:
    """Send the requests; yield the place and the answer or error of each. Closing cancels the rest."""
    for places, slots in groups(requests, llm.models(), last):
        free = asyncio.Semaphore(slots)

        async def ask(request: Chat, free: asyncio.Semaphore = free) -> Answer | AgentError:
            async with free:
                try:
                    return await llm.chat(request)
                except AgentError as error:
                    return error

        tasks = {spawn(ask(requests[place]), name=f"candidate {place}"): place for place in places}
        try:
            waiting = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=tasks.__getitem__):
                    yield tasks[task], task.result()
        finally:
            if unfinished := [task for task in tasks if not task.done()]:
                for task in unfinished:
                    task.cancel()
                await asyncio.wait(unfinished)
