"""What every sweep does: lists read from the command line, and a table that is written after every row.

A row that is there is not measured again: a sweep that was stopped goes on where it was.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import typer

from lessons_lib import weights
from lessons_lib.cli.common import check_writable
from lessons_lib.cli.evaluating import Judge
from lessons_lib.files import atomic_write
from lessons_lib.pipeline import GenerationRequest

Row = dict[str, str]
Key = tuple[str, str]  # the command that measures a row, and the weights that it was measured with


# -- reading the options ---------------------------------------------------------------------------


def check_table_name(out: Path | None) -> Path:
    """Raise ValueError unless a sweep's --out is the name of a table."""
    if out is None or out.suffix.lower() != ".csv":
        got = "nothing" if out is None else repr(str(out))
        raise ValueError(f"A sweep needs --out with a name that ends in .csv, got {got}.")
    return out


def check_in_place_of(given: dict, instead: dict[str, str], also_single: tuple[str, ...] = ()) -> None:
    """Raise ValueError for an option of one setting in a sweep, or a list without a sweep.

    Args:
        given: the options by name; one of a single setting that was not given is None or "cfg".
        instead: what a single setting is called, and the list that a sweep takes in its place.
        also_single: flags that go with a single setting only.
    """
    sweep = given["sweep"]
    for single, several in instead.items():
        if not sweep and given[several] is not None:
            raise ValueError(f"--{option(several)} belongs to a sweep: add --sweep.")
        if sweep and given[single] not in (None, "cfg"):
            raise ValueError(f"A sweep takes --{option(several)}, not --{option(single)}.")
    if not sweep and given["out"] is not None:
        raise ValueError("--out belongs to a sweep: add --sweep.")
    for flag in also_single:
        if sweep and given[flag]:
            raise ValueError(f"--sweep and --{flag} do not go together.")


def option(name: str) -> str:
    """The name of a variable as it is typed after two dashes."""
    return name.replace("_", "-")


def parts(text: str | None, read: Callable) -> tuple:
    """ "0,0.5,1" -> each part read, in order, without repetitions; (None,) if nothing was given."""
    return (None,) if text is None else tuple(dict.fromkeys(read(part.strip()) for part in text.split(",")))


def one_of(known: tuple[str, ...], what: str) -> Callable[[str], str]:
    """Reads a part that must be one of these words."""

    def read(part: str) -> str:
        if part not in known:
            raise ValueError(f"Unknown {what} {part!r}: choose from {', '.join(known)}.")
        return part

    return read


def scale(part: str) -> float:
    """Reads a part of --scales."""
    try:
        return float(part)  # whether it is finite and suits the method, the request says
    except ValueError:
        raise ValueError(f"{part!r} in --scales is not a number.") from None


def whole_number(where: str) -> Callable[[str], int]:
    """Reads a part of a list of whole numbers."""

    def read(part: str) -> int:
        try:
            return int(part)
        except ValueError:
            raise ValueError(f"{part!r} in --{where} is not a whole number.") from None

    return read


# -- the table -------------------------------------------------------------------------------------


def fill(
    out: Path,
    columns: tuple[str, ...],
    plan: dict[Key, object],
    measure: Callable[[object, Key], tuple[Row, str]],
    draw: Callable[[list[Row]], object],
) -> None:
    """Measure what the table does not hold yet, and draw all that it holds.

    Args:
        plan: what to measure for each row.
        measure: gives the row and what to tell of it.
        draw: the figure of all rows.

    Raises:
        ValueError, WriteError: before the first row, if there is another file or none can be written.
    """
    picture, rows = out.with_suffix(".png"), read_rows(out, columns)
    check_writable(picture)
    there = {(row["command"], row["weights_sha256"]) for row in rows}
    left = {key: plan[key] for key in plan if key not in there}
    if len(left) < len(plan):
        print(f"{len(plan) - len(left)} of {len(plan)} combinations are in {out} already.", flush=True)
    try:
        for count, (key, wanted) in enumerate(left.items(), start=1):
            row, told = measure(wanted, key)
            rows = [old for old in rows if old["command"] != key[0]] + [row]
            write_rows(out, rows, columns)
            print(f"{count} of {len(left)}: {told}", flush=True)
    except KeyboardInterrupt:
        print(f"Stopped by Ctrl-C: {len(rows)} rows are in {out}, and the same command goes on.")
        raise typer.Exit(130) from None
    with atomic_write(picture) as temporary:
        draw(rows).savefig(temporary, facecolor="white")
    print(f"The table is {out}, its picture {picture}.")


def read_rows(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """The rows of a sweep's table; none if there is no file yet.

    Raises:
        ValueError: if the file is something else.
        WriteError: if it cannot be written later.
    """
    check_writable(path)
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        suits = tuple(reader.fieldnames or ()) == columns and all(row[columns[-1]] for row in rows)
    except (ValueError, csv.Error):  # not even text
        suits = False
    if not suits:
        raise ValueError(f"{path} is no table of a sweep: name another --out, or delete it.")
    return rows


def write_rows(path: Path, rows: list[Row], columns: tuple[str, ...]) -> None:
    """Write the whole table, or leave the old one."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def texts(row: dict) -> Row:
    """A row as it stands in the table: nothing for None."""
    return {name: "" if value is None else str(value) for name, value in row.items()}


def shas(request: GenerationRequest, judge: Judge) -> str:
    """Of denoiser, classifier and judge, shortened: a row of other weights is an old one."""
    names = [request.weights, *([request.classifier] if request.is_steered else [])]
    every = [*(weights.read_card(name)["sha256"] for name in names), judge.sha256]
    return " ".join(sha[:12] for sha in every)
