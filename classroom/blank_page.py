"""What lesson 14 needs besides its cells: an import guard, and a reader of whatever a sampler gives."""

import builtins
from collections.abc import Iterator

from torch import Tensor

COURSE = ("lessons_lib", "classroom")
BLOCKED = (
    "This lesson starts from a blank page: take torch, the standard library and what the set-up handed you."
)
MOST_STATES = 10_000  # of a sampler that never ends


def block_the_library() -> None:
    """Refuse, from now on, imports of the course that stand in a notebook's cell; its own files go on."""
    if hasattr(builtins.__import__, "unguarded"):
        return
    unguarded = builtins.__import__

    def guarded(name, globals=None, locals=None, fromlist=(), level=0):
        if name.split(".")[0] in COURSE and (globals or {}).get("__name__") == "__main__":
            raise ImportError(BLOCKED)
        return unguarded(name, globals, locals, fromlist, level)

    guarded.unguarded = unguarded
    builtins.__import__ = guarded


def states_of(result, x_T: Tensor) -> list[Tensor]:
    """The states [B, ...] of a sampler that returns or yields them, alone or in tuples with other things.

    A tensor may be the picture alone or all states stacked. What is none of this gives an empty list.
    """
    if isinstance(result, Tensor):
        result = [result] if result.shape == x_T.shape else list(result) if result.ndim > x_T.ndim else []
    if not isinstance(result, (list, tuple, Iterator)):
        return []
    found = []
    for one in result:
        parts = one if isinstance(one, tuple) else (one,)
        state = next((part for part in parts if isinstance(part, Tensor) and part.shape == x_T.shape), None)
        if state is None or len(found) > MOST_STATES:
            return []
        found.append(state.detach().clone())
    return found
