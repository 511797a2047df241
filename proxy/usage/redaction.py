"""Removes secrets from what is captured. Pure.

It knows the credentials that the request was sent with, and recognises others by their form: tokens of known
services, and the values of JSON fields and headers whose names say that they are secret. What looks like any
other text cannot be recognised.
"""

import json
from collections.abc import Iterable, Mapping

import regex

from actors.config.masking import looks_secret, mask_text

REDACTED = "[redacted]"
SHORTEST = 8
"""Least characters of a credential that is looked for in texts."""
TIMEOUT = 20.0
"""Seconds for the search in one text, which takes half a second for a MiB."""

_TOKENS = (
    r"\b(?:lsp|sk|pk|rk|gsk|xai|nvapi|r8|pplx)[-_][A-Za-z0-9_-]{16,}",
    r"\bhf_[A-Za-z0-9]{16,}",
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",
    r"\bgithub_pat_\w{20,}",
    r"\bglpat-[\w-]{16,}",
    r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bAIza[\w-]{30,}",
    r"\beyJ[\w-]{8,1000}\.eyJ[\w-]+\.[\w-]+",
    r"(?i:\b(?:bearer|basic)\s+)(?=[A-Za-z._~+/-]*[0-9])[A-Za-z0-9._~+/-]{8,}=*",
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----END))*(?:-----END [A-Z ]{0,40}-----)?",
    r"(?<=\b[a-z][a-z0-9+.-]{1,20}://)[^/\s\"'@:\\]{1,200}:[^/\s\"'@\\]{1,200}(?=@)",
)
_NAMES = (
    r"(?:[\w-]{0,40}[_-])?(?:api[_-]?key|access[_-]?key|private[_-]?key|secret(?:[_-]?key)?|passw(?:or)?d|passphrase"
    r"|(?:access|auth|api|bearer|client|id|refresh|session)[_-]?token|authorization|credentials?|cookie)"
)
# A value in a JSON text, or in JSON inside a JSON text, where quotes have backslashes. All repetitions have
# bounds, or every repeated character would be a beginning that is tried to the end.
_FIELD = (
    rf'(?P<field>"(?i:{_NAMES})"\s{{0,9}}:\s{{0,9}}")(?:[^"\\]|\\.)+'
    rf'|(?P<nested>(?<!\\)\\{{1,31}}"(?i:{_NAMES})\\{{1,31}}"\s{{0,9}}:\s{{0,9}}\\{{1,31}}")'
    r'(?:[^"\\]|\\(?!\\{0,31}"))+'
)
_SECRET = regex.compile("|".join((_FIELD, *_TOKENS)), regex.DOTALL)
# The parts of a text in a stream's events.
_PIECES = regex.compile(
    r'"(?:content|text|delta|arguments|partial_json|reasoning_content|reasoning|thinking|response)"\s*:\s*'
    r'("(?:[^"\\]|\\.)*")'
)


class Redaction:
    """Removes these `credentials`, and what looks like a secret."""

    def __init__(self, credentials: Iterable[str] = ()) -> None:
        self._credentials = [one for one in credentials if len(one) >= SHORTEST]

    def text(self, text: str) -> str:
        """Return a text without secrets. Other threads run meanwhile, also if it is long.

        Raises `TimeoutError` rather than return a text that was not searched to its end.
        """
        for credential in self._credentials:
            text = text.replace(credential, REDACTED)
        return _SECRET.sub(_replacement, text, concurrent=True, timeout=TIMEOUT)

    def path(self, path: str) -> str:
        """Return a path or an address, whose query may name secrets, without them."""
        return self.text(mask_text(path))

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return headers without secrets."""
        return {name: REDACTED if looks_secret(name) else self.path(value) for name, value in headers.items()}

    def answer(self, text: str) -> str:
        """Return an answer without secrets.

        A stream has a text in pieces, in which a secret cannot be found. If there is one in the pieces put
        together, nothing of the answer is returned.
        """
        found = self.text(text)
        pieces = _PIECES.findall(found, concurrent=True, timeout=TIMEOUT)
        whole = "".join(map(_unquoted, pieces))
        return found if self.text(whole) == whole else f"{REDACTED}: the answer has a secret in it"


def credentials_of(headers: Mapping[str, str]) -> list[str]:
    """Return the secrets in a request's headers, without the scheme of `Authorization`."""
    return [value.rpartition(" ")[2] for name, value in headers.items() if looks_secret(name)]


def _replacement(found: "regex.Match[str]") -> str:
    return (found["field"] or found["nested"] or "") + REDACTED


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:  # cut at the limit
        return ""
