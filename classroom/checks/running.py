"""Calling a learner's function: stopped when it never ends, its error caught, its line found."""

import contextvars
import ctypes
import dis
import functools
import inspect
import linecache
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any

LIMIT_S = 10.0
WARM = "grad_outputs", "func", "vmap", "optim", "Adam", "AdamW", "SGD"  # names in a code
GRACE_S = 2.0


class Stopped(BaseException):
    """Raised inside a function that took too long; a BaseException, which `except Exception` lets pass."""


class TookTooLong(Exception):
    """The time limit has passed; the argument is the line where the learner's function was, or None."""


def call_with_limit(work: Callable[[], Any], code: CodeType | None, seconds: float = LIMIT_S) -> Any:
    """Run `work` in a thread and return its result, or raise what it raised.

    A thread, because it can be stopped on every system (Windows has no alarm signal) and leaves the main
    thread free for the notebook's stop button. A loop in Python is stopped at its next step; one long call
    into C only when it returns, and until then it is left behind. `code` is that of the learner's function.

    Raises:
        TookTooLong: after `seconds`.
    """
    box: dict[str, Any] = {}

    def run() -> None:
        try:
            box["result"] = work()
        except BaseException as error:  # whatever it is, it belongs to the learner's cell, not to a thread
            box["error"] = error

    # The copied context carries the notebook's idea of which cell the learner's prints belong to.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    try:
        end = time.monotonic() + seconds
        while thread.is_alive() and time.monotonic() < end:
            thread.join(0.1)  # short, or Windows would not hear the stop button
        if thread.is_alive():
            frames = traceback.walk_stack(sys._current_frames().get(thread.ident))
            line = _deepest(reversed(list(frames)), code)
            _stop(thread)
            raise TookTooLong(line)
    except KeyboardInterrupt:
        _stop(thread)
        raise
    if "error" in box:
        raise box["error"]
    return box["result"]


def _stop(thread: threading.Thread) -> None:
    """Raise Stopped inside the thread, again and again in case its code catches everything."""
    end = time.monotonic() + GRACE_S
    while thread.is_alive() and time.monotonic() < end:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stopped))
        thread.join(0.1)


def code_of(function: Callable) -> CodeType | None:
    """The code of a function, looked for under partials, wrappers and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    return getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)


def warm_up(code: CodeType | None) -> None:
    """Import what optimizers and two ways to a gradient import when first used, before a check's clock runs.

    It takes seconds, on a busy machine more than a check may take, and stopped midway it stays broken.
    """
    words = repr((code.co_names, code.co_consts)) if code else ""
    if any(f"'{word}'" in words for word in WARM):
        import torch._dynamo  # noqa: F401


def is_stub(function: Callable) -> bool:
    """Whether the body does nothing: `...`, `pass`, a docstring, or a return of None or `...`."""
    code = code_of(function)
    return code is not None and all(value in (None, ...) for _, value in _instructions(code))


def same_body(one: Callable, other: Callable) -> bool:
    """Whether two functions do the same, whatever their comments, docstrings and names of local variables."""
    codes = code_of(one), code_of(other)
    return None not in codes and _instructions(codes[0]) == _instructions(codes[1])


def _instructions(code: CodeType) -> list[tuple[str, Any]]:
    found = []
    for instruction in dis.get_instructions(code):
        local = "FAST" in instruction.opname or "DEREF" in instruction.opname
        jumps = instruction.opcode in dis.hasjrel  # to a place that depends on how a call is compiled
        value = instruction.arg if local else None if jumps else instruction.argval
        # A call on a name that the same file imports is compiled in another way than in a notebook's cell.
        name = "LOAD_ATTR" if instruction.opname == "LOAD_METHOD" else instruction.opname
        if name not in ("RESUME", "NOP", "EXTENDED_ARG", "PUSH_NULL"):
            found.append((name, None if name == "RETURN_VALUE" else value))
    return found


def line_of(error: BaseException, code: CodeType | None) -> str | None:
    """The deepest line in the learner's cell that the error passed through."""
    return _deepest(traceback.walk_tb(error.__traceback__), code)


def line_of_return(code: CodeType | None) -> str | None:
    """The line of a function's `return`, or its last line if there is none; None if there are several."""
    if code is None:
        return None
    lines, line = set(), code.co_firstlineno
    for instruction in dis.get_instructions(code):
        line = instruction.starts_line if isinstance(instruction.starts_line, int) else line
        # From Python 3.13 on starts_line is a bool, and the number stands in line_number.
        line = getattr(instruction, "line_number", None) or line
        if instruction.opname.startswith("RETURN_") and instruction.opname != "RETURN_GENERATOR":
            lines.add(line)
    return _told(lines.pop(), code) if len(lines) == 1 else None


def _deepest(frames: Iterable[tuple[FrameType, int]], code: CodeType | None) -> str | None:
    lines = [
        line for frame, line in frames if code is not None and frame.f_code.co_filename == code.co_filename
    ]
    return _told(lines[-1], code) if lines else None


def _told(line: int, code: CodeType) -> str:
    text = linecache.getline(code.co_filename, line).strip()
    return f"line {line}: {text}" if text else f"line {line}"
