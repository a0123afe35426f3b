"""The checks: each accepts right answers, names the classic wrong ones, and survives everything else."""

import inspect
import itertools
import json
import math
import os
import re
import sys
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from right_answers import RIGHT, loss_as_in_the_lesson, step_as_in_the_paper, x0_of_score
from wrong_answers import GENERIC, WRONG, labelled
from wrong_sixty import SIXTY

from classroom import checks
from classroom.checks import (
    engine,
    generic,
    judging,
    lesson03,
    lesson11,
    predictions,
    running,
    store,
)
from conftest import ROOT
from lessons_lib import samplers, schedules, toy
from lessons_lib.schedules import q_sample

EXERCISES = list(checks.EXERCISES.values())
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.number)


@pytest.fixture(autouse=True)
def progress_file(tmp_path, monkeypatch):
    """Every test starts as a learner who has done nothing."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("LESSONS_PROGRESS", str(path))
    monkeypatch.setattr(store, "_UNWRITTEN", {})
    monkeypatch.setattr(checks, "_HINTS_SHOWN", {})
    monkeypatch.setattr(predictions, "PREDICTIONS", predictions.PREDICTIONS)
    return path


def check(number, function):
    return getattr(checks, checks.EXERCISES[number].check_name)(function)


def sentences(exercise):
    """All that the declaration of an exercise may say."""
    found = (
        *exercise.shapes.values(),
        *exercise.errors.values(),
        *exercise.limits.values(),
        exercise.overflow,
    )
    return {*(variant.sentence for variant in exercise.wrong), *filter(None, found)}


# What stands in the examine of two exercises that bring their own.
OWN = {
    "03.1": "CLEAN NOT_NORMAL ONE_T UNEVEN FACTOR OTHER_T SAME_NOISE DETACHED GENERATOR",
    "11.2": "ONE_COIN WRONG_AXIS PARTS NOT_ITSELF ALWAYS FIXED GENERATOR UNFAIR TOGETHER",
}
OWN = {
    number: {getattr(lesson, name) for name in OWN[number].split()}
    for number, lesson in (("03.1", lesson03), ("11.2", lesson11))
}


def test_size_is_held():
    """An exercise is a declaration of about a hundred lines; all of it together has a bar."""
    files = (ROOT / "classroom/checks").glob("*.py")
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert lines <= 3659  # with the blank page, 500
    assert all(len(exercise.wrong) <= 10 for exercise in EXERCISES)


@each_exercise
def test_right_answers_are_accepted(exercise):
    for function in RIGHT[exercise.number]:
        running.warm_up(running.code_of(function))  # which may take seconds, once
        begun = time.perf_counter()
        result = check(exercise.number, function)
        assert (result.status, result.line) == ("right", None), (function.__name__, result)
        assert time.perf_counter() - begun < 5  # under a second, on a machine that does nothing else


@each_exercise
def test_every_diagnosis_is_given_to_an_answer_written_by_hand(exercise):
    told = {check(number, function).message for number, _, function in SIXTY if number == exercise.number}
    for words, function in WRONG[exercise.number]:
        result = check(exercise.number, function)
        assert result.status == "wrong" and words in result.message, (words, result)
        assert "\n" not in result.message and result.message[-1] in ".?"
        told.add(result.message)
    assert sentences(exercise) | OWN.get(exercise.number, set()) <= told


@each_exercise
def test_wrong_variants_can_be_told_apart(exercise):
    """No two sentences fit the same answer, so their order does not matter; and none fits a right one."""
    ordinary = [case for i, case in enumerate(exercise.cases) if i not in exercise.limits]

    def numbers(formula):
        torch.manual_seed(0)
        return [engine.outcome_of(exercise, formula, case).value for case in ordinary]

    if exercise.right is not None:
        found = [("right", numbers(exercise.right))]
        found += [(v.sentence, numbers(formula)) for v in exercise.wrong for formula in v.formulas]
        for (sentence, one), (other_sentence, other) in itertools.combinations(found, 2):
            assert sentence == other_sentence or not generic.same(one, other), (sentence, other_sentence)


def test_at_least_45_of_60_unforeseen_mistakes_are_named():
    """Answers that were written without a look at the variants; None where the first difference must do."""
    named = 0
    for number, words, function in SIXTY:
        result = check(number, function)
        assert result.status in ("wrong", "error"), (number, words, result)
        assert words is None or words in result.message, (number, words, result)
        named += words is not None
    assert len(SIXTY) >= 60 and named / len(SIXTY) >= 45 / 60


# ---- the right functions against the library ----
def right(number):
    return checks.EXERCISES[number].right


def test_right_heun_is_of_second_order():
    """On Gaussian data, against the ODE's exact end point."""
    mean, std, schedule = 0.4, 0.3, schedules.NoiseSchedule.linear(20_000)
    eps_fn = toy.GaussianMixture(torch.full((1, 3), mean, dtype=torch.float64), std).eps_fn(schedule)
    abars, x_T = schedule.alphas_cumprod, torch.randn(5, 3, dtype=torch.float64)

    def error(count):
        levels = torch.linspace(-4.6, 4.6, count + 1, dtype=torch.float64).sigmoid()  # even in log-SNR
        ts, x = torch.searchsorted(-abars, -levels).tolist(), x_T
        for t, t_next in itertools.pairwise(ts):
            batch = torch.full((5,), t), torch.full((5,), t_next)
            x = right("10.2")(eps_fn, x, *batch, float(abars[t]), float(abars[t_next]))
        begin, end = ((1 - abars[t]) / abars[t] for t in (ts[0], ts[-1]))  # sigma²
        exact = mean + (x_T / abars[ts[0]].sqrt() - mean) * ((std**2 + end) / (std**2 + begin)).sqrt()
        return float((x / abars[ts[-1]].sqrt() - exact).abs().max())

    counts = [40, 60, 100, 150]
    assert abs(right("10.1")(counts, [error(count) for count in counts]) - 2) < 0.15


def test_right_shift_makes_means_over_blocks_as_noisy():
    """Measured: a smooth picture three times as large, its noise, and the mean over 3 × 3 pixels of both."""
    abar = schedules.NoiseSchedule.cosine(50).alphas_cumprod[[4, 20, 35]]
    small = torch.linspace(-1, 1, 4, dtype=torch.float64).expand(50, 1, 40, 4)
    large = small.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for old, new in zip(abar, right("11.1")(abar, 3), strict=True):
        signal, rest = (F.avg_pool2d(part, 3) for part in (new.sqrt() * large, (1 - new).sqrt() * noise))
        snr = signal.var() / rest.var() / small.var()
        torch.testing.assert_close(snr, old / (1 - old), rtol=0.05, atol=0.0)


# ---- what is not right or wrong ----
@each_exercise
def test_planted_bug_is_not_started_until_touched(exercise):
    if exercise.planted is not None:
        space = vars(sys.modules[exercise.planted.__module__]) | {"__name__": "a notebook"}
        source = inspect.getsource(exercise.planted).replace("x_t", "noisy").replace("estimate", "guess")
        exec(compile(source, "a cell", "exec"), space)
        result = check(exercise.number, space[exercise.planted.__name__])
        assert result.status == "not_started" and "as it was given" in result.message
        with pytest.raises(judging.Wrong):
            engine.examine(exercise, exercise.planted)


def nan(x_t, score, abar):
    return x_t * float("nan")


SENTENCES = [
    *((number, function, "wrong", words) for number, words, function in GENERIC),
    ("04.1", lambda x_t, score, abar: print(end=""), "wrong", "returns nothing"),
    ("04.1", nan, "wrong", "holds NaN"),
    ("04.1", lambda x_t, score, abar: x_t / 0, "wrong", "infinite"),
    ("04.1", lambda x_t, score, abar: x_t * 1j, "wrong", "complex"),
    ("04.1", lambda x, s, a: x[0], "wrong", "shape [2, 3, 4, 5], that is [B, C, H, W], got [3, 4, 5]"),
    ("04.1", lambda x_t, score, abar: abar, "wrong", "must return a tensor, got a float"),
    ("04.1", lambda x_t, score, abar: [x_t], "wrong", "got a list: only [B, C, H, W] is asked"),
    ("04.1", lambda x_t, score, abar: (x_t + abar * score).sin(), "wrong", "with abar = 0.3 the one at ["),
    ("04.1", lambda x_t: x_t, "error", "must take (x_t, score, abar)"),
    ("04.1", torch.zeros(3), "error", "without calling it"),
    ("04.1", lambda x_t, score, abar: x_t * (1 / (abar - 0.3)), "wrong", "divided by 0 with abar = 0.3"),
    ("04.1", lambda x, s, a: x * math.sqrt(-a), "wrong", "root of a negative number is taken with"),
    ("02.1", lambda layers: "seven", "wrong", "one whole number, not a value of type str"),
    ("02.1", lambda layers: True, "wrong", "not a value of type bool"),
    ("02.1", lambda layers: torch.tensor([7]), "wrong", "got 1 of them"),
    ("02.1", lambda layers: math.nan, "wrong", "one whole number, got nan"),
    ("06.2", lambda z, w: w.softmax(dim=1), "error", "not implemented for 'Bool'"),
    ("07.2", lambda m, x, t, y, n, w: m(x, t, y.float()), "wrong", "must be int64 from 0 to 7"),
    ("08.1", lambda x_T, K: x_T, "wrong", "two tensors, x and y"),
    ("08.2", lambda f, x, t, a, b: f(x, t), "wrong", "takes t of shape [B], int64"),
    ("08.2", lambda f, x, t, a, b: f(a, t), "wrong", "with x of shape [B, 3, 4, 5], got of type float"),
    ("11.3", lambda rows: [row["fid"] for row in rows], "wrong", "return a list of the rows as they are"),
    ("11.3", lambda rows: rows[:3], "wrong", "The row {'guidance_scale'"),
    ("08.1", labelled(lambda N, K: torch.arange(K).flip(0).repeat(N)), "wrong", "image 0 of the batch"),
    ("12.1", lambda logits, wanted: logits[:, 40], "error", "raised IndexError"),
]


@pytest.mark.parametrize("number, function, status, words", SENTENCES, ids=[one[3] for one in SENTENCES])
def test_bad_result_is_one_sentence(number, function, status, words):
    result = check(number, function)
    assert result.status == status and words in result.message, result
    assert "\n" not in result.message and result.message[-1] in ".?"


@each_exercise
def test_every_exercise_survives_bad_results(exercise):
    def nan_like(*arguments):
        tensors = [one for one in arguments if isinstance(one, torch.Tensor)]
        return tensors[0] * math.nan if tensors else math.nan

    class Odd:
        def __call__(self, *arguments):
            return self

    odd = (lambda *a: print(end=""), lambda *a: torch.zeros(1, 2), nan_like, lambda *a: "seven", Odd())
    more = (lambda *a: {}, lambda *a: (), lambda *a: [None], lambda *a: (one for one in a), lambda *a: 1j)
    for function in (*odd, *more, lambda *a: a[0]):
        result = check(exercise.number, function)
        assert result.status == "wrong" and "\n" not in result.message and result.message[-1] in ".?", result
    for no_function in (Odd, int, len, 7, "f", [check]):
        assert check(exercise.number, no_function).status in ("error", "wrong", "not_started")


def stub(*names):
    space = {}
    exec(f"def f({', '.join(names)}):\n    '''What to write.'''\n    ...", space)
    return space["f"]


def test_stub_and_a_half_written_one_and_the_librarys_function_are_not_started():
    for exercise in EXERCISES:
        result = check(exercise.number, stub(*exercise.names))
        assert result.status == "not_started", result

    def returns_dots(x_t, score, abar):
        eps = score * abar
        return ... if eps is not None else eps

    def computes_with_dots(x_t, score, abar):
        eps = ...
        return x_t - eps

    def not_implemented(x_t, score, abar):
        raise NotImplementedError

    stubs = (None, ..., lambda *a: None, lambda *a: ..., returns_dots, computes_with_dots, not_implemented)
    for function in stubs:
        assert checks.x0_from_score(function).status == "not_started"
    for function in (q_sample, samplers.sample_ddim, schedules.predict_x0):
        result = checks.x0_from_score(function)
        assert result.status == "not_started" and "library's function" in result.message


def test_the_learners_line_is_shown():
    def too_small(x_t, score, abar):
        x_0 = x_t[:1]
        return x_0  # here

    def forgotten(x_t, score, abar):
        x_t = x_t * abar  # the last line

    def in_two_places(x_t, score, abar):
        if abar > 0:
            return None
        return None

    def raises(x_t, score, abar):
        total = x_t + score
        return total.reshape(7, 7)  # raises

    def raises_in_the_network(model, schedule, x_0, generator):
        return model()

    assert checks.x0_from_score(too_small).line.endswith("return x_0  # here")
    assert checks.x0_from_score(forgotten).line.endswith("# the last line")
    assert checks.x0_from_score(in_two_places).line is None
    assert checks.x0_from_score(lambda x, s, a: x + 7).line is None, "a number that is off has none"
    result = checks.x0_from_score(raises)
    assert result.status == "error" and "RuntimeError" in result.message
    assert result.line.endswith("return total.reshape(7, 7)  # raises")
    assert os.sep + "test_checks" not in repr(result), "no path of this machine"
    result = checks.noising_loss(raises_in_the_network)
    assert result.status == "error" and result.line.endswith("return model()")


@pytest.mark.parametrize("error", [SystemExit(3), ValueError("two\nlines"), RecursionError()])
def test_whatever_is_raised_is_caught(error):
    def raises(*arguments):
        raise error

    for exercise in EXERCISES:
        status, message = (result := check(exercise.number, raises)).status, result.message
        assert status == "error" and type(error).__name__ in message and "\n" not in message


def test_endless_function_is_stopped(monkeypatch):
    monkeypatch.setattr(running, "LIMIT_S", 0.3)
    monkeypatch.setattr(running.call_with_limit, "__defaults__", (0.3,))
    before = threading.active_count()

    def endless(x_t, score, abar):
        while True:
            try:
                abar += 1
            except Exception:
                abar = 0.0

    begun = time.perf_counter()
    result = checks.x0_from_score(endless)
    assert result.status == "error" and "did not end within" in result.message
    assert result.line and result.line.split(": ", 1)[1] in ("while True:", "try:", "abar += 1", "abar = 0.0")
    assert time.perf_counter() - begun < 4
    assert threading.active_count() == before, "the thread is gone"


def test_grad_mode_and_random_state_are_untouched():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        assert checks.noising_loss(loss_as_in_the_lesson).status == "right"
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_result_is_told_by_sign_and_word():
    for status, sign in judging.SIGNS.items():
        result = checks.CheckResult("03.1", status, "a < b", "line 2: x = <y>")
        words = status.replace("_", " ")
        assert all(part in result._repr_html_() for part in (sign, words, "a &lt; b", "&lt;y&gt;"))
        assert repr(result) == f"[{words}] Exercise 03.1: a < b\n    line 2: x = <y>"


def test_registry_is_what_lessons_need_and_hints_step_and_never_tell_the_answer():
    for number, exercise in checks.EXERCISES.items():
        assert exercise.minutes in (5, 10, 15) and exercise.title and number == exercise.number
        assert callable(getattr(checks, exercise.check_name))
        seen = [repr(checks.hint(number)) for _ in range(4)]
        assert [sum(hint in text for hint in exercise.hints) for text in seen] == [1, 2, 3, 3]
        assert "?" in exercise.hints[0] and "=" in exercise.hints[1] and "____" in exercise.hints[2]
        assert seen[0].startswith(f"Hint 1 of 3 for exercise {number}")
    with pytest.raises(ValueError, match=r"no exercise '99\.1'"):
        checks.hint("99.1")
    for number, asked in checks.PREDICTIONS.items():
        assert 2 <= len(asked.choices) <= 5 and asked.question.strip()
        assert number.startswith("00") or (asked.answer in asked.choices and asked.why.endswith("."))


def radio(prediction):
    return prediction.widget().children[1]


def test_prediction_is_kept_and_revealed():
    asked = checks.PREDICTIONS["03.p1"]
    buttons = radio(checks.predict("03.p1"))
    assert buttons.value is None and buttons.description and tuple(buttons.options) == asked.choices
    told = repr(checks.reveal("03.p1"))
    assert "You made no guess." in told and asked.answer in told and asked.why in told
    buttons.value = asked.choices[0]
    assert f"You guessed: {asked.choices[0]}." in repr(checks.reveal("03.p1"))
    assert f"The answer: {asked.answer}." in repr(checks.reveal("03.p1"))
    assert radio(checks.predict("03.p1")).value == asked.choices[0]
    buttons.value = asked.answer
    assert f"Right: {asked.answer}." in checks.reveal("03.p1")._repr_html_()


def test_prediction_shows_its_choices_without_a_widget():
    prediction = checks.predict("04.p1")
    bundle = prediction._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    for text in (bundle["text/plain"], bundle["text/html"], repr(prediction)):
        assert all(choice in text for choice in prediction.asked.choices)


def test_prediction_of_a_lessons_own(monkeypatch):
    monkeypatch.setattr(predictions, "PREDICTIONS", {})
    assert checks.predict("09.p1", ["up", "down"]).asked.choices == ("up", "down")
    assert "A later lesson" in repr(checks.reveal("09.p1"))
    checks.predict("09.p2", "Where to?", ["up", "down"], answer="up", why="It is light.")
    assert "The answer: up. It is light." in repr(checks.reveal("09.p2"))
    with pytest.raises(ValueError, match="not one of the choices"):
        checks.predict("09.p3", "Where to?", ["up", "down"], answer="left")
    for unknown in (checks.predict, checks.reveal):
        with pytest.raises(ValueError, match=r"no prediction '09\.p9'"):
            unknown("09.p9")


def test_remember_and_recall(progress_file):
    assert checks.recall("01.t", 400) == 400
    checks.remember("01.t", 250)
    assert checks.recall("01.t") == 250
    assert json.loads(progress_file.read_text(encoding="utf-8"))["kept"] == {"01.t": 250}
    assert checks.recall("00.p1") is None
    radio(checks.predict("00.p1")).value = checks.PREDICTIONS["00.p1"].choices[1]
    assert checks.recall("00.p1") == checks.PREDICTIONS["00.p1"].choices[1]
    with pytest.raises(TypeError):
        checks.remember("model", object())
    assert checks.recall("01.t") == 250


def wrong_step(x_t, eps, abar, abar_prev, eta, noise):
    return x_t


def test_yours_gives_a_right_function_only(progress_file):
    assert checks.yours("04.2", step_as_in_the_paper) is step_as_in_the_paper
    for function in (None, stub("x"), wrong_step, samplers.sample_ddim):
        assert checks.yours("04.2", function) is None
    assert not progress_file.exists(), "asking is not an attempt"


def test_progress_tells_what_is_done():
    checks.x0_from_score(None)
    assert f"0 of {len(EXERCISES)} exercises right, 0 of" in repr(checks.progress())
    checks.x0_from_score(x0_of_score)
    checks.x0_from_score(nan)
    checks.ddim_step(wrong_step)
    radio(checks.predict("04.p2")).value = "similar"
    told = repr(checks.progress())
    assert f"1 of {len(EXERCISES)} exercises right, 1 of" in told and "guessed: similar" in told
    assert "04 Sampling                   ● ◐ □ ■ □" in told, "04.1: right once stays right"
    html = checks.progress()._repr_html_()
    assert "guessed: similar" in html and re.search(r'"04\.2 [^"]*wrong" style="[^"]*gradient', html)
    assert html.count('role="img"') == len(EXERCISES) + len(checks.PREDICTIONS)
    lesson_07 = checks.predict("00.p1").widget()
    lesson_07.children[1].index = 0
    assert "Lesson 07" in lesson_07.children[2].value


DAMAGED = ["", "{", "[1, 2]", "null", '{"exercises": 3, "guesses": ["a"], "kept": null}', "\0\xff"]
DAMAGED += ['{"exercises": {"04.1": 7}}', '{"exercises": {"04.1": {"status": "?"}}, "guesses": {"04.p2": 4}}']


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_progress_harms_nothing(progress_file, text):
    progress_file.write_text(text, encoding="latin-1")
    assert f"0 of {len(EXERCISES)} exercises right" in repr(checks.progress())
    assert "no guess" in repr(checks.reveal("04.p2"))
    assert checks.recall("01.t", 3) == 3
    assert checks.x0_from_score(x0_of_score).status == "right"
    checks.remember("01.t", 5)
    assert checks.recall("01.t") == 5
    assert f"1 of {len(EXERCISES)} exercises right" in repr(checks.progress())


def test_progress_that_cannot_be_written_lasts_for_the_session(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("LESSONS_PROGRESS", str(blocked / "progress.json"))
    checks.remember("01.t", 5)
    assert checks.x0_from_score(x0_of_score).status == "right"
    assert checks.recall("01.t") == 5
    assert f"1 of {len(EXERCISES)} exercises right" in repr(checks.progress())


def test_progress_lives_in_the_project(monkeypatch):
    monkeypatch.delenv("LESSONS_PROGRESS")
    assert store.path().name == "progress.json" and (store.path().parent / "pyproject.toml").exists()
