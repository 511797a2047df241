"""An example of an agent, to which docs/agents.md points: it signs answers, and counts them."""

import asyncio
from typing import Annotated

import msgspec

from agents.api import Agent, AgentConfig, Chat, Context, Filter, Finished, Message, TextFilter


class SignatureConfig(AgentConfig, frozen=True, kw_only=True):
    """Its options in config.yaml, beside those that every agent has."""

    name: Annotated[str, msgspec.Meta(description="who signs")] = "your model"


class Sign(TextFilter):
    """Passes the text on, and adds a line at its end."""

    def __init__(self, line: str) -> None:
        self._line = line

    def text(self, piece: str) -> str:
        """Each piece as it comes."""
        return piece

    def rest(self) -> str:
        """What comes last, once."""
        line, self._line = self._line, ""
        return line


class Signature(Agent):
    """`/signature` signs by the configured name, `/signature:Alice` by Alice's."""

    description = "Signs the answer"
    Config = SignatureConfig
    config: SignatureConfig

    async def before(self, ctx: Context, request: Chat) -> Chat:
        """Ask the model not to sign for itself."""
        manner = Message("system", "Do not sign your answer.")
        return msgspec.structs.replace(request, messages=[manner, *request.messages])

    def stream(self, ctx: Context) -> Filter:
        """Sign the answer."""
        return Sign(f"\n\n-- {ctx.argument or self.config.name}")

    async def after(self, ctx: Context, finished: Finished) -> None:
        """Count it, when the client has it all."""
        if finished.failure is None:
            await asyncio.to_thread(self._count)

    def _count(self) -> None:
        path = self.services.folder / "count"
        path.write_text(str(int(path.read_text()) + 1 if path.exists() else 1))
