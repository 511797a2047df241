"""Decides which documents stay although their files are gone, because a mount may be missing."""

from collections.abc import Collection

from agents.rag.indexing.folders import FolderListing

FEW = 3
"""Number of files that may always vanish at once, if others are left in their folder."""


def kept_documents(lost: Collection[str], count: int, listing: FolderListing) -> set[str]:
    """Return the names among `lost`, of `count` documents, that should be kept.

    If most of the folder is gone, all of them; otherwise those in existing but empty subfolders.
    """
    if not listing.files or (len(lost) >= FEW and 2 * len(lost) > count):
        return set(lost)
    occupied = {folder for name in listing.files for folder in _folders_of(name)}
    emptied: dict[str, set[str]] = {}
    for name in lost:
        for folder in _folders_of(name):
            if folder in listing.folders and folder not in occupied:
                emptied.setdefault(folder, set()).add(name)
    return {name for names in emptied.values() if len(names) >= FEW for name in names}


def _folders_of(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
