"""README and docs/: links lead somewhere, every page can be found, and reference pages leave nothing out."""

import re
from pathlib import Path

import pytest
import yaml

from actors.config.file import parse_config
from actors.config.schema import Config
from proxy.apis.table import ENDPOINTS
from proxy.errors import REJECTIONS
from tests.gateway import CHECKOUT
from tests.log_calls import PAGE, Event, documented, written

PAGES = sorted(
    file.relative_to(CHECKOUT)
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "deploy/**/*.md",
        "actors/**/*.md",
        "agents/**/*.md",
        "proxy/**/*.md",
    )
    for file in CHECKOUT.glob(pattern)
)
FIELD_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \|$", re.MULTILINE)
ENDPOINTS_PAGE = (CHECKOUT / "docs" / "endpoints.md").read_text()


def anchors(page: Path) -> set[str]:
    """What can stand after the # of a link, as GitHub makes it of headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", (CHECKOUT / page).read_text()):
        path, _, anchor = link.partition("#")
        target = (CHECKOUT / page).parent / path if path else CHECKOUT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_of_docs_is_in_the_readme() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    pages = [page for page in PAGES if page.parent == Path("docs")]
    missing = [page for page in pages if f"({page})" not in readme]
    assert not missing


def test_every_room_with_a_page_is_in_architecture() -> None:
    architecture = (CHECKOUT / "docs" / "architecture.md").read_text()
    rooms = [page for page in PAGES if page.parts[0] in ("actors", "agents", "proxy")]
    missing = [page for page in rooms if f"(../{page})" not in architecture]
    assert not missing


def test_the_picture_has_every_part() -> None:
    picture = (CHECKOUT / "docs" / "architecture.md").read_text().partition("```\n")[2].partition("```")[0]
    parts = [
        entry.stem
        for package in ("proxy", "agents", "actors")
        for entry in (CHECKOUT / package).iterdir()
        if entry.suffix == ".py" or (entry / "__init__.py").exists()
    ]
    missing = [part for part in parts if part != "__init__" and not re.search(rf"\b{part}\b", picture)]
    assert not missing


def test_examples_of_settings_can_be_used(tmp_path: Path) -> None:
    pages = [page for page in PAGES if page.parts[0] in ("README.md", "docs")]
    blocks = [
        yaml.safe_load(block)
        for page in pages
        for block in re.findall(r"```yaml\n(.*?)```", (CHECKOUT / page).read_text(), re.DOTALL)
    ]
    examples = [
        block for block in blocks if isinstance(block, dict) and block.keys() <= set(Config.__struct_fields__)
    ]
    assert len(examples) > 7
    for example in examples:
        parse_config(example, folder=tmp_path)


def test_every_path_is_documented() -> None:
    paths = [path for endpoint in ENDPOINTS for path in endpoint.paths]
    missing = [path for path in paths if not re.search(f"[` ]{re.escape(path)}`", ENDPOINTS_PAGE)]
    assert not missing, "add their rows to docs/endpoints.md"


def test_every_rejection_is_documented() -> None:
    rows = {code: rf"\| {status} .*`{code}`" for status, code in REJECTIONS.values()}
    missing = [code for code, row in rows.items() if not re.search(row, ENDPOINTS_PAGE)]
    assert not missing


# docs/logs.md


def test_each_event_has_its_row() -> None:
    known, there_are = documented(), written()
    rows = [
        f"| `{name}` | {' | '.join(event.row)} | {known.get(name, event).words} |    <- {event.place}"
        for name, event in there_are.items()
        if name not in known or known[name].row != event.row
    ]
    assert not rows, f"rows for {PAGE.relative_to(CHECKOUT)}:\n" + "\n".join(rows)
    gone = known.keys() - there_are.keys()
    assert not gone, "no source writes these events: take out their rows"


def test_each_field_is_explained() -> None:
    explained = {name for name, _ in FIELD_ROW.findall(PAGE.read_text().partition("\n## Fields\n")[2])}
    used = {field for event in written().values() for field in event.fields}
    missing, gone = sorted(used - explained), sorted(explained - used)
    assert not missing, f"add rows below ## Fields of {PAGE.name}: {', '.join(missing)}"
    assert not gone, f"no event has these fields, take out their rows: {', '.join(gone)}"


@pytest.mark.parametrize(
    ("name", "levels", "fields"),
    [
        ("model starts", {"info", "warning"}, {"model", "epoch", "place", "why", "context", "set_aside"}),
        ("server log", {"debug", "warning"}, {"line", "model", "epoch", "source"}),
        ("the embedding model fails; words only", {"warning"}, {"model", "reason"}),
        ("request", {"debug", "info", "warning"}, {"trace_id", "total_ms", "completion_tokens"}),
        ("task failed", {"critical"}, {"task"}),
        ("a log line could not be made", {"error"}, set()),
    ],
)
def test_the_sources_are_understood(name: str, levels: set[str], fields: set[str]) -> None:
    """Levels and fields that are chosen, bound or unpacked, and lines that no logger writes."""
    event: Event = written()[name]
    assert event.levels == levels
    assert event.fields >= fields
