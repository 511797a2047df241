"""Reads the parts of messages and of tool outputs: texts, images, files."""

import base64
import binascii
from typing import Any

from agents.chat import Image
from proxy.apis import images
from proxy.apis.fields import FieldError, Json, encode

_TEXT_FIELDS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_TEXT_FIELDS |= {"summary_text": "text", "reasoning_text": "text"}
_NO_TEXTS = ("application/pdf", "application/zip", "application/vnd.", "audio/", "video/", "font/")
"""Prefixes of the media types of files that are never read as text, even if they are valid UTF-8."""
_IMAGES = ("input_image", "image_url", "computer_screenshot")


class Content:
    """The texts and images of one item. Parts that no model here can read are named in `ignored`.

    With `refuses`, such a part raises `FieldError` instead, because new content must not be lost. In older
    items, which another model may have read, a note in the text replaces the part.
    """

    def __init__(self, ignored: list[str], *, refuses: bool) -> None:
        self.images: list[Image] = []
        self._texts: list[str] = []
        self._ignored = ignored
        self._refuses = refuses

    @property
    def text(self) -> str:
        """All texts, joined by newlines."""
        return "\n".join(self._texts)

    def read(self, content: Any, field: str) -> None:
        """Add a text, a part, a list of both, or any other JSON, which is added as text; None adds nothing.

        Raises `FieldError`, if `refuses`.
        """
        match content:
            case None:
                pass
            case str():
                self._texts.append(content)
            case list() if all(isinstance(part, str) or _is_part(part) for part in content):
                for index, part in enumerate(content):
                    if isinstance(part, str):
                        self._texts.append(part)
                    else:
                        self._read_part(part, f"{field}[{index}]")
            case dict() if _is_part(content):
                self._read_part(content, field)
            case _:
                self._texts.append(encode(content).decode())

    def _read_part(self, part: Json, field: str) -> None:
        kind = part["type"]
        try:
            if kind in _TEXT_FIELDS:
                self._texts.append(_text(part.get(_TEXT_FIELDS[kind]), f"{field}.{_TEXT_FIELDS[kind]}"))
            elif kind in _IMAGES:
                self.images.append(_image(part, field))
            elif kind == "input_file":
                self._read_file(part, field)
            else:
                raise FieldError(f"{field}.type", f"{kind!r} is not supported for this model")
        except FieldError as error:
            if self._refuses:
                raise
            self._ignored.append(error.field or field)
            self._texts.append(f"[{kind}]")

    def _read_file(self, part: Json, field: str) -> None:
        """Add the text of a text file with its name, or an image file as an image. Raises `FieldError`."""
        data, name = part.get("file_data"), part.get("filename")
        if not isinstance(data, str):
            raise FieldError(field, "files by id or URL are not supported for this model, send file_data")
        if data.startswith("data:image/"):
            self.images.append(images.from_url(data, f"{field}.file_data"))
            return
        head, comma, encoded = data.partition(",") if data.startswith("data:") else ("", ",", data)
        kind = head[5:].partition(";")[0].lower()
        try:
            text = base64.b64decode(encoded, validate=True).decode() if comma else "\0"
        except (binascii.Error, UnicodeDecodeError):
            text = "\0"
        if "\0" in text or text.startswith("%PDF-") or kind.startswith(_NO_TEXTS):
            raise FieldError(f"{field}.file_data", "is no text in UTF-8, which is all that a model can read")
        self._texts.append(f"{name}:\n{text}" if isinstance(name, str) and name else text)


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise FieldError(field, "must be a text")
    return value


def _image(part: Json, field: str) -> Image:
    url = part.get("image_url")
    if isinstance(url, dict):
        url = url.get("url")
    if not isinstance(url, str):
        raise FieldError(field, "images by id are not supported for this model, send image_url")
    return images.from_url(url, f"{field}.image_url")
