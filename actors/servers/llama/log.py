"""Parses llama.cpp's log: buffers, the table of a dry run, and failed allocations.

The formats are those of b11434 and b11549. Lines may begin with llama-server's time and level.
"""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

MIB = 1 << 20
HOST = "Host"
"""The table's name for main memory."""

Kind = Literal["weights", "kv", "compute", "output"]

_SIZE = " buffer size = "
_OWNER = re.compile(r" *(?P<device>\S+) +(?P<what>model|LoRA|KV|RS|DSV4 .+ state|compute|output)")
_MIB = re.compile(r" *(\d{1,12}(?:\.\d{1,6})?) MiB")
_KINDS: dict[str, Kind] = {"model": "weights", "LoRA": "weights", "compute": "compute", "output": "output"}
_ANEW = ("loading model '", "fitting params to free memory took")
"""Lines after which earlier sizes are void: they were of an unloaded model, or of the fit step."""
_PROJECTOR_DEVICE = re.compile(r"CLIP using (\S+) backend")
_PROJECTOR_WEIGHTS = re.compile(r"load_hparams: model size: +(\d{1,12}(?:\.\d{1,6})?) MiB")


_NO_GPU = re.compile(r"no usable GPU found|offloaded 0/\d+ layers to GPU")
_OFFLOADED = re.compile(r"offloaded [1-9]\d*/\d+ layers to GPU")
_HOST = re.compile(r"^(CPU|Host|AMX)|Host$|_Host\b")


def is_host(buffer: str) -> bool:
    """Whether a buffer of this name is in main memory: CPU, CPU_Mapped, CPU_REPACK, CUDA_Host."""
    return bool(_HOST.search(buffer))


class BufferLog:
    """Collects the bytes that a server has allocated, from its log lines at verbosity 4 and above.

    Draft model and projector run in the same process and are included. llama.cpp prints hundredths of MiB.
    """

    def __init__(self) -> None:
        self._sizes: dict[tuple[str, str, Kind], int] = {}
        self._context = self._tower = 0
        self._projector_device = ""
        self._refused = self._offloaded = False

    def feed(self, line: str) -> None:
        """Take one line of the log."""
        if _SIZE in line:
            self._take_size(line)
        elif any(mark in line for mark in _ANEW):
            self._sizes.clear()
        elif _NO_GPU.search(line):
            self._refused = True
        elif _OFFLOADED.search(line):
            self._offloaded = True
        elif found := _PROJECTOR_DEVICE.search(line):
            self._projector_device = found[1]
            self._tower += 1
        elif found := _PROJECTOR_WEIGHTS.search(line):
            # Each tower of a projector prints the size of the whole file.
            self._sizes["projector", self._projector_device, "weights"] = _bytes(found[1])

    def _take_size(self, line: str) -> None:
        # A regular expression that searches for the first word's start would take minutes on a line
        # without blanks.
        whose, _, size = line.partition(_SIZE)
        by, colon, where = whose.rpartition(": ")
        owner, mib = _OWNER.fullmatch(where), _MIB.match(size)
        if colon and owner and mib:
            what = _KINDS.get(owner["what"], "kv")
            self._take(by.rpartition(" ")[2], owner["device"], what, _bytes(mib[1]))

    def _take(self, by: str, device: str, kind: Kind, size: int) -> None:
        if kind == "output":
            self._context += 1  # a context logs its output buffer first
        if kind == "compute":
            # A buffer reserved again replaces the earlier one, but every context and tower has its own.
            owner = f"tower {self._tower}" if by == "reserve_compute_meta" else f"context {self._context}"
            self._sizes[owner, device, kind] = size
        else:
            self._sizes["", device, kind] = self._sizes.get(("", device, kind), 0) + size

    @property
    def uses_no_gpu(self) -> bool:
        """Whether the log shows that no part of the model is on a GPU; false if it does not say."""
        sizes = self.sizes
        if self._offloaded or any(not is_host(device) for device in sizes):
            return False
        return self._refused or any("weights" in kinds for kinds in sizes.values())

    @property
    def sizes(self) -> dict[str, dict[str, int]]:
        """Return bytes by llama.cpp's name of the buffer (CUDA0, CUDA_Host, CPU_Mapped ...) and `Kind`."""
        sums: dict[str, dict[str, int]] = {}
        for (_, device, kind), size in self._sizes.items():
            kinds = sums.setdefault(device, {})
            kinds[kind] = kinds.get(kind, 0) + size
        return sums


class OutOfMemory(msgspec.Struct, frozen=True):
    """A failed allocation: the backend's number of the device and the missing bytes, if logged."""

    device: int | None = None
    asked: int | None = None


_NO_MEMORY = re.compile(
    r"(?:failed|error): out of memory"  # cudaMalloc, CUDA, ROCm, MUSA
    r"|\(out of memory\)"  # Metal
    r"|CUBLAS_STATUS_ALLOC_FAILED|error: the resource allocation failed"
    r"|OutOf(?:Device|Host)Memory|emory allocation of size \d+ failed"  # Vulkan
    r"|OUT_OF_(?:DEVICE|HOST)_MEMORY|can't allocate \d+ Bytes of memory"  # SYCL
    r"|[Ii]nsufficient [Mm]emory"  # Metal at work, and the CPU
    r"|(?:unable|[Ff]ailed) to allocate +(?:compute |graph\s*$|(?:\S+ )?buffer\b|[\d.]+ (?:MB|MiB|bytes)\b)"
    r"|failed to reserve (?:graph buffers|initial output buffer)"
    r"|bad_alloc|mmap failed: Cannot allocate memory"
)
_HARMLESS = re.compile(
    r"pinned|async uploads|buffer context|reorder temp|prompt cache|while reading|Failed ggml_vk_create"
)
"""Failed allocations that llama.cpp tolerates, or that a broken file causes."""
_RETRIED = "retrying without pipeline parallelism"
_ASKED_MIB = re.compile(r"\b(\d{1,12}(?:\.\d{1,6})?) (?:MiB|MB)\b")
_ASKED_BYTES = re.compile(r"(?:size|allocate|buffer of) (\d{1,18})\b")
_DEVICE = re.compile(
    r"on device (\d{1,4})\b|current device: (\d{1,4})\b|to allocate [A-Za-z]+(\d{1,4})(?:_\w+)? buffer"
)


def out_of_memory(lines: Iterable[str]) -> OutOfMemory | None:
    """Find the failed allocation in the log of a server that could not load or died; None if there is none.

    llama.cpp logs several lines for one failure, of which only some have numbers; the first numbers count.
    """
    found: OutOfMemory | None = None
    for line in lines:
        if _RETRIED in line:
            found = None
        elif not _HARMLESS.search(line) and (_NO_MEMORY.search(line) or (found and _DEVICE.search(line))):
            known = found or OutOfMemory()
            found = OutOfMemory(
                device=_device(line) if known.device is None else known.device,
                asked=_asked(line) if known.asked is None else known.asked,
            )
    return found


def _device(line: str) -> int | None:
    found = _DEVICE.search(line)
    return int(next(filter(None, found.groups()))) if found else None


def _asked(line: str) -> int | None:
    if found := _ASKED_MIB.search(line):
        return _bytes(found[1])
    found = _ASKED_BYTES.search(line)
    return int(found[1]) if found else None


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted bytes on one device. llama.cpp's table has whole MiB, rounded down."""

    model: int = 0
    context: int = 0
    compute: int = 0
    projector: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.model + self.context + self.compute + self.projector


FIT_IS_OVER = re.compile(
    r"projected to use|fitting params to free memory took|(?:failed|error while trying) to fit params"
)
"""Lines after which the fit step tries other settings than the requested ones, or loads the model."""

_TABLE = "memory breakdown [MiB]"
_ROW = re.compile(r" +- (\S+)(?: |$)")
_PARTS = re.compile(r"\d{1,15} = +(\d{1,15}) \+ +(\d{1,15}) \+ +(\d{1,15})")
_EXTRA = "getting device memory data for the extra model"
_FILE = "loaded meta data with "
_PROJECTOR = re.compile(r"adding (\d{1,12}(?:\.\d{1,6})?) MiB to fit_params_target for device (\S+)")


def parse_breakdown(lines: Iterable[str]) -> dict[str, Breakdown] | None:
    """Parse the fit step's table, by device: CUDA0 ... and `HOST`. None if it is missing or incomplete.

    A draft model has its own table, which is added. Its file and the projector's memory are only printed at
    verbosity 5. The first table counts; later ones are of other settings.
    """
    rows: dict[str, Breakdown] = {}
    projector: dict[str, int] = {}
    main_file = file = None
    extra = taken = False
    for line in lines:
        if FIT_IS_OVER.search(line):
            break
        if _EXTRA in line:
            extra = True
        elif _TABLE in line:
            taken = extra or not rows
            main_file = main_file or file
        elif _FILE in line:
            file = line.partition(" from ")[2].rpartition(" (version")[0]
        elif found := _PROJECTOR.search(line):
            projector[found[2]] = _bytes(found[1])
        elif taken and (row := _row(line)):
            device, model, context, compute = row
            known = rows.get(device, Breakdown())
            rows[device] = Breakdown(
                # An MTP head runs on the weights of the main model.
                model=known.model + (0 if extra and file and file == main_file else model),
                context=known.context + context,
                compute=known.compute + compute,
            )
    if HOST not in rows:
        return None
    for name, size in projector.items():
        device = name if name in rows else HOST
        usage = rows[device]
        rows[device] = msgspec.structs.replace(usage, projector=usage.projector + size)
    return rows


def _row(line: str) -> tuple[str, int, int, int] | None:
    """Parse a row of the table: the device, and the bytes of model, context and compute."""
    _, _, row = line.partition("|")
    cell, _, rest = row.partition("|")
    device, parts = _ROW.match(cell), _PARTS.search(rest)
    if device is None or parts is None:
        return None
    model, context, compute = (int(number) * MIB for number in parts.groups())
    return device[1], model, context, compute


def _bytes(mib: str) -> int:
    return round(float(mib) * MIB)
