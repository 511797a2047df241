"""Which feature passes with which client on which backend: the table that a run of the suite makes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

PASSES, KNOWN_TO_FAIL, FAILS, SKIPPED = "passes", "known to fail", "fails", "skipped"
Place = tuple[str, str, str]
"""Client, feature, backend."""


class Results:
    """A plugin of pytest that counts outcomes by client, feature and backend."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.counts: dict[Place, Counter[str]] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Let each report carry its place in the table: reports come from other processes too."""
        for item in items:
            mark = item.get_closest_marker("feature")
            if isinstance(item, pytest.Function) and mark and item.nodeid.startswith(self._folder):
                client = mark.args[1] if len(mark.args) > 1 else item.module.CLIENT
                backend: Any = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
                place = (client, mark.args[0], backend.name if backend else "gateway")
                item.user_properties.append(("conformance", place))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count an outcome."""
        places = [place for name, place in report.user_properties if name == "conformance"]
        if not places or (report.when != "call" and report.passed):
            return
        outcome = {"passed": PASSES, "failed": FAILS, "skipped": SKIPPED}[report.outcome]
        if hasattr(report, "wasxfail") and report.outcome == "skipped":
            outcome = KNOWN_TO_FAIL
        client, feature, backend = map(str, places[0])  # type: ignore[call-overload]
        self.counts.setdefault((client, feature, backend), Counter())[outcome] += 1

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        """Show the table, and keep it, if that was asked for."""
        path: str | None = config.getoption("conformance_table", None)
        if path:
            Path(path).write_text(self.markdown())
            terminalreporter.write_line(self.markdown())

    def markdown(self) -> str:
        """The table as a page has it."""
        backends = sorted({backend for _, _, backend in self.counts})
        lines = ["| client | feature | " + " | ".join(backends) + " |", "|---|---|" + "---|" * len(backends)]
        for client, feature in dict.fromkeys((client, feature) for client, feature, _ in self.counts):
            cells = [_cell(self.counts.get((client, feature, backend))) for backend in backends]
            lines.append(f"| {client} | {feature} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def _cell(counts: Counter[str] | None) -> str:
    if not counts:
        return ""
    total = counts.total()
    if total == counts[PASSES]:
        return "yes"
    return ", ".join(f"{number} of {total} {outcome}" for outcome, number in counts.items())
