"""What the learner has done, kept in one small file whose loss harms nothing.

The file is progress.json in the project's folder; the environment variable LESSONS_PROGRESS names another
one. It is read again before every change, so two open notebooks do not overwrite each other. Damage counts as
an empty file, and where it cannot be written the session goes on from memory.
"""

import json
import os
from pathlib import Path
from typing import Any

from lessons_lib.files import WriteError, atomic_write

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
    state = _read()
    state[name] = {**section(name), key: value}
    text = json.dumps(state, indent=1, ensure_ascii=False)
    try:
        with atomic_write(path()) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        _UNWRITTEN.pop(path(), None)
    except WriteError:
        _UNWRITTEN[path()] = state


def _read() -> dict[str, Any]:
    if path() in _UNWRITTEN:
        return dict(_UNWRITTEN[path()])
    try:
        state = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}
