"""What the learner has done, kept in one small file whose loss harms nothing.

The file is progress.json in the project's folder; the environment variable LESSONS_PROGRESS names another
one. It is locked and read again for every change, so two open notebooks do not overwrite each other. Damage
counts as an empty file, and a copy of it is kept; where the file cannot be written the session goes on from
memory.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from lessons_lib.files import WriteError, lock, write_whole

PATIENCE = 20  # seconds for other notebooks

# What could not be written, by file: lost with the session, and nothing worse.
_UNWRITTEN: dict[Path, dict] = {}


def path() -> Path:
    """Where the progress lives."""
    if os.environ.get("LESSONS_PROGRESS"):
        return Path(os.environ["LESSONS_PROGRESS"])
    project = Path(__file__).resolve().parents[2]
    return (project if (project / "pyproject.toml").exists() else Path.cwd()) / "progress.json"


def section(name: str) -> dict[str, Any]:
    """One part of the progress: "exercises", "guesses" or "kept"; empty where there is none."""
    part = _read().get(name)
    return part if isinstance(part, dict) else {}


def put(name: str, key: str, value: Any) -> None:
    """Store a value under section `name`; a TypeError if JSON cannot hold it."""
    json.dumps(value)
    try:
        with lock(path(), PATIENCE):
            _keep_damaged(name)
            state = _with(name, key, value)
            write_whole(path(), json.dumps(state, indent=1, ensure_ascii=False) + "\n")
        _UNWRITTEN.pop(path(), None)
    except WriteError:
        _UNWRITTEN[path()] = _with(name, key, value)


def _with(name: str, key: str, value: Any) -> dict[str, Any]:
    return {**_read(), name: {**section(name), key: value}}


def _keep_damaged(name: str) -> None:
    """Copy a file whose section cannot be read, before it is overwritten."""
    state = _parsed()
    if path().exists() and (state is None or not isinstance(state.get(name, {}), dict)):
        spare = path().with_name(f"{path().name}.damaged-{time.time_ns()}")
        write_whole(spare, path().read_bytes())
        print(f"{path()} was damaged: a copy is kept as {spare.name}.", file=sys.stderr)


def _read() -> dict[str, Any]:
    if path() in _UNWRITTEN:
        return dict(_UNWRITTEN[path()])
    return _parsed() or {}


def _parsed() -> dict[str, Any] | None:
    """What is in the file; None if that is no progress."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        state = json.loads(path().read_text(encoding="utf-8-sig"))
        return state if isinstance(state, dict) else None
    return None
