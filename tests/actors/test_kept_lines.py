"""The latest lines of a log, in a limited number of bytes."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from actors.kept_lines import MOST_MODELS, OVERHEAD, KeptLines, ServerLines


@given(texts=st.lists(st.text(max_size=300)), most=st.integers(0, 3000), seen=st.integers(0, 40))
def test_the_latest_lines_that_fit_are_kept_in_order(texts: list[str], most: int, seen: int) -> None:
    kept = KeptLines(most)
    for text in texts:
        kept.add(text)
    lines = kept.after(0)
    assert sum(len(line.text) + OVERHEAD for line in lines) <= most
    assert [line.text for line in lines] == texts[len(texts) - len(lines) :]
    assert [line.number for line in lines] == list(range(len(texts) - len(lines) + 1, len(texts) + 1))
    if len(lines) < len(texts):
        dropped = texts[len(texts) - len(lines) - 1]
        assert sum(len(line.text) + OVERHEAD for line in lines) + len(dropped) + OVERHEAD > most
    assert kept.after(seen) == [line for line in lines if line.number > seen]
    assert kept.number == len(texts)


def test_lines_of_several_threads_are_all_counted() -> None:
    kept = KeptLines(10**7)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: kept.add(str(number)), range(4000)))
    assert [line.number for line in kept.after(0)] == list(range(1, 4001))


def test_models_are_dropped_when_there_are_too_many() -> None:
    servers = ServerLines()
    first = servers.of("first")
    first.add("x")
    for number in range(MOST_MODELS - 1):
        servers.of(f"m{number}")
    assert servers.of("first") is first, "its next server continues"
    servers.of("one more")
    assert servers.find("first") is first
    assert servers.find("m0") is None
