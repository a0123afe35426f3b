"""Writing files so that a crash, a full disk or Ctrl-C never leaves half of one behind."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


class WriteError(RuntimeError):
    """A file that cannot be written; the message is one sentence for the user."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path of the same name in a temporary folder; the file there replaces `path` at the end.

    WriteError if it cannot be written (no permission, disk full); `path` is then as before.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".tmp", f".{path.stem}-", path.parent) as folder:
            temporary = Path(folder, path.name)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())  # or a power cut could leave the new name with no content
            os.replace(temporary, path)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_whole(path: str | os.PathLike, content: bytes | str) -> None:
    """Write a file, texts as UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(path: Path, *, is_folder: bool = False) -> None:
    """Raise WriteError now, before hours of work, if a file (or folder) cannot be written; leaves nothing."""
    if path.exists() and path.is_dir() != is_folder:
        raise WriteError(f"{path} cannot be written: it is a {'file' if is_folder else 'folder'}.")
    folders = (path, *path.parents) if is_folder else path.parents
    try:
        with tempfile.TemporaryFile(dir=next(folder for folder in folders if folder.exists())):
            pass
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}.") from error


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary folders that a killed process left in `folder`."""
    for leftover in folder.glob(".*-????????.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
