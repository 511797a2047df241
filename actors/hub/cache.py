"""The hub's cache on the disk, in huggingface_hub's own layout, so that both can use the same files.

    <cache>/models--<org>--<repo>/refs/<revision>              the commit that a revision was at
                                  snapshots/<commit>/<path>    links to
                                  blobs/<etag>                 the files
                                  blobs/<etag>.incomplete      the part of a file that has arrived
    <cache>/.locks/models--<org>--<repo>/<etag>.lock

https://huggingface.co/docs/huggingface_hub/guides/manage-cache describes the layout. All functions block.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from actors.config.schema import HubSettings
from actors.model_names import Choice, HubName, NoSuchVariantError, RepoFile, choices, choose

PREFIX = "models--"


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A model on the disk: its first part, its projector, and the name of the chosen variant."""

    path: Path
    projector: Path | None = None
    label: str = ""


class CachedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A complete model in the cache."""

    name: HubName
    path: Path
    size: int


def default_folder() -> Path:
    """Return the folder of huggingface_hub's cache, by the same environment variables."""
    if folder := os.environ.get("HF_HUB_CACHE"):
        return Path(folder).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


class ModelCache:
    """A cache of models in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob(self, repo: str, etag: str) -> Path:
        """Return the path of a file's bytes."""
        return self._repo_folder(repo) / "blobs" / etag

    def lock(self, repo: str, etag: str) -> Path:
        """Return the lock of a file's download."""
        return self.folder / ".locks" / self._repo_folder(repo).name / f"{etag}.lock"

    def pointer(self, repo: str, commit: str, path: str) -> Path:
        """Return the path of a file under its own name."""
        return self._repo_folder(repo) / "snapshots" / commit / path

    def link(self, repo: str, commit: str, file: RepoFile) -> Path:
        """Link a blob to its own name."""
        assert file.etag is not None
        blob, pointer = self.blob(repo, file.etag), self.pointer(repo, commit, file.path)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        if not pointer.exists():
            pointer.unlink(missing_ok=True)
            try:
                pointer.symlink_to(os.path.relpath(blob, pointer.parent))
            except OSError:  # the file system has no links
                shutil.move(blob, pointer)
        return pointer

    def set_revision(self, repo: str, revision: str, commit: str) -> None:
        """Record the commit of a revision."""
        reference = self._repo_folder(repo) / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)

    def find(self, name: HubName, revision: str, projector: str | None) -> ModelFiles | None:
        """Return the model as it was last fetched at this revision, if it is complete."""
        snapshot = self._snapshot(self._repo_folder(name.repo), revision)
        if snapshot is None:
            return None
        try:
            choice = choose(_files(snapshot), name.variant, projector=projector)
        except NoSuchVariantError:
            return None
        return ModelFiles(
            path=snapshot / choice.parts[0].path,
            projector=snapshot / choice.projector.path if choice.projector else None,
            label=choice.label,
        )

    def models(self) -> list[CachedModel]:
        """Return every complete model of every repository, at the revision `main`."""
        found = []
        for repo, folder in self._repos():
            if snapshot := self._snapshot(folder, "main"):
                for choice in choices(_files(snapshot)):
                    path = snapshot / choice.parts[0].path
                    found.append(CachedModel(name=HubName(repo, choice.label), path=path, size=choice.size))
        return found

    def size(self) -> int:
        """Return the bytes of all blobs, complete and partial."""
        return sum(_blob_bytes(folder) for _, folder in self._repos())

    def remove(self, name: HubName) -> int:
        """Remove a model, or the whole repository if no variant is named; return the freed bytes.

        Raises `NoSuchVariantError`.
        """
        folder = self._repo_folder(name.repo)
        if not folder.is_dir():
            raise NoSuchVariantError(f"{name.repo} is not in {self.folder}")
        before = _blob_bytes(folder)
        if name.variant is None:
            shutil.rmtree(folder)
            return before
        try:
            choice = self._chosen(folder, name.variant)
        except NoSuchVariantError as error:
            partial = any((folder / "blobs").glob("*.incomplete"))
            hint = f"; what has arrived of others goes with all of {name.repo}" if partial else ""
            raise NoSuchVariantError(f"{error}{hint}") from None
        self._remove_files(folder, choice)
        return before - _blob_bytes(folder)

    def _chosen(self, folder: Path, variant: str) -> Choice:
        snapshot = self._snapshot(folder, "main")
        return choose(_files(snapshot) if snapshot else [], variant)

    @staticmethod
    def _remove_files(folder: Path, choice: Choice) -> None:
        for part in choice.parts:
            for pointer in (folder / "snapshots").glob(f"*/{part.path}"):
                pointer.unlink()
        used = {pointer.resolve() for pointer in (folder / "snapshots").rglob("*") if pointer.is_symlink()}
        for blob in (folder / "blobs").glob("*"):
            if blob.resolve() not in used and blob.suffix != ".incomplete":
                blob.unlink()

    def _repos(self) -> Iterator[tuple[str, Path]]:
        for folder in sorted(self.folder.glob(f"{PREFIX}*")):
            repo = folder.name.removeprefix(PREFIX).replace("--", "/", 1)
            if folder.is_dir() and "/" in repo:
                yield repo, folder

    def _repo_folder(self, repo: str) -> Path:
        """Return the folder of a repository, whose letter case does not matter, as on the hub."""
        exact = self.folder / (PREFIX + repo.replace("/", "--"))
        if exact.is_dir():
            return exact
        for known, folder in self._repos():
            if known.casefold() == repo.casefold():
                return folder
        return exact

    @staticmethod
    def _snapshot(folder: Path, revision: str) -> Path | None:
        try:
            commit = (folder / "refs" / revision).read_text().strip()
        except (OSError, ValueError):  # ValueError: the content is no text, or the revision no file's name
            commit = revision
        snapshot = folder / "snapshots" / commit
        return snapshot if commit and "/" not in commit and snapshot.is_dir() else None


def _files(snapshot: Path) -> list[RepoFile]:
    return [
        RepoFile(path=str(PurePosixPath(path.relative_to(snapshot))), size=path.stat().st_size)
        for path in sorted(snapshot.rglob("*.[gG][gG][uU][fF]"))
        if path.is_file()
    ]


def _blob_bytes(folder: Path) -> int:
    """Return the bytes of the repository's own blobs, without links into a shared store."""
    blobs = (folder / "blobs").glob("*")
    return sum(blob.stat().st_size for blob in blobs if not blob.is_symlink())


def cache_of(settings: HubSettings) -> ModelCache:
    """Return the cache for these settings."""
    return ModelCache(Path(settings.cache_dir).expanduser() if settings.cache_dir else default_folder())
