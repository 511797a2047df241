"""How much is tried: in CI all of it, every day what takes seconds."""

import os


def examples(count: int) -> int:
    """How many examples Hypothesis tries, of the `count` in CI."""
    return count if os.environ.get("CI") else max(10, count // 4)
