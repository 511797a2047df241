"""Reads images of requests: base64, whose type is found by the first bytes, or a URL."""

import base64
import binascii
import string

from agents.chat import Image
from proxy.apis.fields import FieldError

# The longest signature, WebP's, ends at byte 12; sixteen base64 digits hold it.
_HEAD_DIGITS = 16

_SLICE = 2**18
_DIGITS = (string.ascii_letters + string.digits + "+/").encode()


def from_base64(data: str, field: str) -> Image:
    """Return the image in base64 without a type. Raises `FieldError` unless it is PNG, JPEG, WebP or GIF."""
    if not _is_base64(data):
        try:
            binascii.a2b_base64(data, strict_mode=True)
        except ValueError as error:
            raise FieldError(field, f"illegal base64 data: {error}") from None
    head = base64.b64decode(data[:_HEAD_DIGITS])
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Image("image/png", data)
    if head.startswith(b"\xff\xd8\xff"):
        return Image("image/jpeg", data)
    if head.startswith(b"GIF8"):
        return Image("image/gif", data)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return Image("image/webp", data)
    raise FieldError(field, "the image is none of PNG, JPEG, WebP and GIF")


def _is_base64(data: str) -> bool:
    """Whether the text is certainly base64. False: only decoding shows it.

    Decoding takes four times as long, and 40 MB would block the event loop noticeably.
    """
    slices = (data[start : start + _SLICE] for start in range(0, len(data), _SLICE))
    rest = b"".join(piece.encode().translate(None, _DIGITS) for piece in slices)
    return len(data) % 4 == 0 and rest in (b"", b"=", b"==") and data.endswith(rest.decode())


def from_url(url: str, field: str) -> Image:
    """Return the image at an http(s) URL, or inside a `data:` URL. Raises `FieldError`."""
    if not url.startswith("data:"):
        if not url.startswith(("http://", "https://")):
            raise FieldError(field, "an image must be a data: URL or an http(s) URL")
        return Image(url=url)
    head, comma, data = url[5:].partition(",")
    mime, *parameters = head.split(";")
    if not comma or "base64" not in parameters:
        raise FieldError(field, "the data of an image's URL must be base64")
    return Image(mime, data) if mime else from_base64(data, field)


def url_of(image: Image) -> str:
    """Return the image's URL, a `data:` URL for base64."""
    return image.url or f"data:{image.mime};base64,{image.data}"


def base64_of(image: Image, field: str) -> str:
    """Return the image's base64. Raises `FieldError` for an image by URL, which would have to be fetched."""
    if image.url:
        raise FieldError(field, "image URLs are not supported for this model, send base64 data instead")
    return image.data
