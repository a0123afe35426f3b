"""The command that checks learners' notebooks, on tiny notebooks that import the checks and little else."""

import json

import nbformat
import notebook_tools as tools
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from classroom import checks, grading

SET_UP = "from classroom import checks"
RIGHT = """def x0_from_score(x_t, score, abar):
    return (x_t + (1 - abar) * score) / abar**0.5

checks.x0_from_score(x0_from_score)"""
WRONG = RIGHT.replace("abar**0.5", "abar")
STUB = """def ddim_step(x_t, eps, abar, abar_prev, eta, noise):
    ...

checks.ddim_step(ddim_step)"""
ENDLESS_FUNCTION = """def to_shown(x):
    while True:
        x = x + 0

checks.to_shown(to_shown)"""
# The check stops a function after ten seconds; here after one.
HURRY = """from classroom.checks import running
running.LIMIT_S = 1.0
running.call_with_limit.__defaults__ = (1.0,)"""


def exercise(source, number, *tags):
    return new_code_cell(source, metadata={"tags": ["exercise", *tags], "exercise": number})


def plain(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)})


@pytest.fixture
def write(tmp_path):

    def write(name, *cells, lesson=None):
        nb = new_notebook(cells=[new_markdown_cell("# Mine"), *cells])
        if lesson:
            nb.metadata["lesson"] = {"number": lesson}
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(nb, path)
        return path

    return write


@pytest.fixture
def check(capsys, tmp_path, monkeypatch):
    """Check notebooks: (exit status, what --json printed or None, stdout, stderr); nothing may be changed."""
    mine = tmp_path / "teacher.json"
    mine.write_text('{"exercises": {}}')
    monkeypatch.setenv("LESSONS_PROGRESS", str(mine))

    def check(*words):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
        capsys.readouterr()
        status = grading.main(["check", *map(str, words)])
        out, err = capsys.readouterr()
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
        return status, json.loads(out) if "--json" in words else None, out, err

    return check


def statuses(told, path):
    return {number: one["status"] for number, one in told["notebooks"][str(path)]["exercises"].items()}


def test_every_status_and_its_line(write, check):
    sources = {"04.1": WRONG, "04.2": STUB, "00.1": ENDLESS_FUNCTION}
    sources["03.1"] = "def noising_loss(model:\n    pass\nchecks.noising_loss(noising_loss)"
    sources["03.2"] = "def loss_by_timestep(eps_fn): ..."
    path = write("ada", plain(SET_UP), plain(HURRY), *(exercise(text, n) for n, text in sources.items()))
    status, told, _, err = check(path, "--json")
    assert (status, err) == (1, "")
    found = told["notebooks"][str(path)]["exercises"]
    assert statuses(told, path) == {
        "00.1": "error", "03.1": "error", "03.2": "error", "04.1": "wrong", "04.2": "not started",
    }  # fmt: skip
    assert "was stopped" in found["00.1"]["message"] and found["00.1"]["line"].startswith("line ")
    assert found["03.1"]["message"].startswith("The cell raises SyntaxError: ")
    assert found["03.1"]["line"] == "line 1: def noising_loss(model:"
    assert "must end in checks.loss_by_timestep(…)" in found["03.2"]["message"]
    assert found["04.1"]["message"] and found["04.2"]["line"] is None
    assert found["04.1"]["title"] == checks.EXERCISES["04.1"].title


def test_several_notebooks_and_every_user_error(write, check, tmp_path):
    right = write("right", plain(SET_UP), exercise(RIGHT, "04.1"))
    empty = write("empty", plain("1 + 1"))
    broken, other = tmp_path / "broken.ipynb", tmp_path / "other.ipynb"
    broken.write_text('{"cells": [')
    other.write_text('{"cells": 3}')
    bad = [tmp_path / "missing.ipynb", broken, other, empty, tmp_path]
    status, _, out, err = check(*bad[:3], right, *bad[3:])
    assert status == 2, "the worst of all"
    assert out.splitlines() == [
        str(right),
        "  04.1  right        From the score to the image: "
        "The score tells where the clean image lies: this is Tweedie's formula.",
        "1 of 1 exercises right in 1 notebook.",
    ]
    sentences = err.splitlines()
    assert len(sentences) == 5
    reasons = ("cannot be read", "no notebook", "no notebook", "no exercises", "cannot be read")
    for path, said in zip(bad, reasons, strict=True):
        assert any(line.startswith(str(path)) and said in line and line.endswith(".") for line in sentences)
    status, told, _, err = check(*bad, "--json")
    assert status == 2 and len(told["notebooks"]) == 5
    assert all(set(one) == {"error"} for one in told["notebooks"].values())


def test_a_class_is_a_table_of_diagnoses_with_the_worst_exercise_first(monkeypatch, capsys):
    right, wrong = grading.Outcome("right", "Good."), grading.Outcome("wrong", "A root is missing.")
    stub, error = (
        grading.Outcome("not started", "Replace …"),
        grading.Outcome("error", "It raises.", "line 1"),
    )
    answers = {"ada": (right, stub), "ben": (wrong, stub), "cem": (wrong, error), "dan": (right, stub)}
    monkeypatch.setattr(
        grading, "check", lambda path: (dict(zip(("04.1", "04.2"), answers[str(path)], strict=True)), [])
    )
    assert grading.main(["check", "--class", *answers]) == 1
    first, second = (checks.EXERCISES[number].title for number in ("04.1", "04.2"))
    assert capsys.readouterr().out.splitlines() == [
        f"04.2 {second}: 0 of 4 right", "    3  not started", "    1  error: It raises.",
        f"04.1 {first}: 2 of 4 right", "    2  wrong: A root is missing.",
        "2 of 8 exercises right in 4 notebooks.",
    ]  # fmt: skip
    grading.main(["check", "--class", "--json", *answers])
    assert json.loads(capsys.readouterr().out)["class"]["04.2"] == {"not started": 3, "error: It raises.": 1}


def test_endless_and_deadly_cells_do_not_stop_the_rest_and_one_that_ends_python_is_left_out(
    write, check, monkeypatch
):
    monkeypatch.setattr(grading, "CELL_LIMIT_S", 3)
    endless = plain("while True:\n    pass")
    path = write("eve", plain(SET_UP), endless, exercise(RIGHT, "04.1"), exercise("while True: ...", "04.2"))
    status, told, _, _ = check(path, "--json")
    assert status == 1 and statuses(told, path) == {"04.1": "right", "04.2": "error"}
    stopped = "did not end within 3 s and was stopped."
    assert told["notebooks"][str(path)]["remarks"] == [f"Cell 3 {stopped}"]
    assert told["notebooks"][str(path)]["exercises"]["04.2"]["message"] == f"The cell {stopped}"
    path = write("max", plain(SET_UP), plain("import os\nos._exit(1)"), exercise(RIGHT, "04.1"))
    status, _, out, _ = check(path)
    assert status == 0 and "  04.1  right" in out and "  Cell 3 ended Python" in out


def test_a_deleted_cell_is_missing_and_lost_metadata_are_not(write, check):
    unchecked = STUB.replace("checks.ddim_step(", "(")
    path = write("kim", plain(SET_UP), plain(RIGHT), plain(unchecked), lesson="04")
    status, told, _, _ = check(path, "--json")
    assert status == 1 and statuses(told, path) == {"04.1": "right", "04.2": "missing"}
    nothing = write("zoe", plain(SET_UP), lesson="04")
    status, told, _, _ = check(nothing, "--json")
    assert status == 1 and statuses(told, nothing) == {"04.1": "missing", "04.2": "missing"}


COURSE = ["import math as guard", SET_UP, "raise SystemExit('slow')\n", "rate = 1", "from math import sqrt"]


def test_a_missing_name_makes_the_rest_run_and_a_deleted_cell_is_missing(write, check, monkeypatch):
    monkeypatch.setattr(grading, "course_sources", lambda lesson: tuple(map(str.strip, COURSE)))
    uses = RIGHT.replace("return ", "return rate * ")
    path = write("rate", *map(plain, COURSE), exercise(uses, "04.1"))
    status, _, out, _ = check(path)
    assert status == 0 and "  04.1  right" in out, "the course's cell that defines the name ran after all"


@pytest.mark.slow
def test_a_lesson_with_its_solutions_is_right(check, tmp_path):
    lesson, solutions = (tools.read(tools.NOTEBOOKS / f"{f}04_sampling.ipynb") for f in ("", "solutions/"))
    path = tmp_path / "04_sampling (1).ipynb"
    nbformat.write(tools.with_solutions(lesson, solutions), path)
    status, _, out, err = check(path)
    assert (status, err) == (0, "") and out.endswith("2 of 2 exercises right in 1 notebook.\n")


def test_help_says_that_code_runs(capsys):
    with pytest.raises(SystemExit, match="0"):
        grading.main(["check", "--help"])
    assert "RUNS THE CODE" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        grading.main(["check"])
