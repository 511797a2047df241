"""What the suite sends, and the form in which it compares what comes."""

import base64
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from tests.gateway import Gateway

HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = [{"role": "user", "content": "How is the weather in Paris?"}]


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


IMAGE = base64.b64encode(_png()).decode()
"""One red pixel."""
PNG = f"data:image/png;base64,{IMAGE}"
JPEG = "data:image/jpeg;base64,/9j/4AAQSkZJRg=="
WAV = base64.b64encode(
    b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0data\0\0\0\0"
).decode()


def tool(name: str, schema: str = "parameters") -> dict[str, Any]:
    """A tool that takes a city, its schema under the field that an API has for it."""
    properties = {"city": {"type": "string", "description": "Which city"}}
    takes = {"type": "object", "properties": properties, "required": ["city"], "additionalProperties": False}
    return {"name": name, "description": f"{name} of a city", schema: takes}


@dataclass
class Call:
    """A tool call; its arguments as JSON."""

    id: str
    name: str
    arguments: str


@dataclass
class Said:
    """An answer, the same for each API, whole or joined from events."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    ended: str = ""
    usage: Any = None


def idle(gateway: Gateway, model: str) -> bool:
    """Whether no request holds a place of the model."""
    models = gateway.health()["models"]
    (status,) = [models[name] for name in (model, f"{model}:latest") if name in models]
    return bool(status["busy"] == 0)
