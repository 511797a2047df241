"""Two models that do not fit together, with long conversations: seconds to the first token after a swap.

Real embedded servers with the demo model, swapped A-B-A-B; `saved` keeps prompts, `read again` does not. The
last turn follows a restart of the gateway.
"""

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actors.demo.model import write_demo
from tests.gateway import Gateway, running

SENTENCE = "This is sentence {number} about docker containers, of {model}. "
TOKENS_PER_SENTENCE = 16
ANSWER = 16


class Talk:
    """A conversation, and what each of its turns took."""

    def __init__(self, model: str, sentences: int) -> None:
        text = "".join(SENTENCE.format(number=number, model=model) for number in range(sentences))
        self.model = model
        self.messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
        self.first: list[float] = []
        """Seconds until the first token of each turn, with the swap."""
        self.prompts: list[int] = []
        self.cached: list[int] = []

    def turn(self, gateway: Gateway) -> None:
        """Ask, and note the answer."""
        body = {
            "model": self.model,
            "messages": self.messages,
            "max_tokens": ANSWER,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began, first, text = time.monotonic(), None, ""
        usage: dict[str, Any] = {}
        with gateway.client.stream("POST", "/v1/chat/completions", json=body, timeout=600) as response:
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    if piece := choice["delta"].get("content"):
                        first = first or time.monotonic() - began
                        text += piece
        assert first is not None
        self.first.append(first)
        self.prompts.append(usage["prompt_tokens"])
        self.cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        self.messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "And more?"}]


def measure(model: Path, sentences: int, turns: int, *, keeps: bool) -> tuple[list[Talk], dict[str, Any]]:
    """Hold two conversations in turn; return them, and the figures of /health."""
    settings = {"path": str(model), "ctx_size": 131072, "parallel": 1, "arguments": ["--threads", "1"]}
    talks = [Talk(name, sentences) for name in ("a", "b")]
    config: dict[str, Any] = {
        "llama_cpp": {"models": {talk.model: settings for talk in talks}},
        "server_pool": {"size": 1, "prompts": {"disk": 16 if keeps else 0}},
    }
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for restarted in (False, True):
            with ExitStack() as stack:
                folder = Path(name, str(restarted))
                folder.mkdir()
                gateway = stack.enter_context(running(dict(config), folder, XDG_CACHE_HOME=f"{name}/cache"))
                for _ in range(1 if restarted else turns):
                    for talk in talks:
                        talk.turn(gateway)
                figures = gateway.health().get("prompts") or {}
    return talks, figures


def main() -> None:
    """Print a table of both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="*", default=[2000, 8000, 16000])
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    print("| prompt tokens | read again: s to first token | saved: s to first token | | after a restart: s |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "demo.gguf")
        write_demo(model)
        for tokens in options.tokens:
            talks: list[Talk] = []
            row: list[float] = []
            last: list[float] = []
            for keeps in (False, True):
                talks, _ = measure(model, tokens // TOKENS_PER_SENTENCE, options.turns, keeps=keeps)
                # The first turn of each is new to all.
                row.append(
                    statistics.median(time for talk in talks for time in talk.first[1 : options.turns])
                )
                last.append(statistics.median(talk.first[-1] for talk in talks))
                if keeps:
                    lost = [talk.model for talk in talks if min(talk.cached[1:]) < talk.prompts[0] // 2]
                    assert not lost, f"read again in spite of all: {lost}"
            prompt = talks[0].prompts[0]
            print(
                f"| {prompt:,} | {row[0]:.2f} | {row[1]:.2f} | {row[0] / row[1]:.1f} x | "
                f"{last[0]:.2f} / {last[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
