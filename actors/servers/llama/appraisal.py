"""Predicts a model's memory from its headers, its settings, and earlier loads. Blocking."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from actors.config.schema import Config, Model
from actors.errors import ConfigError, Failure
from actors.gpu.calibration import Calibration, Surcharge
from actors.gpu.host_memory import host_memory
from actors.hub.cache import ModelFiles
from actors.memory.builds import NEWEST, TESTED, Build, build_from
from actors.memory.collisions import collisions
from actors.memory.context import check_context, slot_context, slot_limit, stretching_flags
from actors.memory.flag_effects import uncounted, uncounted_in
from actors.memory.flags import LAYER_FLAGS, check, is_given, last_of, projector_flags, settings_of
from actors.memory.gguf import Header, read_model
from actors.memory.growth import with_limits
from actors.memory.prediction.predict import predict
from actors.memory.prediction.results import MemoryUsage, Prediction
from actors.memory.prediction.settings import LoadSettings
from actors.memory.projector import TOKEN_LIMIT, needs_token_limit, predict_projector, projector_inputs
from actors.memory.purpose import for_purpose, longest_text, purpose_of
from actors.memory.shape import Shape, ShapeError, weights_by_layer
from actors.placement.fit import Placement
from actors.placement.options import Beside, Demand, Draft, Projector, demand_of, demand_of_size
from actors.servers import StartError, Trial
from actors.servers.llama.command import command_words
from actors.servers.llama.companions import draft_of, identity, missing, projector_header, with_adapters
from actors.servers.llama.devices import BELIEF, Reach
from actors.servers.llama.log import Breakdown

Headers = tuple[Header, Header | None]
"""The header of a model, and that of its projector."""

UNKNOWN_CONTEXT = 4096
"""Context in tokens if neither the settings nor the header specify one."""

NO_GPU = "its model server was built without support for the GPUs of this machine"

VERSION = 3
"""Version of the predictor. Corrections learned with another version are not applied."""


class Appraisal:
    """The result for a model's files. `demand` is for the next load, `predicted` is before correction.

    `limits_images`: the size of images must be limited, because memory would grow with larger ones.
    `needed`: the flags without which the server would not do what the model is for, or that extend a slot's
    context.
    """

    def __init__(
        self,
        header: Header,
        shape: Shape | None,
        settings: LoadSettings,
        projector: Projector,
        *,
        draft: Draft | None = None,
        predicted: Demand,
        capacity: int,
        limits_images: bool,
        needed: Sequence[str] = (),
        reach: Reach | None = None,
    ) -> None:
        self.header = header
        self.predicted = self.demand = predicted
        self.capacity = capacity
        self.limits_images = limits_images
        self.needed = needed
        self.reach = reach
        self._shape = shape
        self.settings = settings
        self._beside = Beside(projector, draft)

    @property
    def is_of(self) -> tuple[str, int, Reach | None, Build]:
        """What the result depends on besides the model's settings."""
        return self.predicted.file, self.capacity, self.reach, self.settings.build

    def predict(self, placement: Placement) -> Prediction:
        """Predict llama.cpp's allocation at a placement, by component, before corrections."""
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
        beside = self._beside.at(settings)
        holder = found.gpus[0] if found.gpus else found.host
        for usage, part in ((holder, beside.device), (found.host, beside.host)):
            usage.weights += part.weights
            usage.kv += part.kv
            usage.compute += part.compute
            usage.output += part.output
        found.host.weights += beside.mapped
        return found


def request_context(model: Model, header: Header, above: Sequence[str]) -> int:
    """Return the most tokens of one request by the settings alone, in case memory suffices for them.

    `above`: the arguments of all models. Raises `ValueError` for settings that llama.cpp would refuse.
    """
    arguments = [*above, *model.arguments]
    settings, _, needed = _load_settings(model, header, arguments)
    return _slot(header, settings, settings.context, [*needed, *arguments])


def _load_settings(
    model: Model, header: Header, arguments: Sequence[str]
) -> tuple[LoadSettings, bool, list[str]]:
    """Return the settings for a model's purpose, and whether the gateway may choose the context.

    The last value has the flags without which the server would not do as asked.
    """
    settings, automatic = _asked_settings(model, header, arguments)
    purpose = purpose_of(header, arguments, embeds=model.embeddings, ranks=model.reranking)
    needed = [*purpose.flags, *_stretching(model, header, settings, arguments)]
    limit = slot_limit(header, [*needed, *arguments])
    longest = longest_text(header, host_memory().total) if automatic else None
    return for_purpose(settings, purpose, arguments, limit=limit, longest=longest), automatic, needed


def _asked_settings(model: Model, header: Header, arguments: Sequence[str]) -> tuple[LoadSettings, bool]:
    """Return llama-server's load settings, and whether the gateway may choose the context."""
    trained = header.context_length or UNKNOWN_CONTEXT
    settings = settings_of(arguments, context=model.ctx_size or trained, parallel=model.parallel)
    automatic = not model.ctx_size and not is_given(arguments, "-c", "--ctx-size")
    if settings.context == 0:
        settings = msgspec.structs.replace(settings, context=trained)
    return settings, automatic


def _stretching(model: Model, header: Header, settings: LoadSettings, arguments: Sequence[str]) -> list[str]:
    """Return the flags that extend a slot's context. Raises `ValueError` if it cannot be extended."""
    flags = stretching_flags(header, settings, arguments) if model.longer_context else []
    check_context(header, settings, [*flags, *arguments])
    return flags


def _slot(header: Header, settings: LoadSettings, context: int, arguments: Sequence[str]) -> int:
    """Return the tokens of one request, with a context of so many tokens."""
    return min(slot_context(header, settings, context, arguments), settings.input_limit or context)


class Predictor:
    """Predicts demands. `capacity` returns the bytes of each GPU."""

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
        """Read the headers and predict, unless `before` is the result for the same files on the same GPUs.

        `reach`: the GPUs that the server can use, if known.
        Raises `StartError` if the file is not a model, or for settings that llama.cpp would refuse.
        """
        with _explained(files):
            return self._appraise(model, files, build, before, reach)

    def examine(self, model: Model, files: ModelFiles) -> None:
        """Raise `StartError` if `appraise` would, without predicting."""
        with _explained(files):
            header = read_model(files.path)
            arguments = self._arguments(model)
            settings, _ = _asked_settings(model, header, arguments)
            settings = self._with_layers(model, settings, arguments)
            _stretching(model, header, settings, arguments)
            self._projector(model, projector_header(files, self._arguments(model)), settings)
            with suppress(ShapeError):
                check(Shape(header), settings)

    def _appraise(
        self, model: Model, files: ModelFiles, build: str, before: Appraisal | None, reach: Reach | None
    ) -> Appraisal:
        sizes = sorted(self._capacity())
        # Only the number of allowed devices is known here.
        capacity = sum(sizes[: len(model.devices) or None])
        file = _identity(files)
        same = (file, capacity, reach, build_from(build))
        if before is not None and before.is_of == same:
            found = before
        else:
            if before is not None and before.predicted.file != file:
                forgive_lost(self._calibration)
            self._check_place(model, len(sizes), reach)
            headers = read_model(files.path), projector_header(files, self._arguments(model))
            found = self._look(model, headers, capacity, reach, build_from(build))
        beside = [known] if (known := identity(self._arguments(model))) else []
        key = msgspec.json.encode([VERSION, found.settings, build, *beside]).decode()
        predicted = msgspec.structs.replace(found.predicted, file=file, settings=key, build=build)
        found.predicted = predicted
        found.demand = self._corrected(predicted, len(sizes))
        return found

    def _check_place(self, model: Model, gpus: int, reach: Reach | None) -> None:
        """Raise `ValueError` for flags that collide with a placement."""
        if reach in ("others", "none"):
            return
        with suppress(ConfigError):  # without a server there is no placement either
            for collision in collisions(command_words(self._config.server_pool, model), gpus):
                raise ValueError(collision.message)
        for collision in collisions([*self._config.server_pool.arguments, *model.arguments], gpus):
            raise ValueError(collision.message)

    def appraise_headers(self, model: Model, headers: Headers, reach: Reach | None = None) -> Appraisal:
        """Predict for files that are not on the disk, by their headers; nothing is known of earlier loads.

        Raises `StartError` for settings that llama.cpp would refuse.
        """
        sizes = sorted(self._capacity())
        try:
            self._check_place(model, len(sizes), reach)
            return self._look(model, headers, sum(sizes[: len(model.devices) or None]), reach, NEWEST)
        except ValueError as error:
            raise StartError(Failure(message=str(error), retryable=False)) from error

    def _look(
        self, model: Model, headers: Headers, capacity: int, reach: Reach | None, build: Build
    ) -> Appraisal:
        header, projector_header = headers
        arguments = self._arguments(model)
        settings, automatic, needed = _load_settings(model, header, arguments)
        settings = self._with_layers(model, msgspec.structs.replace(settings, build=build), arguments)
        barred = reach == "none" and settings.gpu_layers != 0
        if barred:
            settings = msgspec.structs.replace(settings, gpu_layers=0)
        projector, limits_images = self._projector(model, projector_header, settings)
        draft = draft_of(arguments)
        projector = with_adapters(projector, arguments)
        shape: Shape | None = None
        try:
            shape = Shape(header)
        except ShapeError:
            demand = demand_of_size(header.size, settings, weights_by_layer(header), capacity=capacity)
        else:
            check(shape, settings)
            if build.number is not None and build.number >= TESTED[0]:  # those before may not know the flags
                alone = msgspec.structs.replace(settings, prompt_cache=0) if model.isolate else settings
                settings = with_limits(shape, alone, host_memory().total)
            demand = demand_of(
                shape, settings, automatic=automatic, projector=projector, draft=draft, capacity=capacity
            )
        split = last_of(arguments, "-sm", "--split-mode")
        if split is not None and split[1] == "row" and build.refuses_rows and capacity:
            raise ValueError(f"{split[0]} row: llama.cpp build {build.number} refuses it; use layer")
        vague = [*uncounted_in(self._words(model)), *uncounted(arguments), *missing(arguments)]
        demand = msgspec.structs.replace(
            demand,
            options=tuple(
                msgspec.structs.replace(
                    option,
                    certainty="bound" if vague and option.certainty == "exact" else option.certainty,
                    slot=_slot(header, settings, option.context, [*needed, *arguments]),
                )
                for option in demand.options
            ),
        )
        return Appraisal(
            header,
            shape,
            settings,
            projector,
            draft=draft,
            predicted=msgspec.structs.replace(
                demand, elsewhere=reach == "others", no_gpu=NO_GPU if barred else ""
            ),
            capacity=capacity,
            limits_images=limits_images,
            needed=needed,
            reach=reach,
        )

    def check_context(self, model: Model, header: Header) -> None:
        """Raise `ValueError` for a context that a model with this header cannot have."""
        arguments = self._arguments(model)
        settings, _ = _asked_settings(model, header, arguments)
        _stretching(model, header, settings, arguments)

    def _with_layers(self, model: Model, settings: LoadSettings, arguments: Sequence[str]) -> LoadSettings:
        """Return the settings with the layers on GPUs that the configuration sets, if no flag does."""
        layers = model.gpu_layers if model.gpu_layers is not None else self._config.server_pool.gpu_layers
        own = is_given(arguments, *LAYER_FLAGS)
        if not own and layers is not None and layers >= 0:
            return msgspec.structs.replace(settings, gpu_layers=layers)
        return settings

    def _arguments(self, model: Model) -> list[str]:
        """Return the flags on which llama-server's memory may depend."""
        return [*self._config.server_pool.arguments, *model.arguments]

    def _words(self, model: Model) -> list[str]:
        """Return the command of a model's server; empty without one."""
        with suppress(ConfigError):
            return command_words(self._config.server_pool, model)
        return []

    def ran_out(self, surcharge: Surcharge) -> None:
        """Record that memory ran out: these settings take `surcharge` bytes more per GPU."""
        self._calibration.ran_out(surcharge)

    def used_no_gpu(self, key: str) -> bool:
        """Whether the log of such a server recently showed that no GPU was used."""
        value = self._calibration.dry_run(f"used no GPU: {key}")
        return value is not None and time.time() - float(value) < BELIEF

    def remember_no_gpu(self, key: str) -> None:
        """Record that the log of such a server showed that it used none of its GPUs."""
        self._calibration.remember_dry_run(f"used no GPU: {key}", str(time.time()).encode())

    def remembered(self, key: str) -> dict[str, Breakdown] | None:
        """Return the result of an earlier dry run."""
        value = self._calibration.dry_run(key)
        return None if value is None else msgspec.json.decode(value, type=dict[str, Breakdown])

    def remember(self, key: str, found: dict[str, Breakdown]) -> None:
        """Record the result of a dry run."""
        self._calibration.remember_dry_run(key, msgspec.json.encode(found))

    def _projector(
        self, model: Model, header: Header | None, settings: LoadSettings
    ) -> tuple[Projector, bool]:
        """Return the projector's memory, and whether the size of images must be limited."""
        if header is None:
            return Projector(), False
        told = projector_flags(self._arguments(model))
        limited = told.image_max_tokens is None and needs_token_limit(header)
        tokens = TOKEN_LIMIT if limited else told.image_max_tokens
        device = predict_projector(
            header,
            image_max_tokens=tokens,
            flash_attention=settings.flash_attention is not False,
            batch_tokens=told.batch_tokens,
        )
        inputs = projector_inputs(header, image_max_tokens=tokens, batch_tokens=told.batch_tokens)
        if told.on_gpu:
            return Projector(device=device, host=MemoryUsage(compute=inputs)), limited
        return Projector(host=MemoryUsage(weights=device.weights, compute=device.compute + inputs)), limited

    def _corrected(self, demand: Demand, gpus: int) -> Demand:
        """Correct a demand by the errors of earlier loads of the same file and settings."""
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


def with_trial(model: Model, trial: Trial) -> Model:
    """Return a model's settings with those that are tried."""
    arguments = list(model.arguments)
    if trial.ctx is not None:
        arguments += ["--ctx-size", str(trial.ctx)]
    if trial.kv is not None:
        arguments += ["--cache-type-k", trial.kv, "--cache-type-v", trial.kv]
    return msgspec.structs.replace(model, arguments=arguments, parallel=trial.parallel or model.parallel)


def _guess(predicted: Demand, placement: Placement) -> Prediction:
    """Return the figures of the chosen option before correction, for a model of unknown shape."""
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
    """Delete surcharges of unknown models and of files that no longer exist."""
    for surcharge in calibration.surcharges():
        if surcharge.paths and not (is_known(surcharge.model) and _are_there(surcharge)):
            calibration.forgive(surcharge)


def _are_there(surcharge: Surcharge) -> bool:
    """Whether the files still exist unchanged since memory ran out."""
    path, *projector = map(Path, surcharge.paths)
    try:
        return _identity(ModelFiles(path=path, projector=next(iter(projector), None))) == surcharge.file
    except OSError:
        return False


@contextmanager
def _explained(files: ModelFiles) -> Iterator[None]:
    """Raise faults of the files or the settings as `StartError`."""
    try:
        yield
        return
    except FileNotFoundError as error:
        same = str(error.filename) == str(files.path)
        reason = "no such file" if same else f"{error.filename} is missing"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except ValueError as error:  # includes HeaderError
        reason = str(error)
    raise StartError(Failure(message=f"{files.path}: {reason}", retryable=False))


def _identity(files: ModelFiles) -> str:
    """Return an identity of the files' contents: names, sizes and times of change."""
    parts = [files.path, files.projector] if files.projector else [files.path]
    named = [(part.resolve().name, part.stat()) for part in parts]
    return " ".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in named)
