"""The chat template of the built-in models."""

from pathlib import Path

_FILE = Path(__file__).with_suffix(".jinja")


def chat_template() -> str:
    """It writes the prompt and, where a tool is called or has answered, the plan that the model recites."""
    return _FILE.read_text(encoding="utf-8")
