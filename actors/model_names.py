"""The meaning of model names: on a hub, for Ollama's clients, and in an Ollama daemon.

On a hub a name is `org/repo` or `org/repo:variant`. A variant is a quantisation (`Q4_K_M`), a file's name
with or without folder and suffix, or a glob. Letter case does not matter.
"""

import fnmatch
import re
from collections.abc import Iterable, Sequence

import msgspec

_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.I)


DEFAULT_ORDER = (
    "Q4_K_M", "Q4_K_XL", "Q4_K_S", "Q4_K_L", "IQ4_NL", "IQ4_XS", "Q4_1", "Q4_0", "MXFP4", "MXFP4_MOE",
    "Q5_K_M", "Q5_K_XL", "Q5_K_S", "Q5_1", "Q5_0", "Q6_K", "Q6_K_XL", "Q3_K_L", "Q3_K_M", "Q3_K_XL", "IQ3_M",
    "Q8_0", "Q8_K_XL", "Q3_K_S", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_L", "Q2_K_XL", "IQ2_M", "IQ2_S",
    "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0", "BF16", "F16", "F32",
)  # fmt: skip
"""The preferred quantisations if no variant is named: Q4_K_M, then those of similar quality and size."""

PROJECTOR_ORDER = ("F16", "BF16", "Q8_0", "F32")

HUBS = ("hf.co/", "huggingface.co/")
"""Host names that Ollama's clients put before the name of a repository."""
LATEST = ":latest"
"""The tag that Ollama's clients add to a name without a tag."""

_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?::([^:\s][^:]{0,199}))?", re.ASCII)
_TAG = re.compile(
    r"(?:^|[-._/ ])"
    r"((?:UD-)?(?:I?Q[1-8]_[A-Z0-9]+(?:_[A-Z0-9]+)?|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32))"
    r"(?=[-._/ ]|$)",
    re.IGNORECASE,
)
_PART = re.compile(r"-(\d{5})-of-\d{5}(?=\.gguf$)", re.IGNORECASE)
_SHOWN = 30


class NoSuchVariantError(LookupError):
    """The repository has no such variant. The message lists the existing ones."""


class HubName(msgspec.Struct, frozen=True):
    """A repository, and the variant of its model; None for the default."""

    repo: str
    variant: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}:{self.variant}" if self.variant else self.repo


class RepoFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a repository. `size` is in bytes; an `etag` of 64 digits is the sha256."""

    path: str
    size: int
    etag: str | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one model: its parts in order, and the projector of a vision model."""

    label: str
    parts: tuple[RepoFile, ...]
    projector: RepoFile | None = None

    @property
    def files(self) -> tuple[RepoFile, ...]:
        """All files: the parts and the projector."""
        return (*self.parts, self.projector) if self.projector else self.parts

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def parse_name(text: str) -> HubName | None:
    """Parse a name; None if it cannot be a name on a hub.

    No accepted name leads out of the cache's folder.
    """
    match = _NAME.fullmatch(text)
    if match is None or ".." in text or "--" in match[1] or match[1].endswith((".git", ".", "-")):
        return None
    variant = match[2]
    if variant and (variant.startswith("/") or "\\" in variant or not variant.isprintable()):
        return None
    return HubName(match[1], variant)


def without_hub(name: str) -> str:
    """Return a repository's name as the gateway knows it: without the hub's host and without `latest`."""
    for hub in HUBS:
        name = name.removeprefix(hub)
    return name.removesuffix(LATEST) if "/" in name else name


def with_tag(name: str) -> str:
    """Return a name as Ollama shows it: always with a tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def ollama_name(name: str) -> str:
    """Return the name by which Ollama identifies a model: lower case, tagged, no default registry."""
    name = name.strip().casefold()
    for prefix in ("registry.ollama.ai/", "library/"):
        name = name.removeprefix(prefix)
    return with_tag(name)


def allowed(repo: str, patterns: Iterable[str]) -> bool:
    """Whether a glob of `hub.allow` matches the repository."""
    return any(fnmatch.fnmatchcase(repo.casefold(), pattern.casefold()) for pattern in patterns)


def tag_of(path: str) -> str | None:
    """Return the quantisation in a file's name, or else in its folder's name, in upper case."""
    tags = _TAG.findall(_PART.sub("", path).removesuffix(".gguf"))
    return str(tags[-1]).upper().replace("FP16", "F16").replace("FP32", "F32") if tags else None


def choose(files: Sequence[RepoFile], variant: str | None = None, *, projector: str | None = None) -> Choice:
    """Choose the model of a variant. Raises `NoSuchVariantError`.

    A projector (an `mmproj` file) is included if the repository has one. `projector` chooses one by name or
    glob; "none" leaves it out.
    """
    models = _models(files)
    if not models:
        raise NoSuchVariantError("the repository has no GGUF file")
    found = _matching(models, variant) if variant else sorted(models, key=_preference)[:1]
    if not found:
        raise NoSuchVariantError(f"it has no {variant!r}; there are: {_shown(models)}")
    chosen = found[0]
    parts = [_by_path(files, name) for name in part_names(chosen.path)]
    if missing := [name for name, part in zip(part_names(chosen.path), parts, strict=True) if part is None]:
        raise NoSuchVariantError(f"of {chosen.path}, the part {missing[0]} is missing")
    return Choice(
        label=_label(chosen),
        parts=tuple(part for part in parts if part is not None),
        projector=_projector(files, chosen, projector),
    )


def choices(files: Sequence[RepoFile]) -> list[Choice]:
    """Return every model of a repository whose parts are complete."""
    found = []
    for model in _models(files):
        try:
            found.append(choose(files, model.path))
        except NoSuchVariantError:
            continue
    return found


def _models(files: Iterable[RepoFile]) -> list[RepoFile]:
    """Return the first part of each model."""
    return [
        file
        for file in files
        if file.path.lower().endswith(".gguf")
        and not is_projector(file.path)
        and "imatrix" not in file.path.lower()
        and ((part := _PART.search(file.path)) is None or int(part[1]) == 1)
    ]


def is_projector(path: str) -> bool:
    """Whether a file is the projector of a vision model, and not a model itself."""
    return "mmproj" in path.rpartition("/")[2].lower()


def _matching(models: Sequence[RepoFile], variant: str) -> list[RepoFile]:
    wanted = variant.casefold().removesuffix(".gguf")

    def closeness(file: RepoFile) -> int:
        """Rank how closely a file matches the variant; 0 means no match."""
        tag = (tag_of(file.path) or "").casefold()
        if wanted in _own_names(file):
            return 4
        if tag == wanted:
            return 3
        if tag.removeprefix("ud-") == wanted:
            return 2
        return int(any(fnmatch.fnmatchcase(name, wanted) for name in _own_names(file)))

    best = max(map(closeness, models), default=0)
    found = [file for file in models if best and closeness(file) == best]
    return sorted(found, key=lambda file: (len(file.path), file.path))


def _own_names(file: RepoFile) -> set[str]:
    path = file.path.casefold().removesuffix(".gguf")
    unsplit = _PART.sub("", file.path.casefold()).removesuffix(".gguf")
    return {path, path.rpartition("/")[2], unsplit, unsplit.rpartition("/")[2]}


def _preference(file: RepoFile) -> tuple[int, int, int, str]:
    tag = (tag_of(file.path) or "").removeprefix("UD-")
    place = DEFAULT_ORDER.index(tag) if tag in DEFAULT_ORDER else len(DEFAULT_ORDER)
    return place, len(file.path), file.size, file.path


def _projector(files: Iterable[RepoFile], model: RepoFile, wanted: str | None) -> RepoFile | None:
    if wanted == "none":
        return None
    projectors = [file for file in files if is_projector(file.path) and file.path.lower().endswith(".gguf")]
    if wanted is not None:
        if found := _matching(projectors, wanted):
            return found[0]
        raise NoSuchVariantError(f"it has no projector {wanted!r}; there are: {_shown(projectors)}")
    folder = model.path.rpartition("/")[0]

    def preference(file: RepoFile) -> tuple[bool, int, str]:
        tag = tag_of(file.path)
        order = PROJECTOR_ORDER.index(tag) if tag in PROJECTOR_ORDER else len(PROJECTOR_ORDER)
        return file.path.rpartition("/")[0] != folder, order, file.path

    return min(projectors, key=preference, default=None)


def _by_path(files: Iterable[RepoFile], path: str) -> RepoFile | None:
    return next((file for file in files if file.path == path), None)


def _label(file: RepoFile) -> str:
    return tag_of(file.path) or _PART.sub("", file.path.rpartition("/")[2]).removesuffix(".gguf")


def _shown(files: Sequence[RepoFile]) -> str:
    labels = list(dict.fromkeys(_label(file) for file in sorted(files, key=lambda file: file.size)))
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return (", ".join(labels[:_SHOWN]) or "none") + more


def part_names(name: str) -> list[str]:
    """Return the names of all parts of a split model, given one; for an unsplit model, its own name."""
    if not (match := _SPLIT.fullmatch(name)):
        return [name]
    stem, _, count = match.groups()
    return [f"{stem}-{part:05d}-of-{count}{name[-5:]}" for part in range(1, int(count) + 1)]
