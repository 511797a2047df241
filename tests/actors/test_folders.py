"""Folders that must be written to."""

from pathlib import Path

from actors.folders import unwritable


def test_what_is_not_there_yet_can_be_made(tmp_path: Path) -> None:
    assert unwritable([("models", tmp_path / "a" / "b"), ("agents", tmp_path)]) == []
    assert list(tmp_path.iterdir()) == [], "to ask makes nothing"


def test_a_file_where_a_folder_has_to_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (one,) = unwritable([("models", tmp_path / "file" / "a"), ("agents", tmp_path / "file" / "b")])
    assert (one.folder, one.reason) == (str(tmp_path / "file"), "it is no folder")
    assert one.needed_for == ["models", "agents"], "told once"


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    (one,) = unwritable([("models", tmp_path / "link" / "a")])
    assert (one.folder, one.reason) == (str(tmp_path / "link"), "No such file or directory")
