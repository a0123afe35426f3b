"""files.py: a file is replaced whole or not at all."""

import errno
import os

import pytest

from lessons_lib.files import WriteError, atomic_write, remove_leftovers


def write(path, text, fail=None):
    with atomic_write(path) as temporary:
        temporary.write_text(text)
        if fail:
            raise fail


def test_a_file_is_written_whole_beside_its_place_with_its_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    write(path, "one")
    write(path, "two")
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["a.json"]
    with atomic_write(tmp_path / "a.png") as temporary:
        temporary.touch()
        assert temporary.name == "a.png" and temporary.parent.parent == tmp_path


@pytest.mark.parametrize(
    "failure", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, failure):
    path = tmp_path / "a.txt"
    write(path, "old")
    with pytest.raises((WriteError, type(failure))):
        write(path, "new", failure)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_what_cannot_be_written_is_one_sentence_with_the_path(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(WriteError, match=r"^\S*a\.txt cannot be written: No space left on device\.$"):
        write(path, "new", OSError(errno.ENOSPC, "No space left on device"))
    assert not path.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        write(tmp_path / "file" / "a.txt", "x")
    assert os.listdir(tmp_path) == ["file"]


def test_leftovers_of_a_killed_process_go_and_other_hidden_files_stay(tmp_path):
    context = atomic_write(tmp_path / "checkpoint.pt")
    leftover = context.__enter__()
    leftover.write_text("half")
    others = [".gitignore", ".my-notes.tmp", ".my-12345678.tmp", "a-12345678.tmp.pt", "checkpoint.pt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    remove_leftovers(tmp_path)
    assert not leftover.parent.exists() and sorted(os.listdir(tmp_path)) == sorted(others)
