"""Names and settings that a user typed: found, or refused in a sentence."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence


def refuse(faults: Mapping[str, object]) -> None:
    """Raise ValueError with the first sentence whose fault is there."""
    for sentence, is_there in faults.items():
        if is_there:
            raise ValueError(sentence)


def check_choice(what: str, value: object, known: Iterable[str]) -> None:
    """Raise ValueError for what is not among the known values."""
    if value not in known:
        raise ValueError(f"Unknown {what} {value!r}: choose one of {', '.join(known)}.")


def place_of(name: str | int, known: Sequence[str], what: str) -> int:
    """The place of a name among the known ones, or of its number; case, spaces and "-" for "_" do not matter.

    ValueError for an unknown name, a `what` such as "attribute", with those that are most like it, or all.
    """
    if not isinstance(name, str):
        if not 0 <= name < len(known):
            raise ValueError(f"Unknown {what} {name}: choose from 0 to {len(known) - 1}.")
        return name
    plain, *candidates = (re.sub(r"[\s_-]+", "", text).casefold() for text in (name, *known))
    if plain in candidates:
        return candidates.index(plain)
    containing = [candidate for candidate in candidates if plain and plain in candidate]
    near = dict.fromkeys(containing + difflib.get_close_matches(plain, candidates, n=3, cutoff=0.5))
    names = [known[candidates.index(candidate)] for candidate in near][:5]
    hint = f"did you mean {' or '.join(names)}?" if names else f"choose one of {', '.join(known)}."
    raise ValueError(f"Unknown {what} {name!r}: {hint}")
