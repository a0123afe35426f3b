"""python -m classroom check: the exercises in learners' notebooks, run and judged, for teachers.

The sources of a notebook run in a fresh kernel; its stored outputs are not believed. Most of a lesson is of
no use to its exercises, and some of it trains for half a minute. So at first only these cells run: guard and
set-up, the exercises, and what the course's own notebook does not hold, which the learner wrote. Of the other
cells the import statements run. Only if a name is missing then, everything before the exercises runs.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nbformat import NotebookNode

import classroom
from classroom import kernels
from classroom.checks import EXERCISES
from classroom.kernels import Job, Ran

CELL_LIMIT_S = 60  # of a learner's cell; the check itself stops a learner's function earlier
COURSE_LIMIT_S = 300  # of the course's own cells and of imports: nobody's fault on a slow machine
COURSE = Path(classroom.__file__).resolve().parent.parent
SKIPPED_TAGS = {"widget", "reveal", "picture", "measure"}  # no exercise needs what they show
BEST_FIRST = ("right", "wrong", "error", "not started", "missing")
RESULT = re.compile(
    r"^\[(right|wrong|error|not started)\] Exercise ([\w.]+?): (.*)(?:\n {4}(line \d.*))?$", re.MULTILINE
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Cell:
    """A code cell of a learner's notebook; `number` counts all cells from 1."""

    number: int
    source: str
    tags: frozenset[str] = frozenset()
    exercise: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Of an exercise: the status is one of BEST_FIRST."""

    status: str
    message: str
    line: str | None = None


# ---- the command ----


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m classroom", description=__doc__.splitlines()[0])
    command = parser.add_subparsers(required=True, metavar="check").add_parser(
        "check",
        help="check the exercises in learners' notebooks",
        description="Check the exercises in learners' notebooks: this RUNS THE CODE in them on your machine. "
        "Each notebook runs in a fresh Python without changing it or your progress, a cell for 60 s at most. "
        "The exit status is 0 if every exercise is right, 1 if some is not, 2 if one cannot be checked.",
    )
    command.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK", help="in any folder")
    command.add_argument(
        "--class", action="store_true", dest="together", help="a table of exercise by diagnosis, worst first"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    asked = parser.parse_args(arguments)
    try:
        return run(asked.notebooks, asked.json, asked.together)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def run(paths: list[Path], as_json: bool, together: bool = False) -> int:
    """Check notebooks and print what was found; returns 0 if all is right, 1 if not, 2 for a user's error."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a learner's line may hold what a Windows file cannot
    told: dict[str, dict] = {}
    for path in dict.fromkeys(paths):
        try:
            outcomes, remarks = check(path)
        except ValueError as error:
            told[str(path)] = {"error": str(error)}
            print(error, file=sys.stderr, flush=True)
            continue
        told[str(path)] = {"exercises": {k: _told(k, one) for k, one in outcomes.items()}, "remarks": remarks}
        if not (as_json or together):
            print("\n".join(_lines(path, outcomes, remarks)), flush=True)
    found = [one["status"] for each in told.values() for one in each.get("exercises", {}).values()]
    failed = sum("error" in each for each in told.values())
    if as_json:
        print(json.dumps({"class": of_class(told)} if together else {"notebooks": told}, indent=1))
    elif found:
        for number, diagnoses in of_class(told).items() if together else ():
            of = sum(diagnoses.values())
            print(f"{number} {EXERCISES[number].title}: {diagnoses.pop('right', 0)} of {of} right")
            print("".join(f"{count:>5}  {diagnosis}\n" for diagnosis, count in diagnoses.items()), end="")
        right, many = found.count("right"), len(told) - failed
        print(f"{right} of {len(found)} exercises right in {many} notebook{'s' if many > 1 else ''}.")
    return 2 if failed else int(any(status != "right" for status in found))


def of_class(told: dict[str, dict]) -> dict[str, dict[str, int]]:
    """Of each exercise how many have each diagnosis, the most frequent first; the worst exercise first."""
    counted: dict[str, Counter] = {}
    for each in told.values():
        for number, one in each.get("exercises", {}).items():
            plain = one["status"] in ("right", "not started")
            diagnosis = one["status"] if plain else f"{one['status']}: {one['message']}"
            counted.setdefault(number, Counter())[diagnosis] += 1
    worst = sorted(counted, key=lambda number: (counted[number]["right"] / counted[number].total(), number))
    return {number: dict(counted[number].most_common()) for number in worst}


def _told(number: str, outcome: Outcome) -> dict:
    return {"title": EXERCISES[number].title, **asdict(outcome)}


def _lines(path: Path, outcomes: dict[str, Outcome], remarks: list[str]) -> Iterator[str]:
    yield str(path)
    for number, one in outcomes.items():
        line = f" [{one.line}]" if one.line else ""
        yield f"  {number:<6}{one.status:<13}{EXERCISES[number].title}: {one.message}{line}"
    yield from (f"  {remark}" for remark in remarks)


def check(path: Path) -> tuple[dict[str, Outcome], list[str]]:
    """Run a learner's notebook; returns the outcome of each exercise, and remarks on cells that were stopped.

    Raises:
        ValueError: if it cannot be read or holds no exercises.
    """
    lesson, cells = read(path)
    where = {number: [cell for cell in cells if belongs(cell, number)] for number in EXERCISES}
    asked = [number for number in EXERCISES if where[number] or number.startswith(f"{lesson}.")]
    if not asked:
        raise ValueError(f"{path} holds no exercises of this course.")
    of_exercises = {cell.number for number in asked for cell in where[number]}
    cells = [cell for cell in cells if cell.number <= max(of_exercises, default=0)]
    course = course_sources(lesson)
    folder = COURSE / "notebooks"  # from here the guard finds the course
    for everything in (False, True):
        jobs = plan(cells, of_exercises, course, everything)
        ran = kernels.execute(jobs, folder if folder.is_dir() else COURSE)
        outcomes = {number: judge(number, where[number], ran) for number in asked}
        if not course or not misses_a_name(outcomes, ran):
            break
    remarks = [f"Cell {n} {one.end}." for n, one in ran.items() if one.end and n not in of_exercises]
    return outcomes, remarks


# ---- reading ----


def read(path: Path) -> tuple[str, list[Cell]]:
    """The number of a notebook's lesson ("" if it has none) and its code cells.

    Raises:
        ValueError: one sentence, if it is missing or no notebook.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        cells = [
            Cell(number, "".join(cell["source"]), *_labels(cell.get("metadata", {})))
            for number, cell in enumerate(content["cells"], start=1)
            if cell["cell_type"] == "code"
        ]
        lesson = content.get("metadata", {}).get("lesson", {}).get("number", "")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is no notebook, or it is damaged.") from None
    return str(lesson), [cell for cell in cells if cell.source.strip()]


def _labels(metadata: dict) -> tuple[frozenset[str], str | None]:
    return frozenset(metadata.get("tags", [])), metadata.get("exercise")


def course_sources(lesson: str) -> tuple[str, ...]:
    """The code cells of the course's own notebook of a lesson, without blanks at the ends."""
    for path in sorted(COURSE.glob(f"notebooks/{lesson}_*.ipynb")) if lesson.isdecimal() else ():
        return tuple(cell.source.strip() for cell in read(path)[1])
    return ()


def belongs(cell: Cell, number: str) -> bool:
    """Whether a cell carries the exercise's number, or calls its check: some editors lose the metadata."""
    return cell.exercise == number or bool(
        re.search(rf"\bchecks\.{EXERCISES[number].check_name}\(", cell.source)
    )


# ---- choosing ----


def plan(cells: list[Cell], exercises: set[int], course: tuple[str, ...], everything: bool) -> dict[int, Job]:
    """Number of a cell -> what of it runs.

    Args:
        exercises: the numbers of the exercises' cells.
        course: the sources of the course's own notebook; the first two are guard and set-up.
        everything: run the course's cells too, not only what is needed as a rule.
    """
    jobs = {}
    for cell in cells:
        source, imports = cell.source, imports_of(cell.source)
        shows = bool(SKIPPED_TAGS & cell.tags) or _only_predicts(source)
        waits = not everything and source.strip() in course[2:]
        if cell.number not in exercises and (shows or waits):
            source = imports
        patient = source.strip() in (imports, *course)
        if source:
            jobs[cell.number] = Job(source, COURSE_LIMIT_S if patient else CELL_LIMIT_S)
    return jobs


def imports_of(source: str) -> str:
    """The import statements of a cell that is left out: cells below rely on them."""
    found = [node for node in _statements(source) if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, found))


def _only_predicts(source: str) -> bool:
    calls = [node for one in _statements(source) for node in ast.walk(one) if isinstance(node, ast.Call)]
    names = {getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls}
    return "predict" in names and names <= {"predict", "display"}


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(re.sub(r"(?m)^([ \t]*)[%!].*$", r"\1pass", source)).body
    except (SyntaxError, ValueError):  # a null byte is a ValueError
        return []


# ---- judging ----


def judge(number: str, cells: list[Cell], ran: dict[int, Ran]) -> Outcome:
    """The best result that a cell shows for the exercise (what was right stays so), else what went wrong."""
    if not cells:
        return Outcome("missing", "The exercise's cell was not found.")
    found = [one for each in ran.values() for text in _texts(each.outputs) for one in _results(text, number)]
    found = found or [_failure(number, cell, ran.get(cell.number, Ran())) for cell in cells]
    return min(found, key=lambda one: BEST_FIRST.index(one.status))


def _results(text: str, number: str) -> Iterator[Outcome]:
    for status, exercise, message, line in RESULT.findall(text):
        if exercise == number:
            yield Outcome(status, message, line or None)


def _failure(number: str, cell: Cell, ran: Ran) -> Outcome:
    if ran.end:
        return Outcome("error", f"The cell {ran.end}.")
    for output in ran.outputs:
        if output.output_type == "error":
            said = re.sub(r"\s*\([^()]*line \d+\)$", "", ANSI.sub("", output.evalue).strip())
            said = (said.splitlines() or [""])[0][:200].rstrip(".")
            message = f"The cell raises {output.ename}{': ' + said if said else ''}."
            return Outcome("error", message, _line_of(output, cell, ran.count))
    return Outcome(
        "error", f"The cell shows no result: it must end in checks.{EXERCISES[number].check_name}(…)."
    )


def _line_of(error: NotebookNode, cell: Cell, count: int | None) -> str | None:
    trace = ANSI.sub("", "\n".join(error.traceback))
    numbers = re.findall(rf"Cell In\s*\[{count}\], line (\d+)", trace)
    lines = cell.source.splitlines()
    if not numbers or int(numbers[-1]) > len(lines):
        return None
    return f"line {numbers[-1]}: {lines[int(numbers[-1]) - 1].strip()}"


def misses_a_name(outcomes: dict[str, Outcome], ran: dict[int, Ran]) -> bool:
    """Whether something failed that a cell left out could have provided."""
    if not any(one.status in ("error", "wrong") for one in outcomes.values()):
        return False
    raised = {o.ename for each in ran.values() for o in each.outputs if o.output_type == "error"}
    return "NameError" in raised or any("raised NameError" in one.message for one in outcomes.values())


def _texts(outputs: list[NotebookNode]) -> Iterator[str]:
    for output in outputs:
        yield "".join(output.get("text", ""))
        yield "".join(output.get("data", {}).get("text/plain", ""))
