"""The page's files as they are sent: hashed, compressed, with their headers. Pure but for reading them."""

import gzip
import hashlib
from pathlib import Path

import msgspec

STATIC = Path(__file__).resolve().parent / "static"
INDEX = "index.html"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""The media types, by the ending of a file's name. Other files are not served."""

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
"""The page runs its own scripts and styles only, talks to its own gateway only, and is in nobody's frame."""

FOR_EVER = "public, max-age=31536000, immutable"
"""Caching of a file whose address contains the hash of all files."""
ASK_EACH_TIME = "no-cache"


class PageFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file: its bytes, the same compressed with gzip, its entity tag and media type."""

    body: bytes
    compressed: bytes
    tag: str
    media_type: str
    caching: str

    def headers(self, *, compressed: bool) -> dict[str, str]:
        """Return the headers of its answer."""
        headers = {
            "Content-Type": self.media_type,
            "Cache-Control": self.caching,
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Vary": "Accept-Encoding",
        }
        return {**headers, "Content-Encoding": "gzip"} if compressed else headers


class PageFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The page. `digest`: of all its files, a part of their addresses, so that they can be cached for ever.

    `files` has their paths below `static`.
    """

    digest: str
    index: PageFile
    files: dict[str, PageFile]


def read_page(folder: Path = STATIC) -> PageFiles:
    """Read the page's files. Raises OSError."""
    found = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.suffix in TYPES
    }
    digest = _digest(*(part for name, body in found.items() for part in (name.encode(), body)))
    index = found.pop(INDEX)
    modules = "".join(
        f'<link rel="modulepreload" href="ui/{digest}/{name}">' for name in found if name.endswith(".js")
    )
    # Relative addresses, so that the page works below any path of a reverse proxy.
    index = index.replace(b"{{files}}", f"ui/{digest}".encode()).replace(b"{{modules}}", modules.encode())
    return PageFiles(
        digest=digest,
        index=_file(INDEX, index, ASK_EACH_TIME),
        files={name: _file(name, body, FOR_EVER) for name, body in found.items()},
    )


def _file(name: str, body: bytes, caching: str) -> PageFile:
    return PageFile(
        body=body,
        compressed=gzip.compress(body, mtime=0),
        tag=_digest(body),
        media_type=TYPES[Path(name).suffix],
        caching=caching,
    )


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
