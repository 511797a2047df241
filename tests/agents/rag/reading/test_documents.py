"""What is read of each format; nothing of a text is lost; and what cannot be read is refused by its name."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rag.reading.documents import Document, DocumentLimits, parse
from agents.rag.reading.formats.structure import MAX_DEPTH, MAX_HEADING, MAX_PATH, DocumentError
from tests.agents.rag.pdf_files import make_pdf

LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *("", "# One", "## Two", "Title", "=====", "-----", "```", "- item", "> quote", "| a | b |"),
                *("|---|---|", "def f(x):", "    return 1", "class C:", "    def m(self):", "@decorated"),
                *(
                    "# comment",
                    "}",
                    "int main(void) {",
                    "[a]: http://x",
                    "<p>text<b>bold",
                    "</p>",
                    "<h2>Head</h2>",
                ),
                *(
                    "<li>one<li>two",
                    "<pre> a  b </pre>",
                    "<td>1<td>2",
                    "\tx",
                    "\u00a0",
                    "\x0b",
                    "\x1c",
                    "\u2028",
                ),
            ]
        ),
        st.text(max_size=30),
    ),
    max_size=40,
).map("\n".join)


def read(text: str, name: str, media_type: str = "") -> Document:
    return parse(text.encode(), name, media_type)


def outlined(document: Document) -> list[tuple[tuple[str, ...], str]]:
    return [(block.headings, document.text[block.start : block.end].strip()) for block in document.blocks]


@pytest.mark.parametrize("suffix", ["txt", "md", "html", "py", "c"])
@given(text=LINES)
def test_blocks_are_in_order_and_hold_all_of_the_text(suffix: str, text: str) -> None:
    try:
        document = parse(text.encode("utf-8", "replace"), f"a.{suffix}")
    except DocumentError:
        return
    position = 0
    for block in document.blocks:
        assert position <= block.start < block.end
        assert not document.text[position : block.start].strip()
        assert all(0 < len(heading) <= MAX_HEADING for heading in block.headings)
        assert sum(map(len, block.headings)) <= MAX_PATH
        position = block.end
    assert not document.text[position:].strip()
    assert position <= len(document.text)
    if suffix != "html":
        assert (
            document.text.split() == text.encode("utf-8", "replace").decode().replace("\0", "\ufffd").split()
        )


def test_plain_text_has_paragraphs_under_underlined_headings() -> None:
    document = read(
        "Guide\n=====\n\nHello\nthere.\n\nInstall\n-------\n\nRun it.\n\n-----\n\nDone.\n", "a.txt"
    )
    assert document.title == "Guide"
    assert outlined(document) == [
        (("Guide",), "Guide\n====="),
        (("Guide",), "Hello\nthere."),
        (("Guide", "Install"), "Install\n-------"),
        (("Guide", "Install"), "Run it."),
        (("Guide", "Install"), "-----"),
        (("Guide", "Install"), "Done."),
    ]


def test_markdown_has_paths_of_headings_and_whole_fences() -> None:
    source = (
        "# A\n\nintro\n\n## B\n\n```sh\n# no heading\n\nls\n```\n\nC\n=\n\n* x\n* y\n\n[link]: http://a\n"
    )
    document = read(source, "a.md")
    assert outlined(document) == [
        (("A",), "# A"),
        (("A",), "intro"),
        (("A", "B"), "## B"),
        (("A", "B"), "```sh\n# no heading\n\nls\n```"),
        (("C",), "C\n="),
        (("C",), "* x\n* y"),
        (("C",), "[link]: http://a"),
    ]


def test_html_is_read_as_it_is_seen() -> None:
    source = """<!doctype html><head><title>The &amp; Page</title><style>p{}</style></head><body>
        <nav>Menu</nav><script>var x = "<p>no</p>"</script>
        <h1>Top</h1>intro <b>bo</b>ld<p>One<br>two</p><ul><li>a<li>b <a href=x>link</a></ul>
        <h2>Sub<h2>Other</h2><pre>x  = 1\n  y</pre><table><tr><th>k<th>v<tr><td>1<td>2</table>
        <img alt="a llama"><template>hidden</template>"""
    document = read(source, "a.html")
    assert document.title == "The & Page"
    assert outlined(document) == [
        (("Top",), "Top"),
        (("Top",), "intro bold"),
        (("Top",), "One\ntwo"),
        (("Top",), "a"),
        (("Top",), "b link"),
        (("Top", "Sub"), "Sub"),
        (("Top", "Other"), "Other"),
        (("Top", "Other"), "x  = 1\n  y"),
        (("Top", "Other"), "k | v"),
        (("Top", "Other"), "1 | 2"),
        (("Top", "Other"), "a llama"),
    ]
    assert "a\nb link" in document.text


def test_python_is_parted_at_definitions() -> None:
    source = (
        '"""Doc."""\n\nimport os\n\nX = 1\n\n\n# About f.\n@cache\ndef f(x):\n    if x:\n        return 1\n\n'
        "    def inner():\n        pass\n\n\nclass C:\n    y = 2\n\n"
        "    def m(self):\n        pass\n\n\nmain()\n"
    )
    assert [(headings, text.split("\n")[0]) for headings, text in outlined(read(source, "a.py"))] == [
        ((), '"""Doc."""'),
        (("def f(x)",), "# About f."),
        (("def f(x)", "def inner()"), "def inner():"),
        (("class C",), "class C:"),
        (("class C", "def m(self)"), "def m(self):"),
        ((), "main()"),
    ]


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("a.c", "#include <x.h>\n\nint add(int a) {\n  if (a) {\n  }\n}\n\nstruct s {\n  int x;\n};\n", [
            (), ("int add(int a)",), ("struct s",)]),
        ("a.ts", "import x from 'y'\n\nexport class A {\n  go(n: number) {\n    for (;;) {}\n  }\n}\n", [
            (), ("export class A",), ("export class A", "go(n: number)")]),
        ("a.rs", "use x;\n\n/// Doc.\n#[test]\npub fn f() -> u8 {\n    1\n}\nimpl A for B {\n}\n", [
            (), ("pub fn f() -> u8",), ("impl A for B",)]),
        ("a.go", "package a\n\nfunc (s *S) Run() {\n\tif x {\n\t}\n}\n\ntype T struct {\n}\n", [
            ("package a",), ("func (s *S) Run()",), ("type T struct",)]),
        ("a.sql", "CREATE TABLE t (\n  id int\n);\n\ncreate view v as\nselect 1;\n", [
            ("CREATE TABLE t (",), ("create view v as",), ()]),
    ],
)  # fmt: skip
def test_other_languages_are_parted_too(name: str, source: str, expected: list[tuple[str, ...]]) -> None:
    assert [headings for headings, _ in outlined(read(source, name))] == expected


def test_pdf_has_pages_headings_and_a_title() -> None:
    data = make_pdf(
        [["First page.", "An exam-", "ple."], ["Second page."], ["Third page."]],
        outline=[("Start", 1, 0), ("Detail", 2, 1), ("End", 1, 2)],
        title="Printed",
    )
    document = parse(data, "a.pdf")
    assert document.title == "Printed"
    assert [
        (block.page, *entry) for block, entry in zip(document.blocks, outlined(document), strict=True)
    ] == [
        (1, ("Start",), "First page.\nAn example."),
        (2, ("Start", "Detail"), "Second page."),
        (3, ("End",), "Third page."),
    ]


def test_headings_have_an_end_in_depth_and_length() -> None:
    outline = [(f"{level}", level, 0) for level in range(1, 100)]
    document = parse(make_pdf([["Text."], ["More."]], outline=[*outline, ("9", 100, 1)]), "a.pdf")
    assert [block.headings for block in document.blocks] == [("1",), tuple("12345678")]
    assert MAX_DEPTH == 8
    levels = "\n\n".join("#" * level + f" {level}" + "x" * MAX_HEADING for level in range(1, 7))
    last = read(levels, "a.md").blocks[-1]
    assert [heading[0] for heading in last.headings] == ["1", "2", "3"]


def test_pdf_with_an_empty_password_is_read() -> None:
    assert parse(make_pdf([["Open."]], password=""), "a.pdf").text == "Open."


@pytest.mark.parametrize(
    ("data", "name", "media_type", "reason"),
    [
        (b"", "a.txt", "", "a.txt has no text"),
        (b" \n\t", "a.md", "", "a.md has no text"),
        (b"<p></p><script>x</script>", "a.html", "", "a.html has no text"),
        (b"x" * 101, "a.txt", "", "a.txt has 101 bytes, more than the 100 allowed"),
        (
            b"\x89PNG\r\n\x1a\n\0\0\0",
            "a.txt",
            "",
            "a.txt is not text, and in no other format that can be read",
        ),
        (b"\x01\x02\x03abc", "a", "text/plain", "a is not text, and in no other format that can be read"),
        (b"hello", "a.pdf", "", "a.pdf is no PDF"),
        (b"hello", "a", "application/pdf", "a is no PDF"),
        (b"%PDF-1.7 and nothing else", "a.pdf", "", "a.pdf cannot be read as PDF: "),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(data: bytes, name: str, media_type: str, reason: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse(data, name, media_type, DocumentLimits(bytes=100, characters=50))
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (make_pdf([["Secret."]], password="x"), "a.pdf is encrypted; take its password off first"),
        (make_pdf([[], []]), "a.pdf has no text, only pictures; recognise its letters first (OCR)"),
        (make_pdf([["x" * 60]]), "a.pdf has more than 50 characters of text; split it"),
        (make_pdf([["Hello."]])[:400], "a.pdf cannot be read as PDF: "),
    ],
)
def test_pdfs_that_cannot_be_read(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse(data, "a.pdf", limits=DocumentLimits(characters=50))
    assert str(refused.value).startswith(reason)


@given(data=st.binary(max_size=300), name=st.sampled_from(["a.txt", "a.md", "a.html", "a.py", "a.pdf", "a"]))
def test_any_bytes_are_read_or_refused(data: bytes, name: str) -> None:
    for document in (data, b"%PDF-1.4\n" + data):
        try:
            text = parse(document, name).text
        except DocumentError as error:
            assert str(error).startswith(name)  # noqa: PT017 (either may come)
        else:
            assert "\0" not in text
            assert text.encode()


@pytest.mark.parametrize(
    ("data", "media_type", "text"),
    [
        ("Grüße".encode(), "", "Grüße"),
        ("Grüße".encode("utf-8-sig"), "", "Grüße"),
        ("Grüße".encode("utf-16"), "", "Grüße"),
        ("Grüße aus München".encode("latin-1"), "", "Grüße aus München"),
        ("łódź".encode("iso-8859-2"), "text/plain; charset=iso-8859-2", "łódź"),
        ("a “quote”".encode("cp1252"), "text/plain; charset=no-such-thing", "a “quote”"),
        ("Привет, это простой текст про виноград и молоко".encode("cp1251"), "", "Привет, это"),
        ("これは日本語のテキストです".encode("shift_jis"), "", "これは日本語"),
        (b"a\r\nb\rc\x0cd", "", "a\nb\nc\nd"),
    ],
)
def test_encodings_are_told_or_guessed(data: bytes, media_type: str, text: str) -> None:
    assert parse(data, "a.txt", media_type).text.startswith(text)


def test_an_html_page_declares_its_encoding() -> None:
    data = '<meta charset="iso-8859-2"><p>łódź'.encode("iso-8859-2")
    assert parse(data, "a.html").text == "łódź"


@pytest.mark.parametrize(
    ("name", "media_type", "data", "kind"),
    [
        ("a.MD", "", b"x", "markdown"),
        ("Makefile", "", b"x", "code"),
        ("a", "text/html; charset=utf-8", b"<p>x", "html"),
        ("a.md", "application/octet-stream", b"x", "markdown"),
        ("a", "", b"\n<!DOCTYPE html><p>x", "html"),
        ("a", "", make_pdf([["x"]]), "pdf"),
        ("a.unknown", "text/plain", b"x", "text"),
    ],
)
def test_the_format_is_told_by_type_name_or_content(
    name: str, media_type: str, data: bytes, kind: str
) -> None:
    assert parse(data, name, media_type).kind == kind


def test_random_bytes_are_no_document() -> None:
    with pytest.raises(DocumentError):
        parse(os.urandom(5000), "photo.md")
