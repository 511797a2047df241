"""What is not as the official APIs have it: the remaining differences, which docs/clients.md lists too."""

KNOWN: dict[str, str] = {
    "test_anthropic.py::test_stop_sequence[*-Ollama]": (
        "Anthropic: `stop_reason` is `end_turn` where a stop sequence ended an answer of an Ollama model: "
        "the daemon does not say what ended it."
    ),
}
"""Patterns of tests that fail, in the words of fnmatch: the difference that makes them fail.

When they pass, the suite fails until their line is removed.
"""

BESIDES = ("OpenAI: `created` can differ by a second between the chunks of one stream of llama.cpp.",)
"""Differences that fail only sometimes."""
