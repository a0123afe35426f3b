"""The committed notebooks: anatomy, hygiene, each lesson run with its solutions; and the tools themselves."""

import json
import os

import nbformat
import notebook_tools as tools
import pytest
import refresh_notebooks
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from classroom import checks

LESSONS = {path.stem: path for path in tools.lessons()}
ALL = {tools.name_of(path): path for path in tools.all_notebooks()}
BOUND = {name: path for name, path in LESSONS.items() if not tools.is_free(tools.read(path), path)}
TEMPLATES = {tools.name_of(path): path for path in tools.templates()}
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


# ---- the tools: a small lesson that keeps every rule, and one broken rule at a time ----

PNG = {"image/png": "iVBORw0KGgo=", "text/plain": "<picture>"}
HEADER = """# 03 · Example
**You will be able to** test. **Prerequisites:** none. **Time:** 45 minutes on a CPU, 40 on a GPU.
**Previous:** none. **Next:** none. **Map:** you are here. Colab and Binder: see the README."""
SUMMARY = "## Summary\n" + "- one\n" * 5 + "\n**Papers:** Ho et al. 2020. **Next:** lesson 04."


def markdown(source, *tags, **metadata):
    return new_markdown_cell(source, metadata={"tags": list(tags), **metadata})


def code(source, *tags, outputs=(), **metadata):
    return new_code_cell(source, metadata={"tags": list(tags), **metadata}, outputs=list(outputs))


def picture(alt="A seven."):
    return new_output("display_data", PNG, metadata={"image/png": {"alt": alt}})


def shown(text):
    return new_output("display_data", {"text/plain": text, "text/html": text})


FREE = "nbval-ignore-output"
HIDDEN = {"jupyter": {"outputs_hidden": True, "source_hidden": True}}


def exercise(call, number):
    return code(call, "exercise", FREE, exercise=number, outputs=[shown(f"[not started] {number}")])


def small_lesson():
    reveals = 'checks.reveal("03.p1"), checks.reveal("03.p2")'
    cells = [
        markdown(HEADER, "header"),
        code("import sys", "guard"),
        markdown("<details>a</details>" * 3, "recall"),
        markdown("a by-hand example", "by-hand"),
        code('checks.predict("03.p1")', FREE, outputs=[shown("a guess")]),
        code('checks.predict("03.p2")', FREE, outputs=[shown("a guess")]),
        code(reveals, "reveal", FREE, outputs=[shown("told")], **HIDDEN),
        markdown("> **You may think** so.", "misconception"),
        code("assert 1 < 2"),
        code('figures.show_figure(fig, alt="a", caption="b")', "picture", FREE, outputs=[picture()]),
        code("panel", "widget", FREE, outputs=[picture()]),
        code("assert 0.97 <= 0.98", "measure"),
        markdown("### Exercise 03.1 (5 minutes): repair"),
        exercise("checks.noising_loss(f)", "03.1"),
        markdown("### Exercise 03.2 (15 minutes): write"),
        exercise("checks.loss_by_timestep(f)", "03.2"),
        markdown("### Exercise 03.3 (open)", "open-exercise"),
        markdown(SUMMARY, "summary"),
    ]
    nb = new_notebook(cells=cells, metadata={"lesson": {"number": "03", "minutes": 45, "waivers": {}}})
    for count, (_, cell) in enumerate(tools.code_cells(nb), start=1):
        cell.execution_count = count
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nb


def find(nb, tag, nth=0):
    return tools.tagged(nb, tag)[nth][1]


def test_small_lesson_is_in_order(tmp_path):
    complain(tools.anatomy("small", small_lesson()))
    complain(tools.hygiene("small", small_lesson(), tmp_path))


BROKEN_ANATOMY = {
    "header": lambda nb: nb.cells[0].update(source=HEADER.replace("Binder", "")),
    "guard": lambda nb: find(nb, "guard").metadata.tags.clear(),
    "recall": lambda nb: find(nb, "recall").update(source="<details>a</details>" * 2),
    "predictions": lambda nb: find(nb, "reveal").metadata.jupyter.update(source_hidden=False),
    "misconception": lambda nb: nb.cells[8].update(source="print(1 < 2)"),
    "by-hand": lambda nb: find(nb, "by-hand").metadata.tags.clear(),
    "picture": lambda nb: find(nb, "picture").metadata.tags.remove("picture"),
    "widget": lambda nb: find(nb, "widget").metadata.tags.remove("widget"),
    "measure": lambda nb: find(nb, "measure").update(source="print(0.98)"),
    "exercises": lambda nb: find(nb, "exercise").metadata.update(exercise="03.7"),
    "summary": lambda nb: find(nb, "summary").update(source=SUMMARY.replace("- one\n", "", 1)),
    "size": lambda nb: nb.cells[8].update(source="assert True\n" * 21),
}


@pytest.mark.parametrize("rule", BROKEN_ANATOMY)
def test_broken_anatomy_is_named_and_may_be_waived_with_a_reason(rule):
    nb = small_lesson()
    BROKEN_ANATOMY[rule](nb)
    violations = tools.anatomy("small", nb)
    assert {violation.rule for violation in violations} == {rule}, violations
    nb.metadata["lesson"]["waivers"] = {rule: "a reason"}
    complain(tools.anatomy("small", nb))
    for waivers, words in (({"music": "why not"}, "no such rule"), ({rule: " "}, "give its reason")):
        nb.metadata["lesson"]["waivers"] = {rule: "a reason"} | waivers
        (violation,) = tools.anatomy("small", nb)
        assert words in str(violation)


def stream(text, nb, **name):
    nb.cells[8].outputs = [new_output("stream", text=text, **name)]


BROKEN_HYGIENE = {
    "format": lambda nb: nb.metadata.update(widgets={}),
    "executed": lambda nb: nb.cells[8].update(execution_count=99),
    "outputs": lambda nb: stream("a warning", nb, name="stderr"),
    "outputs: a path": lambda nb: stream("in /tm" + "p/tmp1/x", nb),
    "outputs: a view": lambda nb: find(nb, "widget").outputs[0].data.update({tools.WIDGET_VIEW: {}}),
    "alt text": lambda nb: find(nb, "picture").update(outputs=[new_output("display_data", PNG)]),
    "alt text: no caption": lambda nb: find(nb, "picture").update(source='show_figure(fig, alt="a")'),
    "nbval": lambda nb: find(nb, "picture").metadata.tags.remove("nbval-ignore-output"),
    "tags": lambda nb: nb.cells[3].metadata.tags.append("by_hand"),
    "text": lambda nb: nb.cells[3].update(source="It took TRAIN_HOURS hours."),
    "spoilers": lambda nb: find(nb, "exercise").update(outputs=[shown("[wrong] One t.")]),
    "links": lambda nb: nb.cells[3].update(source="[next](04_nowhere.ipynb)"),
    "size": lambda nb: stream("x" * 1_000_001, nb),
}


@pytest.mark.parametrize("case", BROKEN_HYGIENE)
def test_broken_hygiene_is_named(case, tmp_path):
    nb = small_lesson()
    BROKEN_HYGIENE[case](nb)
    violations = tools.hygiene("small", nb, tmp_path)
    assert {violation.rule for violation in violations} == {case.split(":")[0]}, violations
    rules = {name.split(":")[0] for name in BROKEN_HYGIENE}
    assert set(BROKEN_ANATOMY) == set(tools.ANATOMY) and rules == set(tools.HYGIENE) | {"links", "size"}


def test_solutions_are_put_in_place_of_the_stubs():
    lesson = small_lesson()
    answers = [code("f = 1", "solution", exercise="03.1"), code("f = 2", "solution", exercise="03.2")]
    solved = tools.with_solutions(lesson, new_notebook(cells=answers))
    assert [cell.source for _, cell in tools.tagged(solved, "exercise")] == ["f = 1", "f = 2"]
    assert find(lesson, "exercise").source == "checks.noising_loss(f)", "the lesson itself is untouched"
    with pytest.raises(ValueError, match=r"asks .* answer"):
        tools.with_solutions(lesson, new_notebook(cells=answers[:1]))


# ---- refreshing ----
@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "NOTEBOOKS", tmp_path)
    return tmp_path


def write(folder, *sources, name="07_small", number="00"):
    """A notebook with these code cells; with the number 00 the rules of a lesson do not bind it."""
    nb = new_notebook(cells=[code(source, "nbval-ignore-output") for source in sources])
    nb.metadata["lesson"] = {"number": number}
    nb.metadata["widgets"] = {"state": {}}
    path = folder / f"{name}.ipynb"
    nbformat.write(nb, path)
    return path


WIDGET = """class Panel:
    def _repr_mimebundle_(self, **kwargs):
        view = {"version_major": 2, "version_minor": 0, "model_id": "1"}
        data = {"application/vnd.jupyter.widget-view+json": view, "text/plain": "Panel()"}
        return data | {"image/png": "iVBORw0KGgo="}, {"image/png": {"alt": "A panel."}}


Panel()"""


def test_refresh_stores_tidy_outputs(folder, capsys):
    env = "import os; env = lambda name: os.environ['LESSONS' + name]"
    progress = f"{env}; print(env('_OFFLINE'), os.path.exists(env('_PROGRESS')))"
    path = write(folder, 'print("a")\nprint("b", flush=True)', WIDGET, "1 + 1", progress)
    assert refresh_notebooks.main(["07"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].startswith("07_small.ipynb")
    assert said[1].startswith("total ") and said[1].endswith(" s; 1 notebooks, 0 failed, 0 violations")
    nb = tools.read(path)
    nbformat.validate(nb)
    assert set(nb.metadata) == {"kernelspec", "language_info", "lesson"}
    assert [cell.execution_count for cell in nb.cells] == [1, 2, 3, 4]
    assert not any("execution" in cell.metadata for cell in nb.cells)
    streams, panel, number, said = (cell.outputs for cell in nb.cells)
    assert [output.text for output in streams] == ["a\nb\n"]
    assert set(panel[0].data) == {"image/png", "text/plain"}
    assert panel[0].metadata["image/png"]["alt"] == "A panel."
    assert number[0].data["text/plain"] == "2"
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
def test_refresh_leaves_a_failing_notebook_as_it_was(folder, capsys, source, words):
    path = write(folder, "x = 0", source)
    before = path.read_bytes()
    assert refresh_notebooks.main([]) == 1
    assert f"FAILED: {words}; the file is as it was" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_refresh_says_which_rules_are_broken(folder, capsys):
    path = write(folder, "1 + 1", number="07")
    nb = tools.read(path)
    nb.cells += [markdown("[gone](08_gone.ipynb)", "sumary")]
    nbformat.write(nb, path)
    assert refresh_notebooks.main([]) == 1
    *said, total = capsys.readouterr().out.splitlines()
    assert said[0].startswith("07_small.ipynb") and "FAILED" not in said[0]
    for words in ("cell 1 [header]", "[summary]", "cell 2 [tags]: there is no tag 'sumary'", "[links]"):
        assert any(line.startswith("    07_small.ipynb") and words in line for line in said), words
    assert total.endswith(f"0 failed, {len(said) - 1} violations")
    assert tools.read(path).cells[0].outputs[0].data["text/plain"] == "2", "what ran is stored all the same"
