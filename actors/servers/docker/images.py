"""Images: which one is there, and pulling it."""

import time
from collections.abc import Callable

import msgspec
import structlog

from actors.progress import LOG_SECONDS, LOG_STEP, Progress, Speedometer, readable_size
from actors.servers.docker.engine import Engine, EngineError
from actors.servers.docker.schema import Image, PullLine

log = structlog.get_logger("docker")

MOST_LAYERS = 1000
"""Of an image; Docker's limit is 127."""


async def image_id(engine: Engine, image: str) -> str | None:
    """What the image's name means at present; None if the engine has no such image. Raises `EngineError`."""
    try:
        return (
            await engine.ask(f"look up the image {image}", "GET", f"images/{image}/json", answer=Image)
        ).id
    except EngineError as error:
        if error.status == 404:
            return None
        raise


async def ensure_image(engine: Engine, image: str, on_progress: Callable[[Progress], None]) -> str:
    """Pull the image unless it is there; return its id. Raises `EngineError`."""
    if found := await image_id(engine, image):
        return found
    log.info("pulling the image", image=image)
    layers = _Layers(image, on_progress)
    try:
        async with engine.stream("pull it", "POST", "images/create", params=_reference(image)) as pulled:
            async for line in pulled.content:
                update = msgspec.json.decode(line, type=PullLine)
                if update.error:
                    raise engine.refused(update.error, 500, "pull it")
                layers.take(update)
        found = await image_id(engine, image)
    except EngineError as error:
        message = (
            f"the image {image} is not there, and the engine {error}; or load it by hand: docker pull {image}"
        )
        raise EngineError(message, error.status) from error
    if found is None:
        raise EngineError(f"pulling the image {image} broke off; the engine keeps the layers that it has")
    log.info("image is there", image=image, id=found, bytes=layers.total)
    return found


def _reference(image: str) -> dict[str, str]:
    """Without a tag the engine would pull all there are."""
    named = "@" in image or ":" in image.rpartition("/")[2]
    return {"fromImage": image} if named else {"fromImage": image, "tag": "latest"}


class _Layers:
    """Adds up what the engine tells of each layer. How many there are it tells little by little."""

    def __init__(self, image: str, on_progress: Callable[[Progress], None]) -> None:
        self._image = image
        self._on_progress = on_progress
        self._have: dict[str, int] = {}
        self._totals: dict[str, int] = {}
        self._speed = Speedometer()
        self._logged_share = 0.0
        self._logged_at = time.monotonic()

    @property
    def total(self) -> int:
        """Bytes of all the layers that had to be downloaded."""
        return sum(self._totals.values())

    def take(self, update: PullLine) -> None:
        """One line of the stream. Raises `ValueError` for more layers than an image has."""
        layer, status, detail = update.id, update.status, update.progress_detail
        if status == "Downloading" and detail is not None:
            self._have[layer] = detail.current
            self._totals[layer] = max(detail.total, detail.current)
            if len(self._have) > MOST_LAYERS:
                raise ValueError("it tells of layers without end")
        elif status in ("Download complete", "Pull complete") and layer in self._totals:
            self._have[layer] = self._totals[layer]
        else:
            return
        have, total = sum(self._have.values()), self.total
        progress = Progress(have=have, total=total, rate=self._speed.rate(have))
        self._on_progress(progress)
        share = have / total if total else 0.0
        if share >= self._logged_share + LOG_STEP or time.monotonic() > self._logged_at + LOG_SECONDS:
            self._logged_share, self._logged_at = share, time.monotonic()
            log.info("pulling", image=self._image, progress=str(progress), size=readable_size(total))
