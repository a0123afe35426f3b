"""Writing files so that a crash, a full disk or Ctrl-C never leaves half of one behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class WriteError(RuntimeError):
    """A file that cannot be written; the message is one sentence for the user."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces `path` at the end, whole or not at all.

    The temporary file keeps the suffix, since image writers choose their format by it. WriteError if the
    folder or the file cannot be written (no permission, disk full); `path` is then as before.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=f".tmp{path.suffix}", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name with no content
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path, *, is_folder: bool = False) -> None:
    """Raise WriteError now if a file (or folder) cannot be written later; leaves nothing behind.

    Nobody should wait for an hour of work that then has nowhere to go.
    """
    if path.exists() and path.is_dir() != is_folder:
        raise WriteError(f"{path} cannot be written: it is a {'file' if is_folder else 'folder'}.")
    folder = path if is_folder else path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}.") from error


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process left in `folder`."""
    for leftover in folder.glob(".*-????????.tmp*"):  # the names that mkstemp makes above
        leftover.unlink(missing_ok=True)
