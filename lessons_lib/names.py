"""Finding a name that a user typed, and saying what was near if there is none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def place_of(name: str | int, known: Sequence[str], what: str) -> int:
    """The place of a name among the known ones, or of its number; case, spaces and "-" for "_" do not matter.

    ValueError for an unknown name, with those that are most like it, or else all; `what` says what the names
    are of: "attribute".
    """
    if not isinstance(name, str):
        if not 0 <= name < len(known):
            raise ValueError(f"Unknown {what} {name}: choose from 0 to {len(known) - 1}.")
        return name
    places = {_plain(candidate): place for place, candidate in enumerate(known)}
    plain = _plain(name)
    if plain in places:
        return places[plain]
    containing = [candidate for candidate in places if plain and plain in candidate]
    near = dict.fromkeys(containing + difflib.get_close_matches(plain, places, n=3, cutoff=0.5))
    names = [known[places[candidate]] for candidate in near][:5]
    hint = f"did you mean {' or '.join(names)}?" if names else f"choose one of {', '.join(known)}."
    raise ValueError(f"Unknown {what} {name!r}: {hint}")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
