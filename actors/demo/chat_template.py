"""The chat template of the built-in models."""

import re
from pathlib import Path

_FILE = Path(__file__).with_suffix(".jinja")
_REASONING = re.compile(r" *\{#- reasoning: -#\}.*?\{#- :reasoning -#\}\n", re.DOTALL)


def chat_template(*, reasoning: bool) -> str:
    """Return the template. It writes the prompt and, for a tool call or result, the plan to be recited.

    With `reasoning` a plan begins with a thought, unless the request turns that off. Without `reasoning` the
    template does not mention thoughts: llama.cpp and clients conclude from such words that a model has them.
    """
    text = _FILE.read_text(encoding="utf-8")
    return text if reasoning else _REASONING.sub("", text)
