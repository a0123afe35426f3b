"""Finding a name that a user typed, and saying what was near if there is none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def place_of(name: str | int, known: Sequence[str], what: str) -> int:
    """The place of a name among the known ones, or of its number; case, spaces and "-" for "_" do not matter.

    Args:
        what: what the names are of, for the error: "attribute".

    Raises:
        ValueError: for an unknown name, with those that are most like it, or else all.
    """
    if not isinstance(name, str):
        if not 0 <= name < len(known):
            raise ValueError(f"Unknown {what} {name}: choose from 0 to {len(known) - 1}.")
        return name
    plain = {_plain(each): place for place, each in enumerate(known)}
    asked = _plain(name)
    if asked in plain:
        return plain[asked]
    parts = [each for each in plain if asked and asked in each]
    near = dict.fromkeys(parts + difflib.get_close_matches(asked, plain, n=3, cutoff=0.5))
    names = [known[plain[each]] for each in near][:5]
    hint = f"did you mean {' or '.join(names)}?" if names else f"choose one of {', '.join(known)}."
    raise ValueError(f"Unknown {what} {name!r}: {hint}")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
