"""Writing files so that a crash, a full disk, Ctrl-C or a second writer never leaves half of one behind."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


class WriteError(RuntimeError):
    """A file that cannot be written; the message is one sentence for the user."""


class Locked(WriteError):
    """A file or folder that another process, or another training of this one, is writing."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path of the same name in a temporary folder; the file there replaces `path` at the end.

    WriteError if it cannot be written (no permission, disk full); `path` is then as before.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Cut, or its own name could be too long where the file's is not.
        with tempfile.TemporaryDirectory(".tmp", f".{path.stem[:30]}-", path.parent) as folder:
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
    folders = (path, *path.parents) if is_folder else path.parents
    try:
        if path.exists() and path.is_dir() != is_folder:
            raise WriteError(f"{path} cannot be written: it is a {'file' if is_folder else 'folder'}.")
        beside = next(folder for folder in folders if folder.exists())
        with tempfile.TemporaryDirectory(".tmp", ".try-", beside) as folder:
            for name in path.relative_to(beside).parts:  # too long, or with what no name may have
                Path(folder, name).touch()
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def lock(path: str | os.PathLike, patience: float = 0.0, *, is_folder: bool = False) -> Iterator[None]:
    """One writer at a time of a file (or folder); Locked after `patience` seconds beside another.

    The system holds the lock, on a file .NAME.lock beside (of a folder: in it), and drops it however its
    owner ends: nothing stale can be left. Where a file system knows no locks, there is none.
    """
    path, deadline = Path(path), time.monotonic() + patience
    file = path / ".lock" if is_folder else path.with_name(f".{path.name[:200]}.lock")
    while (handle := _try_lock(path, file)) is None:
        if time.monotonic() >= deadline:
            raise Locked(f"{path} is being written by another process: wait for it, or name another place.")
        time.sleep(0.01)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no file that is open: there it is left, unlocked
            file.unlink()
        os.close(handle)


def _try_lock(path: Path, file: Path) -> int | None:
    """The handle of a locked file, or None if another has it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        # It may have been removed, and another made, between the two.
        if not fcntl or os.stat(file).st_ino == os.fstat(handle).st_ino:
            return handle
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass
    except OSError:
        return handle  # no locks here
    os.close(handle)
    return None


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary folders that a killed process left in `folder`."""
    for leftover in folder.glob(".*-????????.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
