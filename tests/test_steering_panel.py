"""The comparison of guidances without a browser: one noise, what wins, ticks, replay, errors, GIF, still."""

import re
import time

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from panel_tools import done, text_of

from classroom.panels import MethodComparison, draw_digit
from classroom.panels.same_noise_rows import moment_of, row_frames, share_of, side_for
from lessons_lib import weights
from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.pipeline import GenerationRequest
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"image_size": 8, "widths": (32, 32)}


def save(network, path, schedule, seed):
    """Write random weights; layers that start at zero would make every picture the same."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.3)
    card = {"defaults": {"guidance_scale": 2.0, "sampler": "ddim", "steps": 5}}
    weights.save_pretrained(path, network, schedule, card)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny random weights: a denoiser, two classifiers (one of another schedule) and an evaluator."""
    folder, T = tmp_path_factory.mktemp("weights"), 50
    torch.manual_seed(0)
    denoiser = UNet(UNetConfig(8, 1, 32, channel_mults=(1,), attention_levels=(), num_classes=10))
    save(denoiser, folder / "denoiser.safetensors", NoiseSchedule.linear(T), 1)
    classifier = NoisyClassifier(NoisyClassifierConfig(**SMALL, embedding_channels=16))
    save(classifier, folder / "guide.safetensors", NoiseSchedule.linear(T), 2)
    save(classifier, folder / "other.safetensors", NoiseSchedule.cosine(T), 3)
    save(Evaluator(EvaluatorConfig(**SMALL)), folder / "evaluator.safetensors", None, 4)
    return folder


@pytest.fixture
def methods(folder):
    place = {"weights": folder / "denoiser.safetensors"}
    steered = place | {"guidance": "classifier", "classifier": folder / "guide.safetensors"}
    return {"steered": steered, "free": place | {"guidance": "cfg"}, "none": place | {"guidance": "none"}}


@pytest.fixture
def make(methods, folder):
    def make(chosen=methods, **options):
        return done(
            MethodComparison(
                chosen, **{"samples": 3, "steps": 5, "evaluator": folder / "evaluator.safetensors"} | options
            )
        )

    return make


def shown(panel):
    """The names of the rows that can be seen."""
    return [name for name, box in panel._boxes.items() if box.layout.display != "none"]


# -- the first state -------------------------------------------------------------------------------


def test_first_state_is_the_finished_pictures(make):
    panel = make()
    assert list(panel.drawings) == ["steered", "free", "none"] == shown(panel)
    assert panel.scrubber.value == panel.scrubber.max == 5 and "finished images" in panel.moment.value
    for name, drawing in panel.drawings.items():
        assert drawing.images.shape == (3, 1, 8, 8)
        right = sum(reading.label == 7 for reading in drawing.readings)
        heading = panel.headings[name].value
        assert re.fullmatch(rf"<b>{name}</b>: {right} of 3 read as 7, \d+ ms", heading)
        assert len(re.findall(r">\d \(\d+%\)<", panel.rows[name].value)) == 3
        assert f'alt="{name}, image 3: {drawing.readings[2].label} (' in panel.rows[name].value
        assert f"{name} {right} of 3" in text_of(panel)
    assert 'role="status"' in panel.status.value


def test_rows_are_what_generation_draws_from_one_noise(make, methods):
    panel = make(guidance_scale=3.0, seed=4)
    first, *others = panel.drawings.values()
    assert all(torch.equal(first.states[0], other.states[0]) for other in others)
    for name, fields in methods.items():
        scale = {} if name == "none" else {"guidance_scale": 3.0}
        request = GenerationRequest((7,) * 3, sampler="ddim", steps=5, seed=4, **scale, **fields)
        assert torch.equal(panel.drawings[name].images, draw_digit(request, evaluator=None).images)
    assert not torch.equal(first.images, others[0].images)


def test_every_control_has_a_description_and_waits_for_the_hand(make):
    panel = make(interval=True)
    asked = (panel.digit, panel.guidance_scale, panel.sampler, panel.steps, panel.seed, panel.interval)
    for control in asked:
        assert control.description and control.tooltip
        assert getattr(control, "continuous_update", False) is False
    for control in (panel.new_seed, panel.save, panel.scrubber, *panel.ticks.values()):
        assert control.description and control.tooltip
    assert panel.view.description and (panel.guidance_scale.max, panel.guidance_scale.step) == (16, 0.5)
    assert [tick.description for tick in panel.ticks.values()] == ["steered", "free", "none"]
    assert max(panel.steps.options) <= 50 and panel.interval.max == 49


def test_a_scale_beyond_the_slider_makes_it_longer(make):
    panel = make(guidance_scale=20.0)
    assert panel.guidance_scale.value == panel.guidance_scale.max == 20


# -- what wins -------------------------------------------------------------------------------------


def test_own_fields_win_over_the_controls(make, methods):
    pinned = methods["free"] | {"guidance_scale": 1.0, "steps": 2, "spacing": "leading"}
    panel = make({"pinned": pinned, "free": methods["free"], "none": methods["none"]})
    before = dict(panel.drawings)
    assert len(before["pinned"].timesteps) == 2 and len(before["free"].timesteps) == 5
    panel.guidance_scale.value = 1.5
    after = done(panel).drawings
    assert after["pinned"] is before["pinned"] and after["none"] is before["none"], "not drawn again"
    assert not torch.equal(after["free"].images, before["free"].images)
    assert panel.request("pinned", panel.settings()).spacing == "leading"


@pytest.mark.parametrize(("spacing", "expected"), [(None, None), ("logsnr", "logsnr")])
def test_spacing_is_for_every_sampler(make, methods, spacing, expected):
    panel = make({"free": methods["free"]}, spacing=spacing)
    for sampler in ("ddim", "ddpm", "dpmpp_2m"):
        panel.sampler.value = sampler
        request = panel.request("free", panel.settings())
        assert (request.sampler, request.spacing) == (sampler, expected)
    assert 'role="status"' in done(panel).status.value


def test_interval_is_handed_on(make, methods):
    panel = make(interval=True)
    everywhere = dict(panel.drawings)
    assert panel.settings()["interval"] is None
    panel.interval.value = (10, 25)
    done(panel)
    request = GenerationRequest(
        (7,) * 3, sampler="ddim", steps=5, guidance_scale=4.0, interval=(10, 25), **methods["steered"]
    )
    drawn = panel.drawings["steered"].images
    assert torch.equal(drawn, draw_digit(request, evaluator=None).images)
    assert not torch.equal(drawn, everywhere["steered"].images)
    assert panel.drawings["none"] is everywhere["none"], "it hears no guidance at any t"
    assert make().interval is None


# -- moving controls -------------------------------------------------------------------------------


def test_a_moved_slider_draws_again_and_keeps_the_others(make):
    panel = make()
    before = panel.drawings["steered"].images
    panel.guidance_scale.value = 9
    panel.digit.value = 2
    done(panel)
    assert panel.settings()["guidance_scale"] == 9 and "read as 2" in panel.headings["steered"].value
    assert not torch.equal(panel.drawings["steered"].images, before)


def test_twenty_quick_moves_end_with_the_last(make, methods):
    panel = make()
    for k in range(20):
        panel.digit.value = k % 10
        time.sleep(0.005)
    done(panel)
    request = GenerationRequest((9,) * 3, sampler="ddim", steps=5, guidance_scale=4.0, **methods["free"])
    assert torch.equal(panel.drawings["free"].images, draw_digit(request, evaluator=None).images)
    assert all("read as 9" in heading.value for heading in panel.headings.values())


def test_new_seed_draws_other_noise(make):
    panel = make()
    before, seeds = panel.drawings["free"].states[0], set()
    for _ in range(5):
        panel.new_seed.click()
        seeds.add(panel.seed.value)
    assert len(seeds) > 1 and not torch.equal(done(panel).drawings["free"].states[0], before)


def test_a_tick_hides_a_row_and_shows_it_again(make):
    panel = make()
    before = dict(panel.drawings)
    panel.ticks["free"].value = False
    assert shown(panel) == ["steered", "none"], "hidden at once"
    assert list(done(panel).drawings) == ["steered", "none"] and "free" not in text_of(panel)
    panel.ticks["free"].value = True
    assert done(panel).drawings == before and shown(panel) == list(before), "nothing is drawn again"


def test_a_row_that_comes_back_is_drawn_with_the_new_settings(make):
    panel = make()
    before = panel.drawings["free"]
    panel.ticks["free"].value = False
    panel.digit.value = 3
    done(panel)
    panel.ticks["free"].value = True
    assert done(panel).drawings["free"] is not before and "read as 3" in panel.headings["free"].value


def test_at_least_one_method_stays_on(make):
    panel = make()
    panel.ticks["free"].value = panel.ticks["none"].value = False
    before = done(panel).drawings
    panel.ticks["steered"].value = False
    assert panel.ticks["steered"].value is True and text_of(panel) == "At least one method stays on."
    assert done(panel).drawings is before and shown(panel) == ["steered"]
    panel.ticks["none"].value = True
    assert shown(done(panel)) == ["steered", "none"] and 'role="status"' in panel.status.value


# -- the replay ------------------------------------------------------------------------------------


def test_replay_moves_all_rows_through_time(make):
    panel, seen = make(), set()
    for k, t in enumerate([*panel.drawings["free"].timesteps, None]):
        panel.scrubber.value = k
        seen |= {row.value for row in panel.rows.values()}
        assert (f"t = {t}, step {k + 1} of 5" if t is not None else "finished images") in panel.moment.value
    assert len(seen) == 3 * 6
    panel.scrubber.value = 2
    assert "estimate at t = " in panel.rows["free"].value and "estimate" in panel.moment.value
    assert ">→ " in panel.rows["free"].value, "the reading is of the finished image"
    panel.view.value = "state"
    assert "state at t = " in panel.rows["free"].value and panel.rows["free"].value not in seen
    panel.scrubber.value = panel.scrubber.max
    assert panel.rows["free"].value in seen, "the finished images are the same in both views"


def test_replay_keeps_its_place_when_drawn_again(make):
    panel = make()
    panel.steps.value = 10
    assert done(panel).scrubber.value == panel.scrubber.max == 10
    panel.scrubber.value = 5
    panel.steps.value = 20
    assert done(panel).scrubber.value == 10 and "step 11 of 20" in panel.moment.value


def test_moment_of_rows_with_fewer_steps(make, methods):
    panel = make({"two": methods["free"] | {"steps": 2}, "five": methods["free"]})
    two, five = panel.drawings.values()
    early, late = two.timesteps
    assert [moment_of(two, k, 5, "state")[1] for k in range(6)] == [early, early, early, late, late, None]
    for k in range(5):
        assert torch.equal(moment_of(five, k, 5, "state")[0], five.states[k])
        assert torch.equal(moment_of(five, k, 5, "estimate")[0], five.estimates[k])
    assert torch.equal(moment_of(two, 5, 5, "state")[0], two.images)
    panel.scrubber.value = 1
    assert panel.moment.value.count("t = ") == 0, "the rows stand at different timesteps"


def test_replay_answers_within_50_ms(make):
    panel, times = make(samples=5), []
    for k in (0, 1, 2, 3, 4, 5) * 3:
        started = time.thread_time()
        panel.scrubber.value = k
        times.append(time.thread_time() - started)
    assert sorted(times)[len(times) // 2] < 0.05


# -- errors ----------------------------------------------------------------------------------------


def test_an_error_is_a_sentence_and_the_panel_goes_on(make, methods, folder):
    wrong = methods["steered"] | {"classifier": folder / "other.safetensors"}
    panel = make({"free": methods["free"], "wrong": wrong})
    assert text_of(panel).startswith("wrong: The classifier") and "another schedule" in text_of(panel)
    assert 'role="alert"' in panel.status.value and panel.drawings == {} and panel.still() is None
    panel.ticks["wrong"].value = False
    assert list(done(panel).drawings) == ["free"] and 'role="status"' in panel.status.value
    panel.digit.value = 1
    assert "read as 1" in done(panel).headings["free"].value


def test_missing_weights_are_named_with_their_method(make, methods, tmp_path):
    panel = make(methods | {"gone": {"weights": tmp_path / "none.safetensors"}})
    assert text_of(panel).startswith("gone: There are no weights")


def test_missing_evaluator_still_draws(make, tmp_path):
    panel = make(evaluator=tmp_path / "none.safetensors")
    assert "There is no evaluator" in text_of(panel) and "read as" not in panel.headings["free"].value
    assert "no evaluator" in panel.still()[1]


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({}, "At least one method"),
        ({"a": {"guidence": "cfg"}}, "The method 'a' sets 'guidence': choose from .*weights, guidance"),
        ({"a": {"seed": 3}}, "The method 'a' sets seed, but all rows share digit and noise"),
    ],
)
def test_methods_that_cannot_be_compared(methods, message):
    with pytest.raises(ValueError, match=message):
        MethodComparison(methods)


def test_names_are_text(make, methods):
    panel = make({"mine <new>": methods["free"]})
    assert "mine &lt;new&gt;" in panel.headings["mine <new>"].value
    assert "<new>" not in panel.headings["mine <new>"].value + panel.rows["mine <new>"].value


# -- progress, GIF, still --------------------------------------------------------------------------


def test_progress_is_shared_over_the_rows():
    def steps():
        yield 0.5
        yield 1.0
        return "drawing"

    work, seen = share_of(steps(), 1, 4), []
    with pytest.raises(StopIteration) as end:
        while True:
            seen.append(next(work))
    assert seen == [0.375, 0.5] and end.value.value == "drawing"


def test_a_row_fits_the_panel():
    assert (side_for(0), side_for(4), side_for(5), side_for(40)) == (112, 112, 84, 28)
    assert all(count * side_for(count) + 8 * (count - 1) <= 552 for count in range(1, 16))


def test_save_gif(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = make()
    panel.ticks["none"].value = False
    panel.view.value = "state"
    before = done(panel).drawings
    for name in ("steering-7-s4.0-seed0.gif", "steering-7-s4.0-seed0-2.gif"):
        panel.save.click()
        done(panel)
        frames = iio.imread(tmp_path / name, index=None)
        assert frames.shape[:3] == (6, 2 * 24 + 6, 3 * 24 + 2 * 3), "two rows of three, lines between"
        assert (frames[:, 24:30] == 153).all() and name in panel.saved.value
        assert str(tmp_path) in panel.saved.value
    assert "steered, free" in panel.gif.value and panel.gif.layout.display == "block"
    assert all(panel.drawings[name] is drawing for name, drawing in before.items())


def test_frames_end_with_the_finished_images(make):
    drawings = make().drawings
    states, estimates = (row_frames(drawings, view, scale=1) for view in ("state", "estimate"))
    assert len(states) == len(estimates) == 6
    assert np.array_equal(states[-1], estimates[-1]) and not np.array_equal(states[0], estimates[0])


def test_gif_of_what_was_asked_for_last(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = make()
    panel.digit.value = 3
    panel.save.click()  # before the 3 is drawn
    panel.digit.value = 5
    done(panel)
    assert (tmp_path / "steering-3-s4.0-seed0.gif").exists()
    assert "read as 5" in panel.headings["free"].value


def test_gif_that_cannot_be_written(make, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    panel = make()
    monkeypatch.setattr("classroom.panels.steering.Path.cwd", lambda: tmp_path / "file" / "folder")
    panel.save.click()
    assert "cannot be written" in text_of(done(panel))


def test_still_says_what_is_read_in_each_row(make):
    panel = make()
    picture, alt = panel.still()
    pixels = iio.imread(picture, extension=".png")
    assert pixels.shape[0] > 200 and pixels.std() > 1
    assert alt.startswith("Target digit 7, guidance scale 4, the same noise in each row. ")
    for name, drawing in panel.drawings.items():
        read = ", ".join(str(reading.label) for reading in drawing.readings)
        right = sum(reading.label == 7 for reading in drawing.readings)
        assert f"{name}: read as {read} ({right} of 3 as asked)" in alt
    data, metadata = panel._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == alt == data["text/plain"]


def test_nothing_is_printed(make, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    panel = make()
    panel.digit.value = 1
    panel.save.click()
    done(panel)
    assert capfd.readouterr() == ("", "")
