"""Looks up and pulls images."""

import msgspec
import structlog

from actors.progress import OnProgress, Reporter, readable_size
from actors.servers.docker.engine import Engine, EngineError
from actors.servers.docker.schema import InspectedImage, PullLine

log = structlog.get_logger("docker")

MOST_LAYERS = 1000
"""Most layers of an image; Docker's limit is 127."""


async def image_id(engine: Engine, image: str) -> str | None:
    """Return the id of the image with this name; None if the engine has none. Raises `EngineError`."""
    try:
        return (
            await engine.ask(
                f"look up the image {image}", "GET", f"images/{image}/json", answer=InspectedImage
            )
        ).id
    except EngineError as error:
        if error.status == 404:
            return None
        raise


async def ensure_image(engine: Engine, image: str, on_progress: OnProgress) -> str:
    """Pull the image unless the engine has it; return its id. Raises `EngineError`."""
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
    log.info("image pulled", image=image, id=found, bytes=layers.total)
    return found


def _reference(image: str) -> dict[str, str]:
    """Return the image's reference with a tag, because without one the engine pulls all tags."""
    named = "@" in image or ":" in image.rpartition("/")[2]
    return {"fromImage": image} if named else {"fromImage": image, "tag": "latest"}


class _Layers:
    """Adds up the progress of all layers, which the engine announces one by one."""

    def __init__(self, image: str, on_progress: OnProgress) -> None:
        self._report = Reporter(
            on_progress,
            log=lambda progress: log.info(
                "pulling", image=image, progress=str(progress), size=readable_size(progress.total)
            ),
        )

    @property
    def total(self) -> int:
        """Bytes of all layers that had to be downloaded."""
        return self._report.total

    def take(self, update: PullLine) -> None:
        """Handle one line of the stream. Raises `ValueError` for too many layers."""
        if update.status == "Downloading" and update.progress_detail is not None:
            self._report.at(update.id, update.progress_detail.current, update.progress_detail.total)
            if self._report.parts > MOST_LAYERS:
                raise ValueError("it tells of layers without end")
        elif update.status in ("Download complete", "Pull complete"):
            self._report.whole(update.id)
