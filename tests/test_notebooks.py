"""The committed notebooks: anatomy, hygiene, each lesson run with its solutions; and the tools themselves."""

import json
import os

import nbformat
import notebook_tools as tools
import pytest
import refresh_notebooks
from nbformat.v4 import new_code_cell, new_notebook, new_output

from classroom import checks

LESSONS = {path.stem: path for path in tools.lessons()}
ALL = {tools.name_of(path): path for path in tools.all_notebooks()}
BOUND = {name: path for name, path in LESSONS.items() if not tools.is_free(tools.read(path), path)}
TEMPLATES = {name: path for name, path in ALL.items() if name.startswith("templates/")}
CELL_TIMEOUT_S = 300  # for a cell that hangs; the limit of the lesson is below


def solutions_of(name):
    return tools.NOTEBOOKS / "solutions" / f"{name}.ipynb"


SOLVED = [name for name in LESSONS if solutions_of(name).exists()]


def processor_seconds():
    """What programs started from here have used; 0 on Windows, which does not tell."""
    times = os.times()
    return times.children_user + times.children_system


def complain(violations):
    assert not violations, "\n" + "\n".join(map(str, violations))


# ---- what is committed ----
@pytest.mark.parametrize("name", [*BOUND, *TEMPLATES])
def test_lesson_has_its_anatomy(name):
    complain(tools.anatomy(name, tools.read({**BOUND, **TEMPLATES}[name])))


def test_the_lessons_link_each_other_and_say_what_is_written():
    complain(tools.chain({path.name: tools.read(path) for path in LESSONS.values()}))


@pytest.mark.parametrize("name", ALL)
def test_notebook_is_clean(name):
    complain(tools.hygiene(name, tools.read(ALL[name]), ALL[name].parent))


@pytest.mark.parametrize("name", LESSONS)
def test_predictions_and_exercises_are_registered_and_used_and_solved(name):
    """An id that nothing asks would stay open in the learner's progress for ever."""
    number, nb = name[:2], tools.read(LESSONS[name])
    asked = [one for _, one in tools.asked(nb, "predict")]
    assert len(set(asked)) == len(asked) and all(one.startswith(f"{number}.p") for one in asked)
    assert {one for one in checks.PREDICTIONS if one.startswith(number)} <= set(asked)
    assert set(tools.exercises_of(nb)) == {one for one in checks.EXERCISES if one.startswith(number)}
    if name in BOUND:
        solutions = tools.read(solutions_of(name))
        solved = tools.tagged(solutions, "solution")
        assert solutions.metadata["lesson"].get("solutions") is True
        tools.with_solutions(nb, solutions)
        for index, cell in solved:
            assert tools.has_assert(cell) and '"right"' in cell.source, f"cell {index + 1} must assert right"
        assert len(tools.code_cells(solutions)) == len(solved) + 2, "guard and set-up"


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVED)
def test_lesson_runs_with_its_solutions(name, tmp_path, monkeypatch):
    """The run with stubs is what pytest --nbval does. Trainings in the background are short."""
    monkeypatch.setenv("LESSONS_MOST_STEPS", "40")
    solved = tools.with_solutions(tools.read(LESSONS[name]), tools.read(solutions_of(name)))
    progress = tmp_path / "progress.json"
    before = processor_seconds()
    seconds = tools.execute(solved, tools.NOTEBOOKS, progress, timeout=CELL_TIMEOUT_S)
    used = processor_seconds() - before
    print(f"{name} with its solutions: {seconds:.1f} s, of the processor {used:.1f} s")
    # A lesson has its limit on two free cores. Tests share them, so half the processor's time counts.
    busy = used / 2 if used else seconds / 4
    assert min(seconds, busy) < tools.limit_of(solved), f"{name} took {seconds:.0f} s"
    done = json.loads(progress.read_text(encoding="utf-8"))["exercises"]
    assert set(done) == set(tools.exercises_of(solved))
    assert all(one["status"] == "right" for one in done.values()), done


# ---- the tools: a lesson that keeps every rule, and one broken rule at a time ----
PNG = {"image/png": "iVBORw0KGgo=", "text/plain": "<picture>"}


@pytest.fixture
def nb():
    return tools.read(LESSONS["03_training"])


def find(nb, tag):
    return tools.tagged(nb, tag)[0][1]


def plain(nb):
    """The code cell that refutes the misconception."""
    (first, _), *_ = tools.tagged(nb, "misconception")
    return nb.cells[first + 1]


def replace(cell, *words):
    cell.source = cell.source.replace(*words)


BROKEN_ANATOMY = {
    "header": lambda nb: replace(nb.cells[0], "Binder", ""),
    "guard": lambda nb: find(nb, "guard").metadata.tags.clear(),
    "recall": lambda nb: replace(find(nb, "recall"), "<details>", "", 1),
    "predictions": lambda nb: find(nb, "reveal").metadata.jupyter.update(source_hidden=False),
    "misconception": lambda nb: plain(nb).update(source="print(1 < 2)"),
    "by-hand": lambda nb: find(nb, "by-hand").metadata.tags.clear(),
    "picture": lambda nb: find(nb, "picture").metadata.tags.remove("picture"),
    "widget": lambda nb: find(nb, "widget").metadata.tags.remove("widget"),
    "measure": lambda nb: find(nb, "measure").update(source="print(0.98)"),
    "exercises": lambda nb: find(nb, "exercise").metadata.update(exercise="03.7"),
    "summary": lambda nb: replace(find(nb, "summary"), "\n- ", "\n", 1),
    "size": lambda nb: plain(nb).update(source="assert True\n" * 21),
}


@pytest.mark.parametrize("rule", BROKEN_ANATOMY)
def test_broken_anatomy_is_named_and_may_be_waived_with_a_reason(rule, nb):
    BROKEN_ANATOMY[rule](nb)
    violations = tools.anatomy("small", nb)
    assert {violation.rule for violation in violations} == {rule}, violations
    nb.metadata["lesson"]["waivers"] = {rule: "a reason"}
    complain(tools.anatomy("small", nb))
    for waivers, words in (({"music": "why not"}, "no such rule"), ({rule: " "}, "give its reason")):
        nb.metadata["lesson"]["waivers"] = {rule: "a reason"} | waivers
        (violation,) = tools.anatomy("small", nb)
        assert words in str(violation)


def stream(nb, text, **name):
    plain(nb).outputs = [new_output("stream", text=text, **name)]


def show(nb, tag, data):
    find(nb, tag).outputs = [new_output("display_data", data)]


BROKEN_HYGIENE = {
    "format": lambda nb: nb.metadata.update(widgets={}),
    "executed": lambda nb: plain(nb).update(execution_count=99),
    "outputs": lambda nb: stream(nb, "a warning", name="stderr"),
    "outputs: a path": lambda nb: stream(nb, "in /tm" + "p/tmp1/x"),
    "outputs: a view": lambda nb: find(nb, "widget").outputs[0].data.update({tools.WIDGET_VIEW: {}}),
    "alt text": lambda nb: show(nb, "picture", PNG),
    "alt text: no caption": lambda nb: find(nb, "picture").update(source='show_figure(fig, alt="a")'),
    "nbval": lambda nb: find(nb, "picture").metadata.tags.remove("nbval-ignore-output"),
    "tags": lambda nb: nb.cells[0].metadata.tags.append("by_hand"),
    "text": lambda nb: find(nb, "by-hand").update(source="It took TRAIN_HOURS hours."),
    "spoilers": lambda nb: show(nb, "exercise", {"text/plain": "[wrong] One t."}),
    "links": lambda nb: find(nb, "by-hand").update(source="[next](04_nowhere.ipynb)"),
    "size": lambda nb: stream(nb, "x" * 1_000_001),
}


@pytest.mark.parametrize("case", BROKEN_HYGIENE)
def test_broken_hygiene_is_named(case, nb):
    BROKEN_HYGIENE[case](nb)
    violations = tools.hygiene("small", nb)
    assert {violation.rule for violation in violations} == {case.split(":")[0]}, violations
    rules = {name.split(":")[0] for name in BROKEN_HYGIENE}
    assert set(BROKEN_ANATOMY) == set(tools.ANATOMY) and rules == set(tools.HYGIENE) | {"links", "size"}


# ---- refreshing ----
@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "NOTEBOOKS", tmp_path)
    return tmp_path


def write(folder, *sources, name="07_small", number="00"):
    """A notebook with these code cells; with the number 00 the rules of a lesson do not bind it."""
    nb = new_notebook(
        cells=[new_code_cell(source, metadata={"tags": ["nbval-ignore-output"]}) for source in sources]
    )
    nb.metadata["lesson"] = {"number": number}
    nb.metadata["widgets"] = {"state": {}}
    path = folder / f"{name}.ipynb"
    nbformat.write(nb, path)
    return path


def test_refresh_stores_tidy_outputs(folder, capsys):
    env = "import os; env = lambda name: os.environ['LESSONS' + name]"
    progress = f"{env}; print(env('_OFFLINE'), os.path.exists(env('_PROGRESS')))"
    path = write(folder, 'print("a")\nprint("b", flush=True)', "1 + 1", progress)
    assert refresh_notebooks.main(["07"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(" s; 1 notebooks, 0 failed, 0 violations")
    assert not {one.rule for one in tools.hygiene("small", tools.read(path), folder)}, "widgets are gone"
    streams, number, said = (cell.outputs for cell in tools.read(path).cells)
    assert [output.text for output in streams] == ["a\nb\n"] and number[0].data["text/plain"] == "2"
    assert said[0].text == "1 False\n", "no network, and a learner who has done nothing"
    once = path.read_bytes()
    assert refresh_notebooks.main([str(path)]) == 0
    assert path.read_bytes() == once, "running again changes nothing"


FAILURES = [
    ("x = 1\nx / 0", "cell 2 raises ZeroDivisionError: division by zero"),
    ("import sys; print('careful', file=sys.stderr)", "cell 2 writes to stderr: careful"),
    ("raise SystemExit('no course here')", "cell 2 raises SystemExit: no course here"),
]


@pytest.mark.parametrize("source, words", FAILURES)
def test_refresh_leaves_a_failing_notebook_as_it_was_and_says_which_rules_are_broken(
    folder, capsys, source, words
):
    path = write(folder, "x = 0", source)
    before = path.read_bytes()
    write(folder, "2", name="08_other", number="08")
    assert refresh_notebooks.main([]) == 1
    said = capsys.readouterr().out
    assert f"FAILED: {words}; the file is as it was" in said and path.read_bytes() == before
    assert "\n    08_other.ipynb, cell 1 [header]: the first cell must be" in said
