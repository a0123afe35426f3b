"""Run notebooks and store their outputs: lessons, solutions and the template, or those that are named.

    python tests/refresh_notebooks.py [NAME …]      NAME: 03, 03_training, solutions/03_training, template,
                                                    or a path

Each runs from its first cell, as for a fresh learner, without a network. The outputs are tidied (no widget
views, no timestamps) and written only if every cell ran and nothing went to stderr. Then every rule that is
still broken is said, of a lesson or of a committed notebook. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import notebook_tools as tools

from lessons_lib.files import WriteError, atomic_write

SLOW_S = 5  # the text above a slower cell says how long it takes


def choose(names: list[str]) -> list[Path]:
    """The notebooks that the names stand for, all of them without names.

    Raises:
        ValueError: for a name that fits no notebook.
    """
    known = {path: _names_of(path) for path in tools.all_notebooks()}
    wanted = {name.removesuffix(".ipynb") for name in names}
    if unknown := wanted.difference(*known.values()):
        choice = ", ".join(tools.name_of(path).removesuffix(".ipynb") for path in known)
        raise ValueError(f"There is no notebook {min(unknown)!r}: choose from {choice}.")
    return [path for path, names in known.items() if not wanted or wanted & names]


def _names_of(path: Path) -> set[str]:
    stem = tools.name_of(path).removesuffix(".ipynb")
    number = "template" if stem.startswith("templates/") else stem.rpartition("/")[2].partition("_")[0]
    return {stem, f"notebooks/{stem}", str(path.with_suffix("")), number}


def refresh(path: Path) -> list[str]:
    """Run one notebook and write it; returns remarks.

    Raises:
        NotebookError, WriteError: the file is then as it was.
    """
    nb = tools.read(path)
    for _, cell in tools.code_cells(nb):
        cell.outputs, cell.execution_count = [], None
    with tempfile.TemporaryDirectory() as folder:
        seconds = tools.execute(nb, path.parent, Path(folder, "progress.json"))
    remarks = [f"{seconds:6.1f} s"]
    if seconds > tools.limit_of(nb):
        remarks.append(f"over the limit of {tools.limit_of(nb)} s")
    remarks += _unannounced(nb)
    _refuse_stderr(nb)
    tools.tidy(nb)
    with atomic_write(path) as temporary:
        temporary.write_text(nbformat.writes(nb) + "\n", encoding="utf-8", newline="\n")
    return remarks


def _refuse_stderr(nb: nbformat.NotebookNode) -> None:
    for index, cell in tools.code_cells(nb):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                said = output.text.strip().splitlines()[0][:160]
                raise tools.NotebookError(f"cell {index + 1} writes to stderr: {said}")


def _unannounced(nb: nbformat.NotebookNode) -> list[str]:
    """Slow cells whose text above does not say so."""
    found = []
    for index, seconds in tools.seconds_of_cells(nb).items():
        above = nb.cells[index - 1].source if index else ""
        if nb.metadata.get("lesson", {}).get("solutions"):
            continue  # nobody waits for what is read
        if seconds > SLOW_S and not re.search(r"\d+\s*(s\b|seconds)|a few seconds", above):
            found.append(f"cell {index + 1} takes {seconds:.0f} s and the cell above does not say so")
    return found


def violations(path: Path) -> list[tools.Violation]:
    """The rules that the notebook breaks as it lies on the disk."""
    nb, name = tools.read(path), tools.name_of(path)
    anatomy = [] if tools.is_free(nb, path) else tools.anatomy(name, nb)
    return anatomy + tools.hygiene(name, nb, path.parent)


def main(words: list[str]) -> int:
    """Refresh what is named; goes on after a failure, and returns 1 if there was one or a rule is broken."""
    parser = argparse.ArgumentParser(
        prog="make notebooks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    try:
        chosen = choose(parser.parse_args(words).names)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    failed, broken, begun = 0, 0, time.perf_counter()
    for path in chosen:
        found = []
        try:
            said = "; ".join(refresh(path))
            found = violations(path)
        except (tools.NotebookError, WriteError) as error:
            failed += 1
            said = f"FAILED: {error}; the file is as it was"
        print(f"{tools.name_of(path):<42} {said}", *found, sep="\n    ", flush=True)
        broken += len(found)
    total = f"{time.perf_counter() - begun:6.1f} s"
    print(f"{'total':<42} {total}; {len(chosen)} notebooks, {failed} failed, {broken} violations")
    return 1 if failed or broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
