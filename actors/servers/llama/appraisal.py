"""What a model will take, by its headers, its settings, and what earlier loads took. Blocking."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from actors.config.schema import Config, Model
from actors.errors import ConfigError, Failure
from actors.gpu.calibration import Calibration, Surcharge
from actors.hub.cache import ModelFiles
from actors.memory.collisions import collisions
from actors.memory.context import check_context, slot_context, stretching_flags
from actors.memory.flags import LAYER_FLAGS, check, is_given, projector_flags, settings_of
from actors.memory.gguf import Header, read_model
from actors.memory.predict import LoadSettings, MemoryUsage, Prediction, predict
from actors.memory.projector import TOKEN_LIMIT, needs_token_limit, predict_projector, projector_inputs
from actors.memory.shape import Shape, ShapeError, weights_by_layer
from actors.placement.fit import Placement
from actors.placement.options import Demand, Projector, demand_of, demand_of_size
from actors.servers import StartError
from actors.servers.llama.command import command_words
from actors.servers.llama.devices import BELIEF, Reach
from actors.servers.llama.log import Breakdown

UNKNOWN_CONTEXT = 4096
"""Tokens, where neither the settings nor the header say."""

NO_GPU = "its model server was built without support for the GPUs of this machine"

VERSION = 1
"""Of the predictor: what was learned about another one's errors is not applied."""


class Appraisal:
    """A model's files as they were looked at. `demand` is for the next load, `predicted` before correction.

    `limits_images`: the size of images has to be limited, or the memory would grow with each larger one.
    `stretching`: the flags without which a slot could not have its context.
    """

    def __init__(
        self,
        header: Header,
        shape: Shape | None,
        settings: LoadSettings,
        projector: Projector,
        *,
        predicted: Demand,
        capacity: int,
        limits_images: bool,
        stretching: Sequence[str] = (),
        reach: Reach | None = None,
    ) -> None:
        self.header = header
        self.predicted = self.demand = predicted
        self.capacity = capacity
        self.limits_images = limits_images
        self.stretching = stretching
        self.reach = reach
        self._shape = shape
        self.settings = settings
        self._projector = projector

    def predict(self, placement: Placement) -> Prediction:
        """What llama.cpp will allocate there, by component, before any correction by earlier loads."""
        if self._shape is None:
            return _guess(self.predicted, placement)
        option = placement.option
        settings = msgspec.structs.replace(
            self.settings,
            context=option.context,
            gpu_layers=option.gpu_layers,
            overrides=option.overrides,
            tensor_split=[share.layers for share in placement.shares] if len(placement.shares) > 1 else None,
            main_gpu=0,
        )
        found = predict(self._shape, settings, [1] * len(placement.shares))
        holder = found.gpus[0] if found.gpus else found.host
        for usage, part in ((holder, self._projector.device), (found.host, self._projector.host)):
            usage.weights += part.weights
            usage.compute += part.compute
        return found


class Predictor:
    """Makes demands. `capacity` gives the bytes of each GPU."""

    def __init__(
        self, config: Config, calibration: Calibration, capacity: Callable[[], Sequence[int]]
    ) -> None:
        self._config = config
        self._calibration = calibration
        self._capacity = capacity

    def appraise(
        self,
        model: Model,
        files: ModelFiles,
        build: str,
        before: Appraisal | None = None,
        reach: Reach | None = None,
    ) -> Appraisal:
        """Read the headers and predict, unless that was done `before` for the same files on the same GPUs.

        `reach`: which GPUs the server can use, if that is known.
        Raises `StartError` for what is no model, and for settings that llama.cpp would refuse.
        """
        with _explained(files):
            return self._appraise(model, files, build, before, reach)

    def examine(self, model: Model, files: ModelFiles) -> None:
        """Raise `StartError` where `appraise` would, without its work."""
        with _explained(files):
            header = read_model(files.path)
            settings, _ = self._settings(model, header)
            self._stretching(model, header, settings)
            self._projector(model, files, settings)
            with suppress(ShapeError):
                check(Shape(header), settings)

    def _appraise(
        self, model: Model, files: ModelFiles, build: str, before: Appraisal | None, reach: Reach | None
    ) -> Appraisal:
        sizes = sorted(self._capacity())
        # Of those that it may have we know only how many they are.
        capacity = sum(sizes[: len(model.devices) or None])
        file = _identity(files)
        same = (file, capacity, reach)
        if before is not None and (before.predicted.file, before.capacity, before.reach) == same:
            found = before
        else:
            if before is not None and before.predicted.file != file:
                forgive_lost(self._calibration)
            self._check_place(model, len(sizes), reach)
            found = self._look(model, files, capacity, reach)
        key = msgspec.json.encode([VERSION, found.settings, build]).decode()
        predicted = msgspec.structs.replace(found.predicted, file=file, settings=key, build=build)
        found.predicted = predicted
        found.demand = self._corrected(predicted, len(sizes))
        return found

    def _check_place(self, model: Model, gpus: int, reach: Reach | None) -> None:
        """Raise `ValueError` for flags that collide with a placement."""
        if reach in ("others", "none"):
            return
        with suppress(ConfigError):  # without a server there is no place either
            for collision in collisions(command_words(self._config.server_pool, model), gpus):
                raise ValueError(collision.message)
        for collision in collisions([*self._config.server_pool.arguments, *model.arguments], gpus):
            raise ValueError(collision.message)

    def _look(self, model: Model, files: ModelFiles, capacity: int, reach: Reach | None) -> Appraisal:
        header = read_model(files.path)
        settings, automatic = self._settings(model, header)
        arguments = self._arguments(model)
        stretching = self._stretching(model, header, settings)
        barred = reach == "none" and settings.gpu_layers != 0
        if barred:
            settings = msgspec.structs.replace(settings, gpu_layers=0)
        projector, limits_images = self._projector(model, files, settings)
        shape: Shape | None = None
        try:
            shape = Shape(header)
        except ShapeError:
            demand = demand_of_size(header.size, settings, weights_by_layer(header), capacity=capacity)
        else:
            check(shape, settings)
            demand = demand_of(shape, settings, automatic=automatic, projector=projector, capacity=capacity)
        demand = msgspec.structs.replace(
            demand,
            options=tuple(
                msgspec.structs.replace(
                    option, slot=slot_context(header, settings, option.context, [*stretching, *arguments])
                )
                for option in demand.options
            ),
        )
        return Appraisal(
            header,
            shape,
            settings,
            projector,
            predicted=msgspec.structs.replace(
                demand, elsewhere=reach == "others", no_gpu=NO_GPU if barred else ""
            ),
            capacity=capacity,
            limits_images=limits_images,
            stretching=stretching,
            reach=reach,
        )

    def check_context(self, model: Model, header: Header) -> None:
        """Raise `ValueError` for a context that a model with this header cannot have."""
        settings, _ = self._settings(model, header)
        self._stretching(model, header, settings)

    def _stretching(self, model: Model, header: Header, settings: LoadSettings) -> list[str]:
        """The flags without which a slot could not have its context. Raises `ValueError` where it cannot."""
        arguments = self._arguments(model)
        flags = stretching_flags(header, settings, arguments) if model.longer_context else []
        check_context(header, settings, [*flags, *arguments])
        return flags

    def _settings(self, model: Model, header: Header) -> tuple[LoadSettings, bool]:
        """What llama-server will be told of it, and whether the context is ours to choose."""
        arguments = self._arguments(model)
        trained = header.context_length or UNKNOWN_CONTEXT
        settings = settings_of(arguments, context=model.ctx_size or trained, parallel=model.parallel)
        automatic = not model.ctx_size and not is_given(arguments, "-c", "--ctx-size")
        if settings.context == 0:
            settings = msgspec.structs.replace(settings, context=trained)
        layers = model.gpu_layers if model.gpu_layers is not None else self._config.server_pool.gpu_layers
        own = is_given(arguments, *LAYER_FLAGS)
        if not own and layers is not None and layers >= 0:
            settings = msgspec.structs.replace(settings, gpu_layers=layers)
        return settings, automatic

    def _arguments(self, model: Model) -> list[str]:
        """The flags of llama-server that its memory may depend on."""
        kind = ["--embeddings"] * model.embeddings + ["--reranking"] * model.reranking
        return [*kind, *self._config.server_pool.arguments, *model.arguments]

    def ran_out(self, surcharge: Surcharge) -> None:
        """Memory ran out with these settings: they take so many bytes more of each GPU."""
        self._calibration.ran_out(surcharge)

    def used_no_gpu(self, key: str) -> bool:
        """Whether the log of a server of this kind said so, of late."""
        value = self._calibration.dry_run(f"used no GPU: {key}")
        return value is not None and time.time() - float(value) < BELIEF

    def remember_no_gpu(self, key: str) -> None:
        """A log said that a server of this kind used none of the GPUs that it was given."""
        self._calibration.remember_dry_run(f"used no GPU: {key}", str(time.time()).encode())

    def remembered(self, key: str) -> dict[str, Breakdown] | None:
        """What a dry run found."""
        value = self._calibration.dry_run(key)
        return None if value is None else msgspec.json.decode(value, type=dict[str, Breakdown])

    def remember(self, key: str, found: dict[str, Breakdown]) -> None:
        """Keep what a dry run found."""
        self._calibration.remember_dry_run(key, msgspec.json.encode(found))

    def _projector(self, model: Model, files: ModelFiles, settings: LoadSettings) -> tuple[Projector, bool]:
        """What the projector takes, and whether the size of images has to be limited."""
        if files.projector is None:
            return Projector(), False
        header = read_model(files.projector)
        told = projector_flags(self._arguments(model))
        limited = told.image_max_tokens is None and needs_token_limit(header)
        tokens = TOKEN_LIMIT if limited else told.image_max_tokens
        device = predict_projector(
            header,
            image_max_tokens=tokens,
            flash_attention=settings.flash_attention,
            batch_tokens=told.batch_tokens,
        )
        inputs = projector_inputs(header, image_max_tokens=tokens, batch_tokens=told.batch_tokens)
        if told.on_gpu:
            return Projector(device=device, host=MemoryUsage(compute=inputs)), limited
        return Projector(host=MemoryUsage(weights=device.weights, compute=device.compute + inputs)), limited

    def _corrected(self, demand: Demand, gpus: int) -> Demand:
        """With what earlier loads of the same file and settings took more, or less, than was predicted."""
        learned: dict[str, tuple[int, int, int]] = {}
        options = []
        for option in demand.options:
            key = demand.settings_key(option)
            if option.how != "host" and key not in learned:
                took = [
                    max(self._calibration.correction(demand.file, key, count))
                    for count in range(1, max(1, gpus) + 1)
                ]
                surcharge = self._calibration.surcharge(demand.file, key)
                learned[key] = (took[0], max(took[1:], default=0), surcharge)
            one, several, surcharge = learned.get(key, (0, 0, 0))
            options.append(
                msgspec.structs.replace(
                    option,
                    compute=max(0, option.compute + one),
                    shared=None if option.shared is None else max(0, option.shared + several),
                    learned=(one, several),
                    surcharge=surcharge,
                )
            )
        seconds = self._calibration.load_seconds(demand.file)
        return msgspec.structs.replace(demand, options=tuple(options), load_seconds=seconds)


def _guess(predicted: Demand, placement: Placement) -> Prediction:
    """Of a model of unknown shape: the figures of the way that was chosen, before they were corrected."""
    chosen = placement.option
    same = (chosen.kind, chosen.gpu_layers)
    option = next((one for one in predicted.options if (one.kind, one.gpu_layers) == same), chosen)
    beside = option.compute if len(placement.shares) == 1 else option.shared or 0
    gpus, layers, at = [], [], 0
    for nth, share in enumerate(placement.shares):
        weights = sum(option.layers[at : at + share.layers])
        gpus.append(MemoryUsage(weights=weights, compute=beside))
        layers += [nth] * share.layers
        at += share.layers
    host = MemoryUsage(weights=option.mapped, compute=option.pinned)
    return Prediction(gpus=tuple(gpus), host=host, certainty="fallback", layers=tuple(layers))


def forgive_lost(calibration: Calibration, is_known: Callable[[str], bool] = lambda _: True) -> None:
    """Forget where memory ran out with models that are not known any more, or with files that are gone."""
    for surcharge in calibration.surcharges():
        if surcharge.paths and not (is_known(surcharge.model) and _are_there(surcharge)):
            calibration.forgive(surcharge)


def _are_there(surcharge: Surcharge) -> bool:
    """Whether the files are still those with which memory ran out."""
    path, *projector = map(Path, surcharge.paths)
    try:
        return _identity(ModelFiles(path=path, projector=next(iter(projector), None))) == surcharge.file
    except OSError:
        return False


@contextmanager
def _explained(files: ModelFiles) -> Iterator[None]:
    """Whatever is wrong with the files, or the settings for them, as a `StartError`."""
    try:
        yield
        return
    except FileNotFoundError as error:
        same = str(error.filename) == str(files.path)
        reason = "no such file" if same else f"{error.filename} is missing"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except ValueError as error:  # HeaderError is one
        reason = str(error)
    raise StartError(Failure(message=f"{files.path}: {reason}", retryable=False))


def _identity(files: ModelFiles) -> str:
    """Of the very files: other contents have another size or another time."""
    parts = [files.path, files.projector] if files.projector else [files.path]
    named = [(part.resolve().name, part.stat()) for part in parts]
    return " ".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in named)
