"""Knows what builds of llama.cpp allocate differently. Pure.

Weights and cache are the same in all tested builds; the compute buffer is not. A difference is data: its
name, and the builds between which it came. Between these two the larger figure is taken.
"""

import re

import msgspec

TESTED = (9294, 9538, 9713, 10229, 11063, 11434, 11549)
"""Builds whose loads were compared with predictions, from May to October 2026."""

LIMITS_OUTPUTS = (9294, 9538)
"""The last build that has logits of all tokens of a micro-batch, and the first with those of outputs only."""

CASTS_MASKS = (9294, 9538)
"""The last build that casts masks from 32 to 16 bits for flash attention, and the first that need not."""

REFUSES_ROWS = 11549
"""The first build that is known to load no model on GPUs with `--split-mode row`."""

MIXES_INPUTS = (11063, 11434)
"""The last build whose batches have either tokens or embeddings, and the first with both in one batch."""

_NUMBERS = (
    re.compile(r"xllamacpp \d+\.\d+\.(\d{4,6})"),
    re.compile(r"\bbuild (\d{4,6})\b"),
    re.compile(r"^b?(\d{4,6})\b"),
)


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """What a build does. `is_tested`: it lies between tested builds, and has no difference in doubt."""

    number: int | None = None
    limits_outputs: bool = True
    mixes_inputs: bool = True
    casts_masks: bool = False
    refuses_rows: bool = False
    is_tested: bool = True


NEWEST = Build(number=TESTED[-1])
"""The newest tested build."""


def build_from(version: str) -> Build:
    """Return the build of a server by the version that it prints; of an unknown one, the newest, untested."""
    found = next(filter(None, (pattern.search(version) for pattern in _NUMBERS)), None)
    if found is None:
        return msgspec.structs.replace(NEWEST, number=None, is_tested=False)
    number = int(found[1])
    doubtful = any(last < number < first for last, first in (LIMITS_OUTPUTS, MIXES_INPUTS))
    return Build(
        number=number,
        limits_outputs=number >= LIMITS_OUTPUTS[1],
        casts_masks=number < CASTS_MASKS[1],
        mixes_inputs=number > MIXES_INPUTS[0],
        refuses_rows=number >= REFUSES_ROWS,
        is_tested=TESTED[0] <= number <= TESTED[-1] and not doubtful,
    )
