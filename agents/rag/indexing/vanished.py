"""Which documents stay though their files are gone: so many at once that a mount may be missing."""

from collections.abc import Collection

from agents.rag.indexing.folders import FolderListing

FEW = 3
"""Files that may always vanish at once, as long as others are left in their folder."""


def kept_documents(lost: Collection[str], count: int, listing: FolderListing) -> set[str]:
    """Those of the `lost` documents, of `count` that there were, that had better be kept. All are names.

    All of them, if most of the folder is gone; else those of folders below it that are there, and empty.
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
