"""An agent that passes everything on, so that what agents cost at least can be measured."""

from collections.abc import Iterable

from agents.api import Agent, Context, Event, Filter


class _PassOn:
    def feed(self, event: Event) -> Iterable[Event]:
        yield event


class PassOn(Agent):
    """Passes everything on."""

    description = "passes everything on"

    def stream(self, ctx: Context) -> Filter:
        """A filter for each answer."""
        return _PassOn()
