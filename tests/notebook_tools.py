"""What a lesson must have and a committed notebook must not hold, said as violations; and running notebooks.

The anatomy of a lesson is told by cell tags: header, guard, recall, reveal, misconception, by-hand, picture,
widget, measure, exercise, open-exercise, summary, further. The notebooks with the solutions have the tag
solution. The tags nbval-ignore-output, nbval-skip and raises-exception are for tools. A lesson may waive a
rule of the anatomy with a reason, in its metadata:

    {"lesson": {"number": "03", "minutes": 45, "waivers": {"widget": "its widget needs a GPU"}}}
"""

from __future__ import annotations

import ast
import copy
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
sys.path.insert(0, str(ROOT))  # so that it works before the project is installed, too
LIMIT_S = 60  # of a lesson, on two cores that do nothing else; its metadata may name another, limit_s
MOST_CELLS, MOST_LINES, MEDIAN_LINES, MOST_BYTES = 45, 20, 8, 1_000_000
FREE = ("00", "playground")  # of the anatomy, not of the hygiene
KNOWN_TAGS = {
    *("header", "guard", "recall", "reveal", "misconception", "by-hand", "picture", "widget", "measure"),
    *("exercise", "open-exercise", "summary", "further", "solution"),
    *("nbval-ignore-output", "nbval-skip", "raises-exception"),
}
PICTURES = ("image/png", "image/gif", "image/jpeg", "image/svg+xml")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
HOMES = "|".join(("root", "work", "home", "Users", "tmp", "private/var", "content"))
MACHINE_PATH = re.compile(rf"(?<![\w.~/:])/(?:{HOMES})/\w" + r"|[A-Z]:\\{1,2}Users\\|site-packages")
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
ENDS = ("iopub.execute_input", "shell.execute_reply")  # of a cell, in what the kernel notes
Found = Iterator[tuple[int | None, str]]


class Violation(NamedTuple):
    """A rule that a notebook breaks; the cell counts from 1, None is the notebook as a whole."""

    notebook: str
    cell: int | None
    rule: str
    what: str

    def __str__(self) -> str:
        where = self.notebook if self.cell is None else f"{self.notebook}, cell {self.cell}"
        return f"{where} [{self.rule}]: {self.what}"


# ---- reading ----
def lessons() -> list[Path]:
    """The lessons that exist, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def all_notebooks() -> list[Path]:
    """Lessons, playground, solutions, templates."""
    others = ("playground", "solutions/*", "templates/*")
    return lessons() + [path for name in others for path in sorted(NOTEBOOKS.glob(f"{name}.ipynb"))]


def name_of(path: Path) -> str:
    """A notebook's path below notebooks/."""
    return path.relative_to(NOTEBOOKS).as_posix() if path.is_relative_to(NOTEBOOKS) else path.name


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def tagged(nb: NotebookNode, tag: str) -> list[tuple[int, NotebookNode]]:
    """(index, cell) of the cells with that tag."""
    return [(i, cell) for i, cell in enumerate(nb.cells) if tag in tags(cell)]


def code_cells(nb: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """(index, cell) of the code cells that hold something."""
    return [(i, cell) for i, cell in enumerate(nb.cells) if cell.cell_type == "code" and cell.source.strip()]


def tree_of(cell: NotebookNode) -> ast.Module:
    """The syntax tree of a code cell; lines of IPython's own (%, !) become pass."""
    source = re.sub(r"(?m)^([ \t]*)[%!].*$", r"\1pass", cell.source)
    return ast.parse(source)


def calls(cell: NotebookNode, name: str) -> list[ast.Call]:
    """The calls `….name(…)` and `name(…)` in a code cell, in the order of the text."""
    found = [node for node in ast.walk(tree_of(cell)) if isinstance(node, ast.Call)]
    named = [one for one in found if getattr(one.func, "attr", getattr(one.func, "id", None)) == name]
    return sorted(named, key=lambda call: (call.lineno, call.col_offset))


def asked(nb: NotebookNode, name: str) -> list[tuple[int, str]]:
    """(index, id) for each checks.predict("id", …) or checks.reveal("id")."""
    return [
        (i, call.args[0].value)
        for i, cell in code_cells(nb)
        for call in calls(cell, name)
        if call.args and isinstance(call.args[0], ast.Constant)
    ]


def has_assert(cell: NotebookNode) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(tree_of(cell)))


# ---- solutions ----
def exercises_of(nb: NotebookNode, tag: str = "exercise") -> dict[str, int]:
    """Exercise id -> index of its cell."""
    return {cell.metadata.get("exercise", "?"): i for i, cell in tagged(nb, tag)}


def with_solutions(lesson: NotebookNode, solutions: NotebookNode) -> NotebookNode:
    """A copy of the lesson in which every exercise cell holds its solution.

    Raises:
        ValueError: if an exercise has no solution, or a solution no exercise.
    """
    stubs, answers = exercises_of(lesson), exercises_of(solutions, "solution")
    if set(stubs) != set(answers):
        raise ValueError(f"The lesson asks {sorted(stubs)}, the solutions answer {sorted(answers)}.")
    solved = copy.deepcopy(lesson)
    for number, index in stubs.items():
        solved.cells[index].source = solutions.cells[answers[number]].source
    return solved


# ---- the anatomy of a lesson ----
def _header(nb: NotebookNode) -> Found:
    first = nb.cells[0] if nb.cells else None
    if first is None or first.cell_type != "markdown" or "header" not in tags(first):
        yield 0, "the first cell must be Markdown with the tag header"
        return
    wanted = "You will be able to|Prerequisites|Time|GPU|Previous|Next|Map|you are here|Colab|Binder"
    for words in wanted.split("|"):
        if words.lower() not in first.source.lower():
            yield 0, f"the header does not say {words!r}"
    minutes = nb.metadata.get("lesson", {}).get("minutes")
    if not isinstance(minutes, int) or not 0 < minutes <= 60:
        yield None, f"metadata.lesson.minutes must be a number up to 60, got {minutes!r}"
    elif f"{minutes} minutes" not in first.source:
        yield 0, f"metadata.lesson.minutes says {minutes}, the header does not say '{minutes} minutes'"


def _guard(nb: NotebookNode) -> Found:
    cells = code_cells(nb)
    if not cells or "guard" not in tags(cells[0][1]):
        yield cells[0][0] if cells else None, "the first code cell must be the guard (tag guard)"


def _recall(nb: NotebookNode) -> Found:
    cells = tagged(nb, "recall")
    text = "\n".join(cell.source for _, cell in cells)
    if text.count("<details") != 3 or text.count("</details>") != 3:
        where, count = cells[0][0] if cells else None, text.count("<details")
        yield where, f"three recall questions with folded answers are needed, found {count} <details>"


def _predictions(nb: NotebookNode) -> Found:
    guesses, revealed = asked(nb, "predict"), asked(nb, "reveal")
    if len(guesses) < 2:
        yield None, f"at least two predictions before their results are needed, found {len(guesses)}"
    for index, number in guesses:
        after = [i for i, other in revealed if other == number]
        if not after:
            yield index, f"prediction {number} is never revealed: add checks.reveal({number!r})"
        elif after[0] <= index or "reveal" not in tags(nb.cells[after[0]]):
            yield after[0], f"{number} must be revealed after it was asked, in a cell with the tag reveal"
    for index, cell in tagged(nb, "reveal"):
        folded = cell.metadata.get("jupyter", {})
        if not (folded.get("outputs_hidden") and folded.get("source_hidden")):
            yield index, "its metadata.jupyter must hide source and outputs: captions give the answer away"
    mine = nb.metadata.get("lesson", {}).get("number")
    for index, number in revealed:  # a lesson may come back to a guess of an earlier one
        if number not in [asked_for for _, asked_for in guesses] and number.split(".")[0] == mine:
            yield index, f"{number} is revealed and never asked"


def _misconception(nb: NotebookNode) -> Found:
    cells = tagged(nb, "misconception")
    if not cells:
        yield None, "a 'You may think …' box is missing (Markdown, tag misconception)"
    for index, cell in cells:
        if "you may think" not in cell.source.lower():
            yield index, "the box must say 'You may think'"
        refuting = [other for i, other in code_cells(nb) if i > index][:1]
        if not refuting or not has_assert(refuting[0]):
            yield index, "the next code cell must refute it with an assert"


def _one_of(tag: str, what: str) -> Callable[[NotebookNode], Found]:
    def rule(nb: NotebookNode) -> Found:
        if not tagged(nb, tag):
            yield None, f"{what} is missing (tag {tag})"

    return rule


def _measure(nb: NotebookNode) -> Found:
    cells = tagged(nb, "measure")
    if not any(cell.cell_type == "code" and has_assert(cell) for _, cell in cells):
        where = cells[0][0] if cells else None
        yield where, "a measured result with an assert on its band is missing (code, tag measure)"


def _exercises(nb: NotebookNode) -> Found:
    from classroom.checks import EXERCISES

    minutes = []
    for index, cell in tagged(nb, "exercise"):
        number = cell.metadata.get("exercise")
        if number not in EXERCISES:
            yield index, f"metadata.exercise must name an exercise that checks knows, got {number!r}"
            continue
        exercise = EXERCISES[number]
        minutes.append(exercise.minutes)
        if not calls(cell, exercise.check_name):
            yield index, f"the cell must end in checks.{exercise.check_name}(…)"
        above = nb.cells[index - 1].source if index else ""
        if number not in above or f"{exercise.minutes} minutes" not in above:
            yield index, f"the cell above must say 'Exercise {number}' and '{exercise.minutes} minutes'"
    if sorted(minutes) != [5, 15]:
        yield None, f"one exercise of 5 minutes and one of 15 are needed, found {sorted(minutes)}"
    if len(tagged(nb, "open-exercise")) != 1:
        yield None, "one open exercise is needed (Markdown, tag open-exercise)"


def _summary(nb: NotebookNode) -> Found:
    cells = tagged(nb, "summary")
    if len(cells) != 1:
        yield None, "one summary is needed (tag summary)"
        return
    index, cell = cells[0]
    points = len(re.findall(r"(?m)^\s*(?:[-*]|\d+\.)\s", cell.source))
    if points != 5:
        yield index, f"the summary must have five points, found {points}"
    papers = cell.source.partition("Papers")[2]
    if not re.search(r"\b(19|20)\d\d\b", papers):
        yield index, "papers with their years are missing"
    if "next" not in cell.source.lower():
        yield index, "it must name the next lesson"


def _size(nb: NotebookNode) -> Found:
    core = next((i for i, _ in tagged(nb, "further")), len(nb.cells))
    if core > MOST_CELLS:
        yield None, f"the core path has {core} cells, at most {MOST_CELLS}: move some to 'Further'"
    sizes = {i: sum(map(bool, map(str.strip, cell.source.splitlines()))) for i, cell in code_cells(nb)}
    for index, size in sizes.items():
        if size > MOST_LINES:
            yield index, f"{size} lines, at most {MOST_LINES}: move what is not the point to the library"
    median = statistics.median(sizes.values()) if sizes else 0
    if median > MEDIAN_LINES:
        yield None, f"the median code cell has {median:g} lines, at most {MEDIAN_LINES}"


ANATOMY: dict[str, Callable[[NotebookNode], Found]] = {
    rule.__name__.removeprefix("_"): rule
    for rule in (
        _header,
        _guard,
        _recall,
        _predictions,
        _misconception,
        _measure,
        _exercises,
        _summary,
        _size,
    )
} | {
    "by-hand": _one_of("by-hand", "an example worked by hand"),
    "picture": _one_of("picture", "the picture to remember"),
    "widget": _one_of("widget", "a widget"),
}


def anatomy(name: str, nb: NotebookNode) -> list[Violation]:
    """What a lesson lacks; rules that it waives are left out, and waivers that it does not need are named."""
    waivers = nb.metadata.get("lesson", {}).get("waivers", {})
    found = []
    for rule, look in ANATOMY.items():
        broken = [Violation(name, _count(i), rule, what) for i, what in look(nb)]
        if rule not in waivers:
            found += broken
        elif not broken:
            found.append(Violation(name, None, rule, "the waiver is not needed any more: remove it"))
    for rule, reason in waivers.items():
        if rule not in ANATOMY:
            found.append(Violation(name, None, rule, f"there is no such rule to waive: {', '.join(ANATOMY)}"))
        elif not str(reason).strip():
            found.append(Violation(name, None, rule, "the waiver must give its reason"))
    return found


def is_free(nb: NotebookNode, path: Path) -> bool:
    info = nb.metadata.get("lesson", {})
    return path.stem.startswith(FREE) or info.get("number") == "00" or bool(info.get("solutions"))


# ---- the hygiene of a committed notebook ----
def _format(nb: NotebookNode) -> Found:
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        yield None, f"it is no valid notebook: {str(error).splitlines()[0]}"
    kernel = nb.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield None, f"the kernel must be python3, got {kernel!r}"
    if not nb.metadata.get("lesson", {}).get("number"):
        yield None, "metadata.lesson.number is missing"
    for key in set(nb.metadata) - {"kernelspec", "language_info", "lesson"}:
        yield None, f"metadata.{key} must not be committed: make notebooks removes it"
    for index, cell in enumerate(nb.cells):
        for key in {"execution", "ExecuteTime", "collapsed", "scrolled"} & set(cell.metadata):
            yield index, f"the cell's metadata.{key} must not be committed: make notebooks removes it"


def _executed(nb: NotebookNode) -> Found:
    for expected, (index, cell) in enumerate(code_cells(nb), start=1):
        if cell.execution_count != expected:
            yield index, f"execution count {cell.execution_count} where {expected} follows: make notebooks"
            return
    for index, cell in code_cells(nb):
        if not cell.outputs and set(tags(cell)) & {"widget", "picture", "reveal", "exercise", "solution"}:
            yield index, "the cell shows nothing: run make notebooks"


def _outputs(nb: NotebookNode) -> Found:
    for index, cell in code_cells(nb):
        for output in cell.outputs:
            if output.output_type == "error":
                yield index, f"an error is stored: {output.ename}: {output.evalue}"
            if output.get("name") == "stderr":
                yield index, f"text on stderr is stored: {output.text.strip().splitlines()[0][:80]!r}"
            if WIDGET_VIEW in output.get("data", {}):
                yield index, "a widget view is stored instead of its static picture: run make notebooks"
            for text in texts_of(output):
                for pattern, what in ((MACHINE_PATH, "a path of a machine"), (ADDRESS, "a memory address")):
                    if match := pattern.search(text):
                        yield index, f"{what} is stored: …{text[match.start() : match.end() + 20]!r}"
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if cell.outputs and "widget" in tags(cell) and not kinds & {"text/html", *PICTURES}:
            yield index, "the widget has no static picture: its _repr_mimebundle_ must give image/png"


def _alt(nb: NotebookNode) -> Found:
    for index, cell in enumerate(nb.cells):
        html = cell.source if cell.cell_type == "markdown" else ""
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            html += "".join(data.get("text/html", ""))
            for kind in set(data) & set(PICTURES):
                if not output.metadata.get(kind, {}).get("alt", "").strip():
                    yield index, f"an {kind} has no alt text: show it with figures.show_figure(…, alt=…)"
        silent = any("alt=" not in tag for tag in re.findall(r"<img\b[^>]*>", html))
        if silent or re.search(r"!\[\s*\]\(", html):
            yield index, "a picture in the text has no alt text"
        if cell.cell_type == "code" and cell.source.strip():
            for call in calls(cell, "show_figure"):
                missing = {"alt", "caption"} - {keyword.arg for keyword in call.keywords}
                if missing:
                    yield index, f"show_figure lacks {' and '.join(sorted(missing))}"


def _nbval(nb: NotebookNode) -> Found:
    for index, cell in code_cells(nb):
        rich = any({"text/html", WIDGET_VIEW, *PICTURES} & set(o.get("data", {})) for o in cell.outputs)
        free = {"nbval-ignore-output", "nbval-skip"} & set(tags(cell))
        if (rich or "widget" in tags(cell)) and not free:
            yield index, "figures, checks and widgets need the tag nbval-ignore-output"


def _tags(nb: NotebookNode) -> Found:
    for index, cell in enumerate(nb.cells):
        for tag in tags(cell):
            if tag not in KNOWN_TAGS:  # a rule that looks for it would find nothing and be silent
                yield index, f"there is no tag {tag!r}: choose from {', '.join(sorted(KNOWN_TAGS))}"


def _text(nb: NotebookNode) -> Found:
    for index, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", "", cell.source, flags=re.DOTALL)
            literals = [prose]
        else:
            nodes = ast.walk(tree_of(cell)) if cell.source.strip() else ()
            literals = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            literals = [text for text in literals if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", text)]
        for text in literals:
            if match := re.search(r"(?<![\w/$])[A-Z]{2,}(?:_[A-Z]{2,})+\b", text):
                yield index, f"{match.group()} looks like a gap that was never filled"


def _links(nb: NotebookNode, folder: Path) -> Found:
    for index, cell in enumerate(nb.cells):
        targets = re.findall(r"\]\(([^)#\s]+)", cell.source) if cell.cell_type == "markdown" else []
        for target in targets:
            if "://" not in target and not target.startswith("mailto:") and not (folder / target).exists():
                yield index, f"the link to {target} leads nowhere"


def _spoilers(nb: NotebookNode) -> Found:
    solutions = bool(nb.metadata.get("lesson", {}).get("solutions"))
    tag, wanted = ("solution", "right") if solutions else ("exercise", "not started")
    for index, cell in tagged(nb, tag):
        text = "\n".join(text for output in cell.get("outputs", []) for text in texts_of(output))
        if cell.get("outputs") and wanted not in text:
            yield index, f"the stored check must say {wanted!r}: a fresh learner must not read a diagnosis"


HYGIENE: dict[str, Callable[[NotebookNode], Found]] = {
    "format": _format,
    "executed": _executed,
    "outputs": _outputs,
    "alt text": _alt,
    "nbval": _nbval,
    "tags": _tags,
    "text": _text,
    "spoilers": _spoilers,
}


def hygiene(name: str, nb: NotebookNode, folder: Path = NOTEBOOKS) -> list[Violation]:
    """What a committed notebook must not hold, or lacks; its links are followed from the folder."""
    found = [Violation(name, _count(i), rule, what) for rule, look in HYGIENE.items() for i, what in look(nb)]
    found += [Violation(name, _count(i), "links", what) for i, what in _links(nb, folder)]
    size = len(nbformat.writes(nb).encode())
    if size > MOST_BYTES:
        what = f"{size:,} bytes, at most {MOST_BYTES:,}: smaller pictures or GIFs"
        found.append(Violation(name, None, "size", what))
    return found


def texts_of(output: NotebookNode) -> list[str]:
    """The texts in one output; pictures are left out."""
    found = ["".join(output.get("text", ""))]
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/") or kind == "image/svg+xml":
            found.append("".join(value))
    return found


def _count(index: int | None) -> int | None:
    return None if index is None else index + 1


# ---- the chain of lessons ----
def chain(found: dict[str, NotebookNode]) -> list[Violation]:
    """What is wrong between the lessons, given in order by file name: links to the neighbours, the map."""
    names, violations = list(found), []
    for name, before, after in zip(names, [None, *names], [*names[1:], None], strict=False):
        nb, others = found[name], {"Next": after, "Previous": before}
        texts = {tag: "".join(cell.source for _, cell in tagged(nb, tag)) for tag in ("header", "summary")}
        if name.startswith("00"):  # it begins with a picture, and says at its end where to go
            texts = {"text": _prose(nb)}
        for part, text in texts.items():
            for word in ("Next", "Previous") if part == "header" else ("Next",):
                said = re.findall(rf"\*\*{word}:\*\*(.*?)(?=\*\*[A-Z]\w+:\*\*|\n\n|\Z)", text, re.DOTALL)
                if others[word] and f"]({others[word]})" not in "".join(said):
                    what = f"{word} does not link {others[word]} in its {part}"
                    violations.append(Violation(name, None, "chain", what))
        if before and not re.search(rf"(?m)^\|.*\]\({name}\)", _prose(found[names[0]])):
            violations.append(Violation(names[0], None, "map", f"no row of the map links {name}"))
    return violations


def _prose(nb: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


# ---- running ----
class NotebookError(RuntimeError):
    """A notebook that does not run; the message is a sentence with its cell."""


def limit_of(nb: NotebookNode) -> float:
    return nb.metadata.get("lesson", {}).get("limit_s", LIMIT_S)


def execute(nb: NotebookNode, folder: Path, progress: Path, timeout: float = 4 * LIMIT_S) -> float:
    """Run a notebook in place with this Python, as a fresh learner without a network; returns the seconds.

    It works in the folder and keeps its progress in that file; the timeout is of each cell, in seconds.
    Raises NotebookError if a cell raises, takes too long or kills the kernel.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    from classroom.kernels import ThisPython

    environment = {**os.environ, "LESSONS_OFFLINE": "1", "LESSONS_PROGRESS": str(progress)}
    client = NotebookClient(
        nb, kernel_manager_class=ThisPython, timeout=timeout, store_widget_state=False,
        coalesce_streams=True, resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    begun = time.perf_counter()
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        where = next((i for i, c in code_cells(nb) if any(o.output_type == "error" for o in c.outputs)), -1)
        raise NotebookError(f"cell {where + 1} raises {error.ename}: {error.evalue}") from None
    except CellTimeoutError:
        raise NotebookError(f"a cell takes more than {timeout:.0f} s") from None
    except DeadKernelError:
        raise NotebookError("the kernel died: too little memory?") from None
    return time.perf_counter() - begun


def seconds_of_cells(nb: NotebookNode) -> dict[int, float]:
    """By index, of the cells that have just run."""
    found = {}
    for index, cell in code_cells(nb):
        times = cell.metadata.get("execution", {})
        if set(ENDS) <= set(times):
            begun, ended = (datetime.fromisoformat(times[k]) for k in ENDS)
            found[index] = (ended - begun).total_seconds()
    return found


def tidy(nb: NotebookNode) -> None:
    """Make a notebook that has just run fit to be committed, in place."""
    nb.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        language_info={"name": "python"},
        **{key: value for key, value in nb.metadata.items() if key == "lesson"},
    )
    for cell in nb.cells:
        for key in ("execution", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_without_view, cell.outputs) if output is not None]


def _without_view(output: NotebookNode) -> NotebookNode | None:
    """An output whose widget view gave way to its picture or text; None for a widget that has neither."""
    data = output.get("data", {})
    if data.pop(WIDGET_VIEW, None) is None:
        return output
    if set(data) <= {"text/plain"}:
        return None  # what is left is Python's name of the widget
    return output
