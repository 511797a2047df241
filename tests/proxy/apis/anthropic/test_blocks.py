"""Anthropic's blocks, of any kind and however broken, as messages."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.chat import Image, Message, ToolCall
from proxy.apis.anthropic.blocks import WireMessage, read_messages
from proxy.apis.fields import FieldError

PDF: Any = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
LEFT_OUT = "[a document by application/pdf was left out: this model cannot read it]"


def read(*turns: tuple[str, Any], system: Any = None) -> tuple[list[Message], list[str]]:
    return read_messages(system, [WireMessage(role, content) for role, content in turns])


def of_user(*blocks: Any) -> Message:
    (message,), ignored = read(("user", list(blocks)))
    assert not ignored
    return message


def test_documents_and_search_results_are_text() -> None:
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    document = {"type": "document", "title": "T", "context": "C"}
    message = of_user(
        {**document, "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
        {"type": "document", "source": {"type": "content", "content": texts}},
        {"type": "search_result", "source": "s", "title": "t", "content": texts},
    )
    assert message.text.splitlines() == [
        *("<document title='T'>", "C", "words", "</document>"),
        *("<document>", "a", "b", "</document>"),
        *("<search_result title='t' source='s'>", "a", "b", "</search_result>"),
    ]


def test_images_inside_of_documents_and_results() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
    linked = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    message = of_user({"type": "document", "source": {"type": "content", "content": [image]}}, linked)
    assert message.images == [Image("image/png", "iVBO"), Image(url="https://x/y.png")]
    result = {"type": "tool_result", "tool_use_id": "a", "content": [image]}
    (answer,), _ = read(("user", [result]))
    assert (answer.role, answer.images) == ("tool", [Image("image/png", "iVBO")])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (PDF, "a document by application/pdf"),
        ({"type": "url", "url": "https://x/y.pdf"}, "a document by url"),
        ({"type": "file", "file_id": "f"}, "a document by file"),
    ],
)
def test_a_document_that_cannot_be_read(source: Any, words: str) -> None:
    block = {"type": "document", "source": source}
    with pytest.raises(FieldError, match=rf"^messages\[0\]\.content\[0\]: {words} cannot be read") as caught:
        read(("user", [block]))
    assert caught.value.field == "messages[0].content[0]"
    messages, ignored = read(("user", [block]), ("assistant", "No."), ("user", "Why?"))
    assert messages[0] == Message("user", f"[{words} was left out: this model cannot read it]")
    assert ignored == ["content.document"]


def test_nothing_in_the_result_of_a_tool_is_refused() -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "document", "source": PDF}]}
    (message,), ignored = read(("user", [result]))
    assert message == Message("tool", LEFT_OUT, tool_call_id="a")
    assert ignored == ["content.document"]


def test_a_failed_tool_says_so() -> None:
    (message,), _ = read(
        ("user", [{"type": "tool_result", "tool_use_id": "a", "is_error": True, "content": "x"}])
    )
    assert message.text == "Error: x"


RESULTS = {
    "web_search": (
        [{"type": "web_search_result", "title": "A", "url": "u", "encrypted_content": "x", "page_age": None}],
        "title: A\nurl: u",
    ),
    "a failed web_search": ({"type": "web_search_tool_result_error", "error_code": "e"}, "error_code: e"),
    "web_fetch": (
        {
            "type": "web_fetch_result",
            "url": "u",
            "content": {"type": "document", "source": {"type": "text", "data": "page"}},
        },
        "url: u\n<document>\npage\n</document>",
    ),
    "code_execution": (
        {"type": "code_execution_result", "stdout": "1\n", "stderr": "", "return_code": 0, "content": []},
        "stdout: 1\n\nreturn_code: 0",
    ),
    "bash_code_execution": ({"type": "bash_code_execution_result", "stdout": "x"}, "stdout: x"),
    "tool_search": (
        {"type": "tool_search_tool_search_result", "tool_references": [{"tool_name": "t"}]},
        "tool_name: t",
    ),
}


@pytest.mark.parametrize(("content", "text"), RESULTS.values(), ids=RESULTS)
def test_answers_of_a_providers_own_tools_stand_where_they_were(content: Any, text: str) -> None:
    messages, ignored = read(
        ("user", "Look."),
        (
            "assistant",
            [
                {"type": "text", "text": "Before."},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": content},
                {"type": "text", "text": "After."},
            ],
        ),
    )
    assert messages == [
        Message("user", "Look."),
        Message("assistant", "Before.", tool_calls=[ToolCall("s", "web_search", '{"query":"q"}')]),
        Message("tool", text, tool_call_id="s"),
        Message("assistant", "After."),
    ]
    assert not ignored


def test_an_unknown_block_keeps_its_text() -> None:
    block = {"type": "hologram", "text": "seen", "data": "AAAA", "id": "x", "layers": [{"name": "top"}]}
    assert of_user(block).text == "seen\nname: top"
    messages, ignored = read(
        ("assistant", [{"type": "hologram", "data": "AAAA"}, {"type": "text", "text": "x"}])
    )
    assert (messages, ignored) == ([Message("assistant", "x")], ["content.hologram"])


def test_turns_of_one_role_are_one() -> None:
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "x"}
    messages, _ = read(
        ("user", "a"),
        ("user", [{"type": "text", "text": "b"}]),
        ("assistant", [{"type": "thinking", "thinking": "hm", "signature": "s"}]),
        ("assistant", [{"type": "text", "text": "c"}, call]),
        ("user", [result]),
        ("user", [result, {"type": "text", "text": "d"}]),
        system="be",
    )
    assert [(m.role, m.text, m.reasoning) for m in messages] == [
        ("system", "be", ""),
        ("user", "a\nb", ""),
        ("assistant", "c", "hm"),
        ("tool", "x", ""),
        ("tool", "x", ""),
        ("user", "d", ""),
    ]


@pytest.mark.parametrize(
    ("given", "arguments"),
    [({"a": 1}, '{"a":1}'), (None, "{}"), ("", "{}"), ('{"a": 1}', '{"a":1}'), ("{", '{"input":"{"}')],
)
def test_inputs_that_a_model_wrote(given: Any, arguments: str) -> None:
    (message,), _ = read(("assistant", [{"type": "tool_use", "id": "a", "name": "f", "input": given}]))
    assert message.tool_calls == [ToolCall("a", "f", arguments)]


@pytest.mark.parametrize(
    ("role", "content", "field"),
    [
        ("tool", "x", "messages[0].role"),
        ("user", 5, "messages[0].content"),
        ("user", ["x"], "messages[0].content[0]"),
        ("user", [{"type": "text", "text": {}}], "messages[0].content[0].text"),
        ("user", [{"type": "image"}], "messages[0].content[0].source"),
        (
            "user",
            [{"type": "image", "source": {"type": "url", "url": "file:///x"}}],
            "messages[0].content[0].source.url",
        ),
        ("user", [{"type": "image", "source": {"type": "file", "file_id": "f"}}], "messages[0].content[0]"),
    ],
)
def test_what_cannot_be_meant_is_named(role: str, content: Any, field: str) -> None:
    with pytest.raises(FieldError) as caught:
        read((role, content))
    assert caught.value.field == field


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
FIELDS = ["type", "text", "content", "source", "title", "data", "input", "citations", "tool_use_id", "x"]
KINDS = ["text", "image", "document", "search_result", "x_tool_result", "hologram", "thinking"]
BLOCKS = st.dictionaries(
    st.sampled_from(FIELDS), VALUES | st.fixed_dictionaries({"type": st.sampled_from(KINDS)}), max_size=5
)


@given(st.sampled_from(KINDS), BLOCKS)
def test_no_unknown_block_in_a_history_breaks_a_turn(kind: str, block: dict[str, Any]) -> None:
    unknown = {**block, "type": "hologram"}
    messages, _ = read(
        ("assistant", [unknown]), ("user", [{**unknown, "type": kind + "?"}]), ("user", "Go on.")
    )
    assert messages[-1].text.endswith("Go on.")
