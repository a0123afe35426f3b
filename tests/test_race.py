"""The race of samplers without a browser: turns, counts, places, and a learner's sampler in a lane."""

import re
import threading
import time

import pytest
import torch
from panel_tools import done, text_of

from classroom.panels import SamplerRace
from classroom.panels.lanes import Runner, apart, rounds, runner_for, summary
from classroom.panels.race import LANES
from lessons_lib import weights
from lessons_lib.classifier import Evaluator, EvaluatorConfig
from lessons_lib.pipeline import GenerationRequest, generate_images
from lessons_lib.samplers import Step, sample_ddim
from lessons_lib.schedules import NoiseSchedule, spaced_timesteps_logsnr
from lessons_lib.unet import UNet, UNetConfig

TINY = UNetConfig(
    image_size=8, in_channels=1, base_channels=32, channel_mults=(1,), attention_levels=(), num_classes=10
)

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = {
    "DDPM": {"sampler": "ddpm", "steps": 8},
    "DDIM": {"sampler": "ddim", "steps": 5},
    "fast": {"sampler": "dpmpp_2m", "steps": 3},
}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Tiny random weights, as keywords of the panel."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    network = UNet(TINY)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    weights.save_pretrained(folder / "denoiser.safetensors", network, NoiseSchedule.linear(50), {})
    reader = Evaluator(EvaluatorConfig(image_size=8, widths=(32, 32)))
    weights.save_pretrained(folder / "evaluator.safetensors", reader, None, {})
    return {"weights": folder / "denoiser.safetensors", "evaluator": folder / "evaluator.safetensors"}


def words(panel, name):
    """What a lane says, without its tags."""
    return re.sub("<[^>]*>", "", panel.notes[name].value)


def asks_twice(eps_fn, schedule, x_T, timesteps):
    """Asks in the middle of each step once more, but not in the last."""
    x = x_T
    for k, step in enumerate(sample_ddim(eps_fn, schedule, x_T, timesteps)):
        if k < len(timesteps) - 1:
            eps_fn(x, timesteps[k : k + 1])
        x = step.x_t
        yield step


def stand_in(name, total, cost=1, log=None):
    """A runner without a network: each step costs so many evaluations."""

    def turns():
        for k in range(1, total + 1):
            if log is not None:
                log.append(name)
            yield k * cost, Step(total - k, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))

    return Runner(name, turns(), total, torch.ones(1, 1, 2, 2))


# -- turns and places ------------------------------------------------------------------------------


def test_one_evaluation_each_in_turn():
    log = []
    runners = [stand_in("a", 4, log=log), stand_in("b", 2, log=log), stand_in("twice", 2, cost=2, log=log)]
    assert list(rounds(runners))[-1] is True
    assert log == ["a", "b", "twice", "a", "b", "a", "twice", "a"]
    assert [runner.place for runner in runners] == [2, 1, 2], "equally many evaluations share a place"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_places_follow_the_evaluations_in_any_order_of_the_lanes(order):
    makers = [
        lambda: stand_in("a", 3),
        lambda: stand_in("b", 3, 3),
        lambda: stand_in("c", 8),
        lambda: stand_in("d", 8),
    ]
    runners = [makers[k]() for k in order]
    list(rounds(runners))
    places = {runner.name: runner.place for runner in runners}
    assert places == {"a": 1, "b": 4, "c": 2, "d": 2}


def test_steps_that_ask_nothing_take_no_turn():
    runners = [stand_in("idle", 5, cost=0), stand_in("a", 2)]
    list(rounds(runners))
    assert [runner.place for runner in runners] == [1, 2] and runners[0].made == 5


def test_distances_are_measured_against_the_longest_lane_without_noise():
    def ended(name, value, evaluations, adds_noise=False):
        image = torch.full((1, 1, 2, 2), value)
        made = {"evaluations": evaluations, "adds_noise": adds_noise, "place": 1}
        return Runner(name, iter(()), evaluations, image, **made)

    runners = [ended("DDPM", 1.0, 50, True), ended("DDIM", -1.0, 25), ended("yours", 0.0, 99)]
    best, distances = apart(runners)
    assert best.name == "DDIM" and distances == {"DDPM": 1.0, "yours": 0.5}
    assert "from the picture of DDIM: DDPM 1.000, yours 0.500" in summary(runners)
    assert "DDPM adds new noise in every step, so it draws another picture" in summary(runners)
    assert "noise in every step" not in summary(runners[1:])
    assert apart(runners[:1]) is None and "distance" not in summary(runners[:1])


# -- the panel -------------------------------------------------------------------------------------


def test_first_state_and_defaults():
    assert {name: lane["steps"] for name, lane in LANES.items()} == {
        "DDPM": 50,
        "DDIM": 25,
        "DPM-Solver++(2M)": 10,
    }
    panel = SamplerRace(sampler_fn=sample_ddim)
    assert [slider.description for slider in panel.steps.values()] == [*LANES, "yours"]
    assert panel.settings()["steps"] == {"DDPM": 50, "DDIM": 25, "DPM-Solver++(2M)": 10, "yours": 10}
    for control in (panel.digit, panel.guidance_scale, panel.seed, *panel.steps.values()):
        assert control.description and control.tooltip and control.continuous_update is False
    for name in panel.steps:
        panel.steps[name].value = 1  # a race of one step each: the shipped network takes its time
    done(panel)
    assert "were first together, after 1 evaluation." in text_of(panel)


def test_all_arrive_and_say_how(names):
    panel = done(SamplerRace(SHORT, seed=4, **names))
    for name, place, spent in (("fast", "1st", 3), ("DDIM", "2nd", 5), ("DDPM", "3rd", 8)):
        pattern = rf"{place}: {spent} evaluations, \d+ ms, read as \d \(\d+%\).*"
        assert re.fullmatch(pattern, words(panel, name)), words(panel, name)
        assert re.search(r'alt="[^"]+"', panel.pictures[name].value)
        asked = GenerationRequest(
            (7,), names["weights"], guidance_scale=2.0, seed=4, **{k: SHORT[name][k] for k in SHORT[name]}
        )
        torch.testing.assert_close(panel.runners[name].image, generate_images(asked))
        assert panel.runners[name].milliseconds > 0
    assert text_of(panel).startswith("fast was first, after 3 evaluations. Mean distance")
    assert "DDPM adds new noise" in text_of(panel)


def test_all_lanes_start_from_the_same_noise(names):
    seen = []

    def mine(eps_fn, schedule, x_T, timesteps):
        seen.append((x_T.clone(), timesteps))
        yield from sample_ddim(eps_fn, schedule, x_T, timesteps)

    requests = [GenerationRequest((7,), names["weights"], seed=3, **lane) for lane in SHORT.values()]
    starts = [runner_for(name, request).image for name, request in zip(SHORT, requests, strict=True)]
    assert all(torch.equal(start, starts[0]) for start in starts)
    panel = done(SamplerRace(SHORT, seed=3, sampler_fn=mine, **names))
    x_T, timesteps = seen[0]
    assert torch.equal(x_T, starts[0]) and torch.equal(x_T, requests[0].plan().x_T)
    assert torch.equal(timesteps, spaced_timesteps_logsnr(NoiseSchedule.linear(50), 10))
    panel.steps["yours"].value = 4
    done(panel)
    assert len(seen[-1][1]) == 4 and panel.runners["yours"].evaluations == 4


def test_a_sampler_that_asks_twice_a_step_pays_twice(names):
    panel = done(SamplerRace(SHORT, sampler_fn=asks_twice, **names))
    yours = panel.runners["yours"]
    assert (yours.evaluations, yours.made, yours.place) == (19, 10, 4)
    assert words(panel, "yours").startswith("4th: 19 evaluations, ")
    panel.steps["yours"].value = 3
    assert done(panel).runners["yours"].evaluations == 5 and panel.runners["yours"].place == 2


def test_an_error_in_the_learners_sampler_is_one_sentence_and_the_others_finish(names):
    def breaks(eps_fn, schedule, x_T, timesteps):
        yield from sample_ddim(eps_fn, schedule, x_T, timesteps[:2])
        raise KeyError("abar")

    def quits(eps_fn, schedule, x_T, timesteps):
        raise SystemExit

    panel = done(SamplerRace(SHORT, sampler_fn=breaks, **names))
    assert re.match(r"Your sampler stopped in line \d+, `raise KeyError", words(panel, "yours"))
    assert 'role="alert"' in panel.notes["yours"].value and "Traceback" not in panel.notes["yours"].value
    assert [panel.runners[name].place for name in SHORT] == [3, 2, 1]
    assert text_of(panel).startswith("fast was first") and "yours did not arrive." in text_of(panel)
    panel.sampler_fn = quits
    panel.again.click()
    assert "SystemExit" in words(done(panel), "yours") and panel.runners["DDIM"].place == 2
    alone = done(SamplerRace({}, sampler_fn=breaks, **names))
    assert "Your sampler stopped" in text_of(alone) and alone.still() is None


def test_stale_races_are_dropped(names):
    reached, go, calls = threading.Event(), threading.Event(), []

    def waits(eps_fn, schedule, x_T, timesteps):
        for step in sample_ddim(eps_fn, schedule, x_T, timesteps):
            reached.set()
            go.wait(30)
            calls.append(step.t)
            yield step

    panel = SamplerRace(SHORT, sampler_fn=waits, **names)
    assert reached.wait(30)
    for digit in (1, 2, 3):
        panel.digit.value = digit
    go.set()
    done(panel)
    assert len(calls) == 1 + 10, "the first race stops after its turn, the second and third never start"
    assert panel._raced["digit"] == 3


def test_a_moved_control_starts_anew_and_keeps_the_others(names):
    panel = done(SamplerRace(SHORT, **names))
    before = panel.runners
    panel.steps["DDIM"].value = 2
    after = done(panel).runners
    assert after is not before and after["DDIM"].evaluations == 2 and after["DDIM"].place == 1
    assert torch.equal(after["fast"].image, before["fast"].image)
    assert text_of(panel).startswith("DDIM was first, after 2 evaluations.")
    panel.again.click()
    assert done(panel).runners is not after and torch.equal(panel.runners["DDPM"].image, after["DDPM"].image)
    seeds = {panel.seed.value}
    for _ in range(5):
        panel.new_seed.click()
        seeds.add(panel.seed.value)
    assert len(seeds) > 1 and not torch.equal(done(panel).runners["fast"].image, after["fast"].image)


def test_the_page_is_updated_live_but_not_too_often(names):
    def slow(eps_fn, schedule, x_T, timesteps):
        for step in sample_ddim(eps_fn, schedule, x_T, timesteps):
            time.sleep(0.02)
            yield step

    panel, seen = SamplerRace(SHORT, sampler_fn=slow, **names), []
    done(panel)
    panel.notes["yours"].observe(lambda change: seen.append((time.monotonic(), change["new"])), "value")
    panel.steps["yours"].value = 50
    started = time.monotonic()
    done(panel)
    elapsed = time.monotonic() - started
    assert 4 < len(seen) <= 20 * elapsed + 3, "the first and the last frame come in any case"
    assert any(re.search(r"\d+ evaluations, step \d+ of 50, read as", text) for _, text in seen)


def test_lanes_that_cannot_run_are_refused(names, tmp_path):
    with pytest.raises(ValueError, match="At least one lane"):
        SamplerRace({})
    with pytest.raises(ValueError, match="The lane 'a' has 'seed': choose from"):
        SamplerRace({"a": {"seed": 3}})
    with pytest.raises(ValueError, match="Unknown sampler 'fast'"):
        SamplerRace({"a": {"sampler": "fast"}})
    with pytest.raises(ValueError, match="'yours' is the lane of sampler_fn"):
        SamplerRace({"yours": {}}, sampler_fn=sample_ddim)
    panel = done(SamplerRace(SHORT, weights=tmp_path / "none.safetensors"))
    assert text_of(panel).startswith("There are no weights") and panel.still() is None


def test_names_are_escaped_and_no_evaluator_is_needed(names):
    lanes = {"<b>": {"sampler": "ddim", "steps": 2}}
    panel = done(SamplerRace(lanes, weights=names["weights"], evaluator=None))
    assert re.fullmatch(r"1st: 2 evaluations, \d+ ms", words(panel, "<b>"))
    assert "<b>:" not in panel.pictures["<b>"].value and "<b>" not in panel.status.value


def test_still(names):
    content, alt = done(SamplerRace(SHORT, **names)).still()
    assert content.startswith(b"\x89PNG")
    assert "Target digit 7" in alt and "DDPM after 8 evaluations" in alt and "fast was first" in alt
