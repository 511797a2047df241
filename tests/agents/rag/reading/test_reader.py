"""Documents are read in a process of their own, and hostile ones cost that process only."""

import asyncio
import os
import signal
import sys
import tracemalloc
import zlib
from pathlib import Path

import psutil
import pytest

from actors.runtime import spawn
from agents.rag.reading.chunks import Sizes
from agents.rag.reading.documents import DocumentLimits
from agents.rag.reading.formats.structure import DocumentError, PassingError
from agents.rag.reading.reader import Reader
from tests.agents.rag.pdf_files import make_pdf
from tests.gateway import until

DEEP = b"<div>" * 200_000 + b"x"
"""Takes a parser as HTML5 describes it about a minute."""


def children() -> list[psutil.Process]:
    return psutil.Process().children()


async def test_documents_are_read_one_after_the_other_by_one_child() -> None:
    async with Reader(sizes=Sizes(100, 0)) as reader:
        first = await reader.read(b"# A\n\nhello", "a.md")
        (child,) = children()
        second = await reader.read(make_pdf([["Printed."]]), "b.pdf")
        third = await reader.read(b"word " * 50, "c")
        assert children() == [child]
    assert (first.kind, first.title, first.chunks[0].text) == ("markdown", "A", "# A\n\nhello")
    assert (second.kind, second.chunks[0].page) == ("pdf", 1)
    assert len(third.chunks) == 3
    assert not children()


async def test_refusals_pass_through_and_the_next_is_read() -> None:
    async with Reader(DocumentLimits(bytes=100)) as reader:
        with pytest.raises(DocumentError, match=r"^a\.pdf is no PDF$"):
            await reader.read(b"x", "a.pdf")
        with pytest.raises(DocumentError, match=r"^b\.txt has 101 bytes, more than the 100 allowed$"):
            await reader.read(b"x" * 101, "b.txt")
        assert (await reader.read(b"x", "c.txt")).chunks[0].text == "x"


async def test_one_that_takes_too_long_is_given_up() -> None:
    async with Reader(timeout=1) as reader:
        with pytest.raises(DocumentError, match=r"^deep\.html takes more than 1 s of CPU to read$"):
            await reader.read(DEEP, "deep.html")
        assert (await reader.read(b"<p>x", "c.html")).chunks[0].text == "x"


async def test_a_moment_in_which_it_gets_no_cpu_is_not_the_document_s_fault() -> None:
    async with Reader(timeout=1) as reader:
        await reader.read(b"x", "a.txt")
        (child,) = children()
        child.suspend()
        reading = spawn(reader.read(b"<p>late", "b.html"), name="reading")
        await asyncio.wait([reading], timeout=1.5)
        assert not reading.done()
        child.resume()
        assert (await reading).chunks[0].text == "late"


async def test_one_that_never_gets_any_cpu_may_be_tried_again() -> None:
    async with Reader(patience=0.3) as reader:
        with pytest.raises(PassingError, match=r"^deep\.html could not be read within 0.3 s$"):
            await reader.read(DEEP, "deep.html")


async def test_one_that_takes_too_much_memory_is_refused() -> None:
    async with Reader(memory=400 << 20) as reader:
        with pytest.raises(DocumentError, match=r"^wide\.html "):
            await reader.read(b"<p>" * 5_000_000, "wide.html")
        assert (await reader.read(b"x", "c.txt")).chunks[0].text == "x"


async def test_a_small_pdf_that_is_large_inside_is_refused() -> None:
    bomb = zlib.compress(bytes(300 << 20), 1)
    plain = make_pdf([["Hello."]])
    start, end = plain.index(b"stream\n") + 7, plain.index(b"\nendstream")
    head = plain[:start].replace(
        f"/Length {end - start}".encode(), f"/Filter /FlateDecode /Length {len(bomb)}".encode()
    )
    async with Reader() as reader:
        with pytest.raises(DocumentError, match=r"^bomb\.pdf cannot be read as PDF: "):
            await reader.read(head + bomb + plain[end:], "bomb.pdf")


async def test_a_document_is_handed_on_without_a_copy_of_it() -> None:
    data = bytes(16 << 20)
    async with Reader() as reader:
        await reader.read(b"x", "a.txt")
        tracemalloc.start()
        try:
            with pytest.raises(DocumentError, match=r"^large\.pdf is no PDF$"):
                await reader.read(data, "large.pdf")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < len(data) // 8


async def test_a_child_that_is_killed_costs_one_document() -> None:
    async def killed() -> None:
        with pytest.raises(DocumentError, match=r"^deep\.html ended the process .* \(killed by SIGKILL\)$"):
            await reader.read(DEEP, "deep.html")

    async with Reader() as reader:
        await reader.read(b"x", "a.txt")
        (child,) = children()
        before = child.cpu_times().user
        reading = spawn(killed(), name="reading")
        await asyncio.to_thread(until, lambda: child.cpu_times().user > before + 0.1, "it is at work")
        child.kill()
        await reading
        assert (await reader.read(b"x", "c.txt")).chunks[0].text == "x"


async def test_a_reading_that_is_cancelled_leaves_no_child_and_no_answer() -> None:
    async with Reader() as reader:
        await reader.read(b"x", "a.txt")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(DEEP, "deep.html")
        assert not children()
        assert (await reader.read(b"after", "c.txt")).chunks[0].text == "after"


async def test_the_child_ends_with_the_gateway() -> None:
    code = (
        "import asyncio, os, signal\nfrom agents.rag.reading.reader import Reader\n"
        "async def main():\n    reader = Reader()\n    await reader.read(b'x', 'a.txt')\n"
        "    print(reader._child.pid, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[4],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
    )
    output, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    await asyncio.to_thread(until, lambda: not psutil.pid_exists(int(output)), "the child is gone")


async def test_a_long_page_is_read_in_time() -> None:
    async with Reader(timeout=20) as reader:
        reading = await reader.read(b"<p>some words\n" * 40_000, "long.html")
    assert sum(chunk.text.count("some words") for chunk in reading.chunks) >= 40_000
