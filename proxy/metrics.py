"""The metrics at `/metrics`: counters of events, and gauges that are read at each scrape.

All names begin with `llama_proxy_`, except the process's own (`process_*`). A series costs memory here and
in Prometheus for as long as both run, so a client cannot choose the value of a label: a path is the route's
template, and a model's name is used only if it is configured or has been granted, for at most `LABELS`
models. All other names are `unknown`.

A counter whose labels are known beforehand starts with 0, because Prometheus' `increase()` compares two
values and would miss the first event of a series that begins with 1.
"""

import asyncio
import platform
import time
from collections.abc import Iterable, Iterator
from typing import get_args

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from actors.errors import FailureKind, Rejection
from actors.gpu.monitor import GpuMonitor
from actors.messages import BecameReady, Effect, Event, Exited, Reject, StartServer, StopServer
from actors.scheduler.lifecycle import State
from actors.supervisor import Supervisor
from proxy.exchange import Exchange, Outcome
from proxy.handlers.readiness import Readiness, ReadinessReport
from proxy.usage.records import UsageRecords

LABELS = 256
"""Most models with their own series."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

FAILURES: tuple[FailureKind, ...] = get_args(FailureKind)
TOKENS = ("prompt", "cached", "completion")

UNKNOWN = "unknown"

PROMPT_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
LOAD_SECONDS = (0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)


class Metrics:
    """The counters, and the page that shows them.

    `account` is called with every finished request, `watch` with every event and effect of the supervisor.
    Both are synchronous and never raise. The models that the supervisor knows at the start are the
    configured ones.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        monitor: GpuMonitor,
        readiness: Readiness,
        usage: UsageRecords,
        *,
        version: str,
    ) -> None:
        self.registry = CollectorRegistry()
        self._version = version
        self._started = time.monotonic()
        self._snapshot = _Snapshot()
        self._supervisor = supervisor
        self._monitor = monitor
        self._readiness = readiness
        self._usage = usage
        supervisor.on_message = self.watch
        self._labels: set[str] = set()
        self._loading: dict[str, float] = {}
        self._requests: dict[tuple[str, str, int], _RequestSeries] = {}
        ProcessCollector(registry=self.registry)
        self.registry.register(self._snapshot)
        self._count = Counter(
            "llama_proxy_requests",
            "Finished requests, by route, model and HTTP status (499: the client left).",
            ("endpoint", "model", "status"),
            registry=self.registry,
        )
        self._outcomes = Counter(
            "llama_proxy_outcomes",
            "Finished requests, by model and what became of them.",
            ("model", "outcome"),
            registry=self.registry,
        )
        self._duration = self._histogram(
            "request_duration", "From a request's head to its answer's end.", ("endpoint", "model")
        )
        self._first_token = self._histogram(
            "time_to_first_token", "From a request's head to the first token of its answer."
        )
        self._token = self._histogram(
            "time_per_output_token", "Between two tokens of an answer, on average.", buckets=TOKEN_SECONDS
        )
        self._queued = self._histogram(
            "queue_wait", "Of granted requests: waiting for a turn, without downloads and loads."
        )
        self._tokens = Counter(
            "llama_proxy_tokens",
            "Tokens, as the model servers report them; cached ones are prompt tokens too.",
            ("model", "kind"),
            registry=self.registry,
        )
        self._load = self._histogram("model_load", "From a server's start to ready.", buckets=LOAD_SECONDS)
        self._evictions = Counter(
            "llama_proxy_model_evictions",
            "Models that were stopped to make room for another.",
            ("model",),
            registry=self.registry,
        )
        self._failures = Counter(
            "llama_proxy_model_failures",
            "Loads that failed, and servers that ended without being told to.",
            ("model", "kind"),
            registry=self.registry,
        )
        self._rejections = Counter(
            "llama_proxy_rejections",
            "Requests that got no lease, by the reason.",
            ("reason",),
            registry=self.registry,
        )
        for kind in Rejection.__subclasses__():
            self._rejections.labels(kind.__name__)
        for model in (UNKNOWN, *(status.name for status in supervisor.describe())):
            self._begin(model)

    def _begin(self, model: str) -> None:
        """Create a model's series, all with 0."""
        for outcome in OUTCOMES:
            self._outcomes.labels(model, outcome)
        for failure in FAILURES:
            self._failures.labels(model, failure)
        self._evictions.labels(model)
        if model == UNKNOWN:
            return  # this model is never granted
        self._labels.add(model)
        for kind in TOKENS:
            self._tokens.labels(model, kind)
        for histogram in (self._first_token, self._token, self._queued, self._load):
            histogram.labels(model)

    def _histogram(
        self,
        name: str,
        help_text: str,
        labels: tuple[str, ...] = ("model",),
        buckets: tuple[float, ...] = PROMPT_SECONDS,
    ) -> Histogram:
        return Histogram(
            f"llama_proxy_{name}_seconds", help_text, labels, registry=self.registry, buckets=buckets
        )

    async def page(self, request: web.Request) -> web.Response:
        """Answer GET /metrics, in Prometheus' text format or in OpenMetrics, as the scraper prefers.

        The supervisor's state is read on the event loop; the thousands of lines are written in a thread.
        """
        report = await self._readiness.look()
        self._snapshot.families = [*self._own(report), *self._models(), *self._memory(), *self._prompts()]
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encode, self.registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    # Counters

    def account(self, exchange: Exchange) -> None:
        """Count a finished request. Views and probes are not counted, since they would hide the others."""
        if exchange.quiet:
            return
        granted = exchange.epoch is not None
        model = self._label(exchange.model, granted=granted)
        key = (exchange.endpoint, model, exchange.status)
        series = self._requests.get(key)
        if series is None:
            series = self._requests[key] = _RequestSeries(self, exchange, model)
        series.count.inc()
        series.outcome.inc()
        now = time.monotonic()
        series.duration.observe(now - exchange.started_at)
        if granted:
            series.queued.observe(exchange.queued)
        if not granted:
            return  # an agent's own answer: its calls of models are counted separately
        for kind, counter in series.tokens.items():
            if (count := exchange.tokens.get(kind, 0)) > 0:
                counter.inc(count)
        made = exchange.tokens.get("completion_tokens")
        if made is not None and made > 0 and exchange.first_byte_at is not None:
            series.first_token.observe(exchange.first_byte_at - exchange.started_at)
            if exchange.stream and made > 1:
                series.token.observe((now - exchange.first_byte_at) / (made - 1))

    def watch(self, message: Event | Effect) -> None:
        """Count the events of the models."""
        match message:
            case StartServer(model=model):
                self._loading[model] = time.monotonic()
            case BecameReady(model=model):
                if (began := self._loading.pop(model, None)) is not None:
                    self._load.labels(self._label(model, granted=True)).observe(time.monotonic() - began)
            case Exited(model=model, failure=failure):
                self._loading.pop(model, None)
                if failure is not None:
                    self._failures.labels(self._label(model), failure.kind).inc()
            case StopServer(model=model, evicts=True):
                self._evictions.labels(self._label(model)).inc()
            case Reject(reason=reason):
                self._rejections.labels(type(reason).__name__).inc()
            case _:
                pass

    def _label(self, name: str | None, *, granted: bool = False) -> str:
        """Return the model's name if it may be a label. A granted name is canonical and exists."""
        if name in self._labels:
            return name
        if granted and name is not None and len(self._labels) < LABELS:
            self._begin(name)
            return name
        canonical = self._supervisor.resolve(name) if name else None
        return canonical if canonical in self._labels else UNKNOWN

    # Gauges

    def _own(self, report: ReadinessReport) -> Iterator[Metric]:
        build = {"version": self._version, "python": platform.python_version()}
        yield InfoMetricFamily("llama_proxy_build", "Which gateway this is.", value=build)
        yield _gauge("uptime_seconds", "Since the gateway's start.", time.monotonic() - self._started)
        ready = report.ready and not self._supervisor.closing
        yield _gauge("ready", "1 if /health/ready is 200.", ready)
        ledger, captures = self._usage.ledger, self._usage.captures
        dropped = "Requests without a row in the ledger of usage, because it could not be written for long."
        yield CounterMetricFamily("llama_proxy_usage_dropped", dropped, value=ledger.dropped)
        lost = "Requests that were chosen for a capture and have none, for lack of memory or disk."
        yield CounterMetricFamily("llama_proxy_captures_dropped", lost, value=captures.dropped)
        yield _gauge("usage_waiting", "Rows that are not in the ledger's file yet.", ledger.waiting)
        rows = [((one.name,), one.error is None) for one in report.dependencies]
        text = "1 for what the configuration needs outside of the gateway and can be used."
        yield _gauges("dependency_up", text, ("dependency",), rows)

    def _models(self) -> Iterator[Metric]:
        models = self._supervisor.describe()
        states = {state: sum(model.state is state for model in models) for state in State}
        yield _gauges("models", "Models by state.", ("state",), [((s,), n) for s, n in states.items()])
        labelled = [model for model in models if model.name in self._labels]
        for name, text, values in (
            ("model_up", "1 for a model whose server is ready.", [m.endpoint is not None for m in labelled]),
            ("model_slots", "Requests that the model serves at once.", [m.slots for m in labelled]),
            ("model_busy_slots", "Requests that it serves now.", [m.busy for m in labelled]),
            ("model_waiting", "Requests that wait for it.", [m.waiting for m in labelled]),
        ):
            rows = [((model.name,), value) for model, value in zip(labelled, values, strict=True)]
            yield _gauges(name, text, ("model",), rows)
        yield _gauge("queue_length", "Requests that wait for a lease.", self._supervisor.waiting)

    def _prompts(self) -> Iterator[Metric]:
        prompts = self._supervisor.prompts
        figures = prompts.figures() if prompts is not None else None
        if figures is None:
            return
        for name, text, value in (
            ("saves", "Prompts that were saved when their model stopped.", figures.saved),
            ("restores", "Requests whose prompt was restored.", figures.restored),
            ("misses", "Restored prompts that the server could not use.", figures.missed),
            ("restored_tokens", "Tokens that were not read again.", figures.tokens),
            ("spared_seconds", "Seconds of reading that restored prompts have spared.", figures.seconds),
        ):
            yield CounterMetricFamily(f"llama_proxy_prompt_{name}", text, value=value)
        yield _gauge("prompts_saved", "Prompts on the disk.", figures.kept)
        yield _gauge("prompts_bytes", "Their bytes.", figures.bytes)
        yield _gauge("prompts_budget_bytes", "Most bytes that they may have.", figures.budget)

    def _memory(self) -> Iterator[Metric]:
        sample, ledger = self._monitor.sample, self._supervisor.ledger
        gpus, holdings = sample.gpus, ledger.holdings.values()
        ids = [(str(gpu.index), gpu.uuid) for gpu in gpus]
        reserved = [sum(ledger.taken(holding, gpu.uuid) for holding in holdings) for gpu in gpus]
        percent = [None if gpu.utilization is None else gpu.utilization / 100 for gpu in gpus]
        for name, text, values in (
            ("memory_total_bytes", "Memory of the GPU.", [gpu.total for gpu in gpus]),
            ("memory_used_bytes", "What anybody has of it.", [gpu.used for gpu in gpus]),
            ("memory_free_bytes", "What nobody has of it.", [gpu.free for gpu in gpus]),
            ("memory_reserved_bytes", "What is set aside for models.", reserved),
            ("utilization_ratio", "Part of the time in which it worked.", percent),
            ("temperature_celsius", "Its temperature.", [gpu.temperature for gpu in gpus]),
            ("power_watts", "What it draws.", [gpu.power for gpu in gpus]),
        ):
            yield _gauges(f"gpu_{name}", text, ("gpu", "uuid"), zip(ids, values, strict=True))
        names = [((*key, gpu.name, gpu.driver), 1) for key, gpu in zip(ids, gpus, strict=True)]
        yield _gauges("gpu_info", "What each GPU is.", ("gpu", "uuid", "name", "driver"), names)
        yield _gauge("gpus_lost", "GPUs that NVML knows and that cannot be used.", len(sample.lost))
        up = sample.error is None
        yield _gauge("nvml_up", "1 if the GPU driver answers; /health has the reason if not.", up)
        host = sample.host
        yield _gauge("host_memory_total_bytes", "Memory of the host.", host.total)
        yield _gauge("host_memory_available_bytes", "What models could have of it.", host.available)


class _RequestSeries:
    """The series of one kind of request, because a lookup by labels costs more than counting."""

    __slots__ = ("count", "duration", "first_token", "outcome", "queued", "token", "tokens")

    def __init__(self, metrics: Metrics, exchange: Exchange, model: str) -> None:
        endpoint = exchange.endpoint
        self.count = metrics._count.labels(endpoint, model, str(exchange.status))
        self.outcome = metrics._outcomes.labels(model, exchange.outcome)
        self.duration = metrics._duration.labels(endpoint, model)
        self.first_token = metrics._first_token.labels(model)
        self.token = metrics._token.labels(model)
        self.queued = metrics._queued.labels(model)
        self.tokens = {f"{kind}_tokens": metrics._tokens.labels(model, kind) for kind in TOKENS}


class _Snapshot(Collector):
    """The values read on the event loop, for the thread that writes the page."""

    def __init__(self) -> None:
        self.families: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        return self.families


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"llama_proxy_{name}", text, value=value)


def _gauges(
    name: str,
    text: str,
    labels: tuple[str, ...],
    rows: Iterable[tuple[tuple[str, ...], float | None]],
) -> Metric:
    """Make one family of gauges; values of None are left out."""
    family = GaugeMetricFamily(f"llama_proxy_{name}", text, labels=labels)
    for key, value in rows:
        if value is not None:
            family.add_metric(key, value)
    return family
