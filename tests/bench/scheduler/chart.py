"""The figures as bars: on a terminal, and as an SVG without any library."""

from collections.abc import Sequence
from html import escape

from tests.bench.scheduler.figures import OURS, Figures

COLOURS = {"ours": "#1a7f37", "seed": "#8c959f", "llama-swap": "#bf8700", "ollama": "#0969da"}
CLAIRVOYANT = "#d0d7de"
BAR, GAP, LEFT, WIDTH, TOP = 13, 22, 190, 300, 64


def bars(rows: Sequence[Figures], width: int = 30) -> list[str]:
    """Work, as a share of the most that anyone did, and the longest wait, as a share of the whole time."""
    most = max(row.work_per_minute for row in rows)
    return [
        f"{row.policy:24} {'█' * round(width * row.work_per_minute / most):{width}} "
        f"{'▒' * max(1, round(width * row.longest / row.trace.seconds))} {row.longest:.0f} s"
        for row in rows
    ]


def svg(tables: Sequence[Sequence[Figures]]) -> str:
    """Two columns of bars for each trace: work, and longest wait on a scale of square roots."""
    parts, y = [], TOP
    for rows in tables:
        most = max(row.work_per_minute for row in rows)
        parts.append(_text(12, y + 2, rows[0].trace.title, size=13, weight="bold"))
        y += 10
        for row in rows:
            colour = COLOURS.get(row.policy, CLAIRVOYANT)
            weight = "bold" if row.policy == OURS else "normal"
            parts.append(_text(LEFT - 8, y + BAR - 3, row.policy, anchor="end", weight=weight))
            work = WIDTH * row.work_per_minute / most
            wait = WIDTH * (min(1.0, row.longest / row.trace.seconds)) ** 0.5
            for at, length, label in (
                (LEFT, work, f"{row.work_per_minute:.0f}"),
                (LEFT + WIDTH + 90, wait, f"{row.longest:.0f} s"),
            ):
                size = f'width="{max(1.0, length):.1f}" height="{BAR - 2}"'
                parts.append(f'<rect x="{at}" y="{y}" {size} fill="{colour}"/>')
                parts.append(_text(at + length + 5, y + BAR - 3, label))
            y += BAR + 1
        y += GAP
    wide = LEFT + 2 * WIDTH + 160
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{y}" font-family="sans-serif">',
        f'<rect width="{wide}" height="{y}" fill="#ffffff"/>',
        _text(LEFT, 24, "work done: seconds of service per minute (longer is better)", size=13),
        _text(LEFT + WIDTH + 90, 24, "longest wait (shorter is better)", size=13),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def _text(
    x: float, y: float, text: str, *, size: int = 11, anchor: str = "start", weight: str = "normal"
) -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="#1f2328"'
    return f'<text x="{x:.1f}" y="{y}" {style}>{escape(text)}</text>'
