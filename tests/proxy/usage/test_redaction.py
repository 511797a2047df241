"""Secrets are removed from texts, and nothing else is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.redaction import REDACTED, Redaction, credentials_of

SECRET = "Zx9-secret_of+alice/1="
TOKENS = [
    "lsp-" + "aB3_" * 8,
    "sk-proj-" + "x" * 30,
    "hf_" + "a" * 30,
    "ghp_" + "A1" * 15,
    "github_pat_" + "A1" * 15,
    "glpat-" + "A1-" * 8,
    "xoxb-1234567890-abcdef",
    "AKIA" + "Z" * 16,
    "AIza" + "x" * 35,
    "eyJhbGciOiJI.eyJzdWIiOiIx.abc-_def",
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("around", ["{}", "key={}", '{{"content": "use {} please"}}', "'{}'", "a\n{}\nb"])
def test_tokens_are_known_by_their_form(token: str, around: str) -> None:
    told = Redaction().text(around.format(token))
    assert token not in told
    assert told == around.format(REDACTED)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"api_key": "{SECRET}"}}',
        f'{{"OPENAI_API_KEY":"{SECRET}"}}',
        f'{{"x-api-key" : "{SECRET}"}}',
        f'{{"password": "{SECRET}\\" and more"}}',
        f'{{"access_token": "{SECRET}"}}',
        json.dumps({"arguments": json.dumps({"client_secret": SECRET, "n": 1})}),
        json.dumps({"a": json.dumps({"b": json.dumps({"Authorization": SECRET})})}),
        f"curl -H 'Authorization: Bearer {SECRET}'",
        f"git clone https://me:{SECRET.replace('/', '')}@example.org/x.git",
        f"-----BEGIN RSA PRIVATE KEY-----\nMII{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\nMII{SECRET}",
    ],
)
def test_secrets_are_known_by_their_place(text: str) -> None:
    told = Redaction().text(text)
    assert "secret_of" not in told
    assert "and more" not in told
    assert REDACTED in told


def test_json_stays_json() -> None:
    text = json.dumps({"api_key": SECRET, "nested": json.dumps({"password": 'a"b', "x": "y"}), "n": 1})
    told = json.loads(Redaction().text(text))
    assert told["api_key"] == REDACTED
    assert told["n"] == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"max_tokens": 5, "token": "Hello", "tokens": [1], "content": "a password is needed"}',
        '{"prompt_tokens": 3, "total_tokens": 4}',
        "sk-learn and task-driven work; the basic understanding, bearer certificates; https://example.org/a:b@c",
        "hello " * 1000,
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert Redaction().text(text) == text
    assert Redaction().answer(text) == text


@given(
    st.text(alphabet=st.characters(codec="ascii", categories=("L", "N")), min_size=8), st.text(), st.text()
)
def test_the_own_credential_is_nowhere(secret: str, before: str, after: str) -> None:
    redaction = Redaction([secret])
    for told in (redaction.text(before + secret + after), redaction.answer(before + secret + after)):
        assert secret not in told.replace(REDACTED, "\0")


def test_headers() -> None:
    headers = {
        "Authorization": f"Bearer {SECRET}",
        "x-api-key": SECRET,
        "Cookie": "a=b",
        "X-Goog-Api-Key": SECRET,
        "Accept": "text/plain",
        "X-Other": f"see {SECRET}",
        "Referer": "https://example.org/?token=what-a-page-put-there&page=1",
    }
    credentials = credentials_of(headers)
    assert SECRET in credentials
    told = Redaction(credentials).headers(headers)
    assert SECRET not in json.dumps(told)
    assert told["Referer"] == "https://example.org/?token=***&page=1"
    assert told["Accept"] == "text/plain"
    assert told["X-Other"] == f"see {REDACTED}"
    assert Redaction(credentials).path(f"/v1/x?key={SECRET}&q=1") == f"/v1/x?key={REDACTED}&q=1" or "***" in (
        Redaction(credentials).path(f"/v1/x?key={SECRET}&q=1")
    )


def stream(pieces: list[str], event: Any) -> str:
    return "".join(f"data: {json.dumps(event(piece))}\n\n" for piece in pieces)


@pytest.mark.parametrize(
    "event",
    [
        lambda piece: {"choices": [{"delta": {"content": piece}}]},
        lambda piece: {"type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}},
        lambda piece: {"delta": {"tool_calls": [{"function": {"arguments": piece}}]}},
        lambda piece: {"type": "response.output_text.delta", "delta": piece},
        lambda piece: {"message": {"content": piece}},
    ],
)
def test_a_secret_in_pieces_of_a_stream(event: Any) -> None:
    pieces = ["the key ", "is ", "Zx9-", "secret", "_of+", "alice/1=", "."]
    told = Redaction([SECRET]).answer(stream(pieces, event))
    assert "secret_of" not in told.replace("the answer has a secret", "")
    assert "Zx9" not in told
    harmless = stream(["the ", "sk", "y is", " blue"], event)
    assert Redaction([SECRET]).answer(harmless) == harmless


@pytest.mark.parametrize(
    "piece",
    [
        "\\",
        '"api_key":"',
        '"a-',
        "bearer ",
        "eyJ-",
        "-----BEGIN A ",
        "x://a:",
        '"content":"',
        "x_",
        '"x_',
        '\\"api_key\\": ',
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    """A search beyond its time raises."""
    hostile = (piece * 200_000)[:200_000]
    Redaction(["a-credential"]).answer(hostile)
