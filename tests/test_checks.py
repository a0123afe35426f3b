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
from wrong_answers import GENERIC, WRONG
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
from lessons_lib import evaluation, guidance, samplers, schedules, toy, unet
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
    found = [
        *exercise.shapes.values(),
        *exercise.errors.values(),
        *exercise.limits.values(),
        exercise.overflow,
    ]
    return {*(variant.sentence for variant in exercise.wrong), *filter(None, found)}


# What stands in the examine of the two exercises that bring their own.
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
    lines = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "classroom/checks").glob("*.py")
    }
    assert sum(lines.values()) <= 3000
    assert all(len(exercise.wrong) <= 10 for exercise in EXERCISES)


@each_exercise
def test_right_answers_are_accepted(exercise):
    assert len(RIGHT[exercise.number]) > 1
    for function in RIGHT[exercise.number]:
        running.warm_up(running.code_of(function))  # which may take seconds, once
        begun = time.perf_counter()
        result = check(exercise.number, function)
        assert (result.status, result.line) == ("right", None), (function.__name__, result)
        assert time.perf_counter() - begun < 5  # under a second, on a machine that does nothing else


@each_exercise
def test_every_diagnosis_is_given_to_an_answer_written_by_hand(exercise):
    told = set()
    for words, function in WRONG[exercise.number]:
        result = check(exercise.number, function)
        assert result.status == "wrong" and words in result.message, (words, result)
        assert "\n" not in result.message and result.message[-1] in ".?"
        told.add(result.message)
    assert sentences(exercise) | OWN.get(exercise.number, set()) <= told


@pytest.mark.parametrize("number, words, function", GENERIC, ids=[f"{one[0]}-{one[1]}" for one in GENERIC])
def test_mistakes_that_any_exercise_may_have_are_named(number, words, function):
    result = check(number, function)
    assert result.status == "wrong" and words in result.message, result


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


def given(number, case=0):
    exercise = checks.EXERCISES[number]
    return exercise.given(*exercise.cases[case])


def test_right_betas_are_the_schedules_and_a_right_jump_is_q_sample():
    for schedule in (schedules.NoiseSchedule.linear(50), schedules.NoiseSchedule.cosine(20)):
        torch.testing.assert_close(right("01.1")(schedule.alphas_cumprod), schedule.betas)
        x_0, eps = torch.randn(2, 2, 3, 4, 5).unbind()
        for t in (0, 7, 19):
            expected = q_sample(schedule, x_0, torch.full((2,), t), eps)
            abar = float(schedule.alphas_cumprod[t])
            torch.testing.assert_close(right("01.2")(x_0, 1.0, abar, eps), expected)


@pytest.mark.parametrize("channels, channels_per_head", [(64, 16), (32, 32)])
def test_right_heads_agree_with_the_network(channels, channels_per_head):
    attention = unet.SelfAttention(channels, channels_per_head)
    torch.nn.init.eye_(attention.project.weight)
    x = torch.randn(2, channels, 3, 5)
    q, k, v = attention.to_qkv(attention.norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=-1)
    inside = (attention(x) - x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(right("02.2")(q, k, v, attention.heads), inside, atol=1e-5, rtol=1e-4)


def test_right_step_is_the_samplers():
    schedule = schedules.NoiseSchedule.cosine(50)
    x_T, eps, noise = torch.randn(3, 2, 3, 4, 5, dtype=torch.float64).unbind()
    for timesteps in ([30, 7], [30]):
        walk = samplers.sample_ddim(
            lambda x, t: eps, schedule, x_T, timesteps, eta=0.7, noise_fn=lambda x: noise, clip_x0=False
        )
        levels = [float(schedule.alphas_cumprod[t]) for t in timesteps] + [1.0]
        torch.testing.assert_close(next(walk).x_t, right("04.2")(x_T, eps, *levels[:2], 0.7, noise))


def test_right_log_probabilities_are_what_guides():
    logit = torch.tensor([-1000.0, -3.0, 0.0, 0.5, 200.0])
    for value in (0, 1):
        wish = guidance.attribute_log_prob(lambda x_t, t: logit[:, None], 0, bool(value))
        expected = wish(torch.zeros(5, 1, 1, 1), torch.zeros(5, dtype=torch.int64))
        torch.testing.assert_close(right("05.1")(logit, torch.full((5,), value)), expected)
    classifier, x_t, t, y = given("05.2")
    wishes = {4: False, 0: True}
    each = [guidance.attribute_log_prob(classifier, i, value)(x_t, t) for i, value in wishes.items()]
    torch.testing.assert_close(right("12.1")(classifier(x_t, t), wishes), sum(each))
    one = right("06.2")(classifier(x_t, t), F.one_hot(y, 6).bool())
    torch.testing.assert_close(one, guidance.class_log_prob(classifier, y)(x_t, t))


def test_right_pull_is_what_guidance_does():
    schedule, s = schedules.NoiseSchedule.cosine(1000), 3.5
    classifier, x_t, t, y = given("05.2")
    eps_fn = lambda x, t: torch.sin(3 * x)  # noqa: E731
    guided = guidance.with_classifier(eps_fn, guidance.class_log_prob(classifier, y), schedule, s)(x_t, t)
    gradient = right("05.2")(classifier, x_t, t, y)
    noise = (1 - schedule.alphas_cumprod[t]).sqrt().float().view(-1, 1, 1, 1)
    torch.testing.assert_close(guided, eps_fn(x_t, t) - s * noise * gradient)
    plain, pulled = (schedules.predict_x0(schedule, x_t, t, eps) for eps in (eps_fn(x_t, t), guided))
    for i in range(2):  # in the third the noise is so large that float32 shows
        mine = right("06.1")(plain[i], gradient[i], float(schedule.alphas_cumprod[t[i]]), s)
        torch.testing.assert_close(mine, pulled[i], rtol=1e-3, atol=1e-3)


def test_right_scale_and_away_are_cfg():
    network, x_t, t, y, _, w = given("07.2")
    null = torch.full_like(y, network.null_label)
    torch.testing.assert_close(
        right("07.2")(network, x_t, t, y, null, w), guidance.with_cfg(network, y, w)(x_t, t)
    )
    eps_a, eps_b, eps_w = (guidance.with_cfg(network, y, scale)(x_t, t) for scale in (1.0, 4.0, 7.5))
    torch.testing.assert_close(right("07.1")(eps_a, 1.0, eps_b, 4.0, 7.5), eps_w, rtol=1e-4, atol=1e-4)


def test_right_inversions_are_the_librarys_and_are_undone_by_the_sampler():
    schedule = schedules.NoiseSchedule.linear(2000)
    eps_fn = toy.GaussianMixture(torch.full((1, 3), 1.5, dtype=torch.float64), 0.5).eps_fn(schedule)
    x_0 = torch.tensor([[0.9, -0.9, 0.3], [1.0, -1.0, 0.0]], dtype=torch.float64)

    def drift(invert, count):
        timesteps = schedules.spaced_timesteps(2000, count)
        *_, last = samplers.sample_ddim(
            eps_fn, schedule, invert(eps_fn, schedule, x_0, timesteps), timesteps, clip_x0=False
        )
        return float((last.x_t - x_0).abs().max())

    assert drift(right("09.2"), 400) < drift(right("09.2"), 100) / 3 < 0.05
    assert drift(checks.EXERCISES["09.2"].planted, 400) > 1
    x, abar = x_0, 1.0
    for one in samplers.ddim_invert(eps_fn, schedule, x_0, torch.tensor([1041, 26, 9])):
        abar_to = float(schedule.alphas_cumprod[one.t])
        x, abar = right("08.2")(eps_fn, x, one.t, abar, abar_to), abar_to
        torch.testing.assert_close(x, one.x_t)


def test_right_error_is_the_metrics():
    intervene, x_0, source, target = given("09.1")
    reader = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 3))  # reversibility wants one
    found = evaluation.reversibility(intervene, reader, x_0, source, target)
    mine = right("09.1")(given("09.1")[0], x_0, source, target)
    assert float(mine.mean()) == pytest.approx(float(found.error), abs=1e-3)


def test_right_heun_is_of_second_order():
    """On Gaussian data, against the ODE's exact end point."""
    mean, std, T = 0.4, 0.3, 20_000
    schedule = schedules.NoiseSchedule.linear(T)
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
        torch.testing.assert_close(
            signal.var() / rest.var() / small.var(), old / (1 - old), rtol=0.05, atol=0.0
        )


def test_right_pull_changes_nothing_in_the_other():
    pull, other = given("12.2", 1)
    assert float((right("12.2")(pull, other) * other).sum(dim=(1, 2, 3)).abs().max()) < 1e-9


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
    (
        "08.1",
        lambda x, K: (x.repeat_interleave(K, 0), torch.arange(K).flip(0).repeat(len(x))),
        "wrong",
        "image 0 of the batch",
    ),
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

    bad = [
        lambda *a: print(end=""),
        lambda *a: torch.zeros(1, 2),
        nan_like,
        lambda *a: "seven",
        Odd(),
        lambda *a: {},
    ]
    for function in (
        *bad,
        lambda *a: (),
        lambda *a: [None],
        lambda *a: (one for one in a),
        lambda *a: 1j,
        lambda *a: a[0],
    ):
        result = check(exercise.number, function)
        assert result.status == "wrong" and "\n" not in result.message and result.message[-1] in ".?", result
    for odd in (Odd, int, len, 7, "f", [check]):
        assert check(exercise.number, odd).status in ("error", "wrong", "not_started")


def test_signature_of_the_function_is_the_checks_docstring():
    assert checks.any_of.__doc__ == "Exercise 06.2: function(logits [B, K], wanted [B, K]) -> [B]."
    assert {"any_of", "to_shown", "held_still", "yours"} <= set(checks.__all__) and "any_of" in dir(checks)


def stub(*names):
    space = {}
    exec(f"def f({', '.join(names)}):\n    '''What to write.'''\n    ...", space)
    return space["f"]


def test_stub_is_not_started():
    for exercise in EXERCISES:
        result = check(exercise.number, stub(*exercise.names))
        assert result.status == "not_started", result
    for other in (None, ..., lambda *a: None, lambda *a: ...):
        assert checks.x0_from_score(other).status == "not_started"


def test_half_written_stub_is_not_started():
    def returns_dots(x_t, score, abar):
        eps = score * abar
        return ... if eps is not None else eps

    def computes_with_dots(x_t, score, abar):
        eps = ...
        return x_t - eps

    def not_implemented(x_t, score, abar):
        raise NotImplementedError

    for function in (returns_dots, computes_with_dots, not_implemented):
        assert checks.x0_from_score(function).status == "not_started"


def test_library_function_is_not_started():
    for function in (q_sample, samplers.sample_ddim, schedules.predict_x0):
        result = checks.x0_from_score(function)
        assert result.status == "not_started" and "library's function" in result.message


def test_a_result_that_cannot_be_used_shows_the_line_that_returns_it():
    def too_small(x_t, score, abar):
        x_0 = x_t[:1]
        return x_0  # here

    def forgotten(x_t, score, abar):
        x_t = x_t * abar  # the last line

    def in_two_places(x_t, score, abar):
        if abar > 0:
            return None
        return None

    assert checks.x0_from_score(too_small).line.endswith("return x_0  # here")
    assert checks.x0_from_score(forgotten).line.endswith("# the last line")
    assert checks.x0_from_score(in_two_places).line is None
    assert checks.x0_from_score(lambda x_t, score, abar: x_t + 7).line is None, (
        "a number that is off has no line"
    )


def test_exception_shows_the_learners_line():
    def raises(x_t, score, abar):
        total = x_t + score
        return total.reshape(7, 7)  # here

    result = checks.x0_from_score(raises)
    assert result.status == "error" and "RuntimeError" in result.message
    assert result.line.endswith("return total.reshape(7, 7)  # here")
    assert os.sep + "test_checks" not in repr(result), "no path of this machine"


def test_exception_inside_the_fake_network_shows_the_learners_line():
    def raises(model, schedule, x_0, generator):
        return model()

    result = checks.noising_loss(raises)
    assert result.status == "error" and result.line.endswith("return model()")


@pytest.mark.parametrize(
    "error", [SystemExit(3), ValueError("two\nlines"), RecursionError(), AssertionError()]
)
def test_whatever_is_raised_is_caught(error):
    def raises(*arguments):
        raise error

    for exercise in EXERCISES:
        result = check(exercise.number, raises)
        assert (
            result.status == "error" and type(error).__name__ in result.message and "\n" not in result.message
        )


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
        html = result._repr_html_()
        assert sign in html and status.replace("_", " ") in html
        assert "a &lt; b" in html and "&lt;y&gt;" in html
        assert repr(result) == f"[{status.replace('_', ' ')}] Exercise 03.1: a < b\n    line 2: x = <y>"


def test_hints_step_and_never_tell_the_answer():
    for exercise in EXERCISES:
        seen = [repr(checks.hint(exercise.number)) for _ in range(4)]
        assert [sum(hint in text for hint in exercise.hints) for text in seen] == [1, 2, 3, 3]
        assert "?" in exercise.hints[0] and "=" in exercise.hints[1] and "____" in exercise.hints[2]
        assert seen[0].startswith(f"Hint 1 of 3 for exercise {exercise.number}")
    with pytest.raises(ValueError, match=r"no exercise '99\.1'"):
        checks.hint("99.1")


def test_registry_is_what_lessons_need():
    for number, exercise in checks.EXERCISES.items():
        assert exercise.minutes in (5, 15) and exercise.title and len(exercise.hints) == 3
        assert callable(getattr(checks, exercise.check_name))
        assert number == exercise.number
    for lesson in ("01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12"):
        assert {one.minutes for one in EXERCISES if one.number.startswith(lesson)} == {5, 15}


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


def test_registered_predictions_are_complete():
    for number, asked in checks.PREDICTIONS.items():
        assert 2 <= len(asked.choices) <= 5 and asked.question.strip()
        if not number.startswith("00"):
            assert asked.answer in asked.choices and asked.why.endswith(".")


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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "null",
        '{"exercises": 3, "guesses": ["a"], "kept": null}',
        '{"exercises": {"04.1": 7}}',
        '{"exercises": {"04.1": {"status": "great", "tries": "x"}}, "guesses": {"04.p2": 4}}',
        "\0\xff",
    ],
)
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
