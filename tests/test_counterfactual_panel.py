"""The counterfactual explorer without a browser: cells, clicks, replay, own abduction, errors, GIF, still."""

import functools
import re
import time

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from panel_tools import done, text_of

from classroom.panels import CounterfactualExplorer
from classroom.panels.cells import cells_picture, sources_and, way_frames
from classroom.panels.paths import cell_line, depth_options, paths_of, result_line
from lessons_lib import data, weights
from lessons_lib.classifier import Evaluator, EvaluatorConfig
from lessons_lib.counterfactuals import Abducted, abduct_ddim, in_8_bits
from lessons_lib.pictures import sharpened
from lessons_lib.pipeline import (
    CounterfactualRequest,
    counterfactual_images,
    counterfactuals,
    load_model,
)
from lessons_lib.samplers import ddim_invert
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, T = 8, 50
BLUE = "#2166ac"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny random weights of a denoiser and an evaluator; no layer is zero, or all pictures were the same."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    denoiser = UNet(UNetConfig(SIZE, 1, 32, channel_mults=(1,), attention_levels=(), num_classes=10))
    evaluator = Evaluator(EvaluatorConfig(image_size=SIZE, widths=(32, 32)))
    for network, name, schedule in (
        (denoiser, "denoiser", NoiseSchedule.linear(T)),
        (evaluator, "evaluator", None),
    ):
        for parameter in network.parameters():
            if parameter.abs().sum() == 0:
                torch.nn.init.normal_(parameter, std=0.3)
        weights.save_pretrained(folder / f"{name}.safetensors", network, schedule, {})
    return folder


def pictures(count):
    noise = torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(count))
    return in_8_bits(noise * 2 - 1)


@pytest.fixture
def make(folder):
    def make(count=1, **options):
        settings = {
            "images": pictures(count),
            "sources": range(7, 7 - count, -1) if count < 8 else range(count),
            "weights": folder / "denoiser.safetensors",
            "evaluator": folder / "evaluator.safetensors",
            "steps": 5,
        }
        return done(CounterfactualExplorer(**settings | options))

    return make


def asked(folder, **options):
    options = {"weights": folder / "denoiser.safetensors", "steps": 5, "guidance_scale": 3.0} | options
    return CounterfactualRequest((7,), tuple(range(10)), **options)


def inverse(eps_fn, schedule, x_0, timesteps):
    """What a learner writes: right."""
    *_, last = ddim_invert(eps_fn, schedule, x_0, timesteps)
    return last.x_t


def words(panel):
    """The line about the chosen cell without its tags."""
    return re.sub("<[^>]*>", "", panel.replay.words.value)


# -- the hook in generation ------------------------------------------------------------------------


def test_own_abduction_takes_the_place_of_the_method(folder):
    plan, seen = asked(folder, depth=30).plan(), []

    def own(eps_fn, schedule, x_0, timesteps):
        seen.append((schedule.num_timesteps, x_0, timesteps.tolist()))
        return torch.ones_like(x_0)

    steps = list(plan.predict(plan.abduct(pictures(1), own)))
    (num_timesteps, x_0, timesteps) = seen[0]
    assert len(seen) == 1 and num_timesteps == T
    assert torch.equal(x_0, pictures(1)) and timesteps == [29, 19, 9] == [step.t for step in steps]
    ready = list(plan.predict(plan.abduct(pictures(1), functools.partial(as_abducted, own))))
    assert torch.equal(steps[-1].x_t, ready[-1].x_t), "an Abducted is taken as it is"
    plain = list(counterfactuals(plan.request, pictures(1)))
    assert not torch.equal(steps[-1].x_t, plain[-1].x_t)


def as_abducted(own, eps_fn, schedule, x_0, timesteps):
    return Abducted(own(eps_fn, schedule, x_0, timesteps), timesteps)


@pytest.mark.parametrize("method", ["ddim", "ddpm", "sdedit", "same-noise"])
def test_a_plan_can_be_walked_twice(folder, method):
    request = asked(folder, method=method, seed=3)
    plan = request.plan()
    plain, again = ([step.x_t for step in plan.predict(plan.abduct(pictures(1)))] for _ in range(2))
    assert all(map(torch.equal, plain, again)) and len(plain) == 5
    assert torch.equal(plain[-1].clamp(-1, 1), counterfactual_images(request, pictures(1)))


def test_a_model_in_hand_takes_the_place_of_the_weights(folder):
    model = load_model(folder / "denoiser.safetensors")[:2]
    request = asked(folder)
    elsewhere = asked(folder, weights=folder / "none.safetensors")
    plan = elsewhere.plan(model)
    (*_, plain), (*_, given) = (
        counterfactuals(request, pictures(1)),
        plan.predict(plan.abduct(pictures(1))),
    )
    assert torch.equal(plain.x_t, given.x_t)


# -- the first state -------------------------------------------------------------------------------


def test_first_state_is_drawn_and_chosen(make, folder):
    panel = make()
    paths = panel.paths
    assert panel.method.value == "ddim" and panel.depth.value == T - 1 and panel.row is panel.view is None
    assert torch.equal(paths.images, counterfactual_images(asked(folder), pictures(1)))
    assert paths.images.shape == (10, 1, SIZE, SIZE) and len(paths.states) == 6 and paths.targets == 10
    assert panel.chosen() == (0, 3) and panel.grid.buttons[0, 3].layout.border_top == f"3px solid {BLUE}"
    assert words(panel) == cell_line(paths, 0, 3)
    assert re.match(
        r"7 to 3: the evaluator reads \d \(\d+\.\d%\), L1 0\.\d{3} from the source\.", cell_line(paths, 0, 3)
    )
    assert re.fullmatch(
        r"\d of 9 other digits read as asked, mean L1 0\.\d{3} from the source\. \d+\.\d s\.", text_of(panel)
    )
    assert "t = 29, step 3 of 5" in panel.replay.moment.value, "not at the end: there is something to see"
    assert 'alt="both: Source 7: read as ' in panel.grid.picture.value
    assert panel.grid.footer.value.count("<small>") == 10


def test_the_seven_of_all_lessons_is_the_default():
    panel = CounterfactualExplorer(weights="no-such-weights", evaluator=None)
    seven = in_8_bits(sharpened(data.running_example()))
    assert panel.sources == (7,) and torch.equal(panel.images, seven)
    assert done(panel).paths is None and panel.still() is None
    assert 'role="alert"' in panel.status.value and "no-such-weights" in text_of(panel)


def test_the_numbers_of_the_status_line(make):
    paths = make(2).paths
    unit = (paths.images + 1) / 2
    other = [(row, y) for row, label in enumerate(paths.labels) for y in range(10) if y != label]
    far = [(unit[row * 10 + y] - (paths.sources[row] + 1) / 2).abs().mean().item() for row, y in other]
    right = sum(paths.readings[row * 10 + y].label == y for row, y in other)
    assert result_line(paths).startswith(
        f"{right} of 18 other digits read as asked, mean L1 {np.mean(far):.3f} "
    )


def test_every_control_has_a_description_and_waits_for_the_hand(make):
    panel = make(2)
    for control in (panel.method, panel.guidance_scale, panel.depth, panel.seed, panel.target, panel.row):
        assert control.description and control.tooltip
        assert getattr(control, "continuous_update", False) is False
    for control in (panel.new_seed, panel.save, panel.replay.scrubber):
        assert control.description and control.tooltip
    assert (
        panel.grid.buttons[1, 4].tooltip == "6 to 4" and panel.grid.buttons[1, None].tooltip == "the source"
    )
    assert not any(button.tabbable for button in panel.grid.buttons.values()), "the sliders are the keys' way"


# -- moving controls -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("guidance_scale", 6.0), ("depth", 25), ("method", "ddpm"), ("method", "sdedit")]
)
def test_a_moved_control_gives_other_pictures(make, name, value):
    panel = make()
    before, shown = panel.paths.images, panel.grid.picture.value
    getattr(panel, name).value = value
    done(panel)
    assert not torch.equal(panel.paths.images, before) and panel.grid.picture.value != shown
    assert panel.chosen() == (0, 3) and 'role="status"' in panel.status.value


def test_same_noise_has_no_depth_and_ddim_no_seed(make, folder):
    panel = make(method="same-noise", depth=25)
    assert panel.depth.disabled and not panel.seed.disabled and "no depth" in panel.hint.value
    expected = counterfactual_images(asked(folder, method="same-noise"), pictures(1))
    assert torch.equal(panel.paths.images, expected)
    panel.seed.value = 4
    assert not torch.equal(done(panel).paths.images, expected)
    panel.method.value = "ddim"
    assert not panel.depth.disabled and panel.seed.disabled and panel.new_seed.disabled
    assert "no seed" in panel.hint.value
    assert torch.equal(done(panel).paths.images, counterfactual_images(asked(folder, depth=25), pictures(1)))
    assert panel.seed.value == 4 and panel.depth.value == 25, "controls keep their values"


def test_new_seed_draws_other_noise(make):
    panel = make(method="sdedit")
    before = panel.paths.states[0]
    panel.seed.value = 0
    panel.new_seed.click()
    panel.new_seed.click()
    assert panel.seed.value != 0 and not torch.equal(done(panel).paths.states[0], before)


def test_twenty_quick_moves_end_with_the_last(make, folder):
    panel = make()
    for k in range(20):
        panel.guidance_scale.value = k / 4
        time.sleep(0.005)
    expected = counterfactual_images(asked(folder, guidance_scale=4.75), pictures(1))
    assert torch.equal(done(panel).paths.images, expected)


def test_a_stale_request_is_dropped_between_two_steps(make):
    panel = make()
    shown = []
    show, panel._show = panel._show, lambda result: (shown.append(result[0]["guidance_scale"]), show(result))
    started = []

    def slow(eps_fn, schedule, x_0, timesteps):
        started.append(len(started))
        time.sleep(0.3)
        return x_0

    panel.abduct_fn = slow
    panel.method.options = [("yours", "yours"), *panel.method.options]
    panel.method.value = "yours"
    while not started:
        time.sleep(0.01)
    panel.guidance_scale.value = 1.0
    done(panel)
    assert len(started) == 2 and shown == [1.0]


def test_progress_is_seen_before_abduction_is_done(make):
    seen = []

    def slow(eps_fn, schedule, x_0, timesteps):
        seen.append((panel.progress.value, panel.progress.layout.visibility))
        return x_0

    panel = make(abduct_fn=slow, method="ddim")
    panel.method.value = "yours"
    done(panel)
    assert seen == [(0.02, "visible")] and panel.progress.layout.visibility == "hidden"


def test_progress_grows_to_one(folder):
    request = asked(folder)
    work, seen = paths_of(request.plan(), pictures(1), evaluator=None), []
    with pytest.raises(StopIteration) as end:
        while True:
            seen.append(next(work))
    assert seen == pytest.approx([0.216, 0.412, 0.608, 0.804, 1.0]) and end.value.value.readings == ()


# -- cells -----------------------------------------------------------------------------------------


def test_a_click_chooses_a_cell(make):
    panel = make(3)
    before = panel.replay.estimate.value
    panel.grid.buttons[2, 8].click()
    assert panel.chosen() == (2, 8) and (panel.row.value, panel.target.value) == (3, 8)
    assert words(panel) == cell_line(panel.paths, 2, 8) and words(panel).startswith("5 to 8")
    assert panel.replay.estimate.value != before and "5 to 8" in panel.replay.estimate.value
    framed = [cell for cell, button in panel.grid.buttons.items() if BLUE in str(button.layout.border_top)]
    assert framed == [(2, 8)]
    panel.grid.buttons[1, None].click()
    assert panel.chosen() == (1, 6), "a source is what it is already"


def test_sliders_choose_a_cell(make):
    panel = make(2)
    panel.row.value = 2
    panel.target.value = 9
    assert panel.grid._chosen == (1, 9) and words(panel).startswith("6 to 9: ")


def test_a_click_draws_nothing_anew(make):
    panel = make()
    before = panel.paths
    panel.grid.buttons[0, 5].click()
    assert done(panel).paths is before


def test_the_choice_is_kept_when_drawn_again(make):
    panel = make()
    panel.grid.buttons[0, 5].click()
    panel.replay.scrubber.value = 4
    before = words(panel)
    panel.guidance_scale.value = 7.0
    done(panel)
    assert panel.chosen() == (0, 5) and panel.replay.scrubber.value == 4
    assert words(panel).startswith("7 to 5") and words(panel) != before


def test_replay_goes_from_what_was_abducted_to_the_image(make):
    panel, seen = make(), set()
    paths = panel.paths
    for k, t in enumerate([*paths.timesteps, None]):
        panel.replay.scrubber.value = k
        seen.add(panel.replay.state.value)
        assert (
            f"t = {t}, step {k + 1} of 5" if t is not None else "after the last"
        ) in panel.replay.moment.value
    assert len(seen) == 6
    model, schedule, _ = load_model(panel.weights)
    source_eps = functools.partial(lambda y, x, t: model(x, t, y), torch.tensor([7]))
    with torch.no_grad():
        found = abduct_ddim(source_eps, schedule, pictures(1), torch.tensor(paths.timesteps))
    start = paths.moment(0, 0, 3)[0]
    torch.testing.assert_close(start, found.x.clamp(-1, 1), rtol=0, atol=0.005)
    torch.testing.assert_close(paths.moment(5, 0, 3)[0][0], paths.images[3], rtol=0, atol=0.005)
    assert torch.equal(paths.states[0][2], paths.states[0][9]), "one abduction for all targets"


def test_fewer_steps_at_a_smaller_depth(make):
    panel = make()
    panel.replay.scrubber.value = 5
    panel.depth.value = 25
    done(panel)
    assert panel.paths.timesteps == [19, 9] and panel.replay.scrubber.value == panel.replay.scrubber.max == 2


def test_view_shows_digits_or_differences(make):
    panel = make(2)
    digits = panel.grid.picture.value
    panel.view.value = "differences"
    assert panel.grid.picture.value != digits and "differences: Source 7" in panel.grid.picture.value
    panel.view.value = "digits"
    assert panel.grid.picture.value == digits and panel.grid.footer.value == ""


@pytest.mark.parametrize("count", [1, 3, 10])
def test_cells_lie_below_their_buttons(make, count):
    panel = make(count)
    pixels = cells_picture(panel.paths, "digits", scale=1)
    source, *cells = (int(n) for n in re.findall(r"(\d+)fr", panel.grid._columns.replace("repeat(10", "")))
    assert pixels.shape == (count * (SIZE + 2), source + 10 * cells[0], 3) and cells == [SIZE + 2]
    assert panel.grid.width <= 640
    left = source + 1 + 3 * (SIZE + 2)
    row, image = (count - 1) * (SIZE + 2) + 1, (panel.paths.images[10 * (count - 1) + 3, 0] + 1) * 127.5
    found = pixels[row : row + SIZE, left : left + SIZE, 0][1:-1, 1:-1]
    assert np.abs(found - image.numpy()[1:-1, 1:-1]).max() <= 1
    assert len(panel.grid.buttons) == 11 * count


def test_wrong_readings_are_marked(make):
    paths = make().paths
    missed = paths.missed()
    assert missed.any() and missed.tolist() == [r.label != y for y, r in enumerate(paths.readings)]
    marked = sources_and(paths.sources, paths.images, marked=missed)
    orange = (marked == (214, 96, 77)).all(axis=2)
    assert orange.sum() == int(missed.sum()) * (4 * SIZE - 4)


def test_replay_and_clicks_answer_within_50_ms(make):
    panel, times = make(10), []
    for k in range(15):
        started = time.thread_time()
        panel.grid.buttons[k % 10, k % 9].click()
        times.append(time.thread_time() - started)
    assert sorted(times)[len(times) // 2] < 0.05


# -- the learner's abduction -----------------------------------------------------------------------


def test_the_learners_abduction_is_used(make):
    panel = make(abduct_fn=inverse, depth=25)
    assert panel.method.value == "yours" and "your own" in panel.hint.value
    mine = panel.paths.images
    panel.method.value = "ddim"
    assert torch.equal(done(panel).paths.images, mine), "it is the library's"
    panel = make(abduct_fn=lambda eps_fn, schedule, x_0, timesteps: torch.zeros_like(x_0))
    assert (panel.paths.states[0] == 128).all()


def broken(eps_fn, schedule, x_0, timesteps):
    return x_0 + missing  # noqa: F821


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (broken, r"Your abduction stopped in line \d+, `return x_0 \+ missing.*NameError"),
        (lambda *_: None, r"must return a state of shape \[1, 1, 8, 8\], not NoneType"),
        (lambda e, s, x_0, ts: x_0[:, :, :4], r"not shape \[1, 1, 4, 8\]"),
        (lambda e, s, x_0, ts: x_0 / 0, "values that are not numbers"),
    ],
)
def test_a_broken_abduction_is_a_sentence(make, own, message):
    panel = make(abduct_fn=own)
    assert re.search(message, text_of(panel).replace("&#x27;", "'")) and 'role="alert"' in panel.status.value
    panel.method.value = "ddim"
    assert 'role="status"' in done(panel).status.value and panel.paths is not None


def test_abduction_cannot_change_the_source(make):
    panel = make(abduct_fn=lambda e, s, x_0, ts: x_0.zero_())
    assert torch.equal(panel.paths.sources, pictures(1))


# -- errors ----------------------------------------------------------------------------------------


def test_an_unknown_label_is_a_sentence(make):
    panel = make(sources=[12])
    assert text_of(panel) == "Unknown label 12: choose from 0 to 9."
    panel.grid.buttons[0, None].click()
    assert panel.chosen() == (0, 3) and panel.still() is None


def test_a_depth_that_cannot_be(make):
    panel = make(depth=3)
    assert "No timestep is left at depth 3" in text_of(panel)
    panel.depth.value = 25
    assert 'role="status"' in done(panel).status.value


@pytest.mark.parametrize(
    ("images", "sources", "message"),
    [
        (pictures(2), (7,), "2 images and 1 labels"),
        (pictures(2), None, "2 images and no labels"),
        (pictures(11), range(11), "Give 1 to 10 images"),
        (pictures(1)[0], (7,), "Give 1 to 10 images"),
    ],
)
def test_images_that_do_not_suit(images, sources, message):
    with pytest.raises(ValueError, match=message):
        CounterfactualExplorer(images, sources)


def test_a_missing_evaluator_still_draws(make, tmp_path):
    panel = make(evaluator=tmp_path / "none.safetensors")
    assert text_of(panel).startswith("There is no evaluator on this machine to read them. Mean L1 0.")
    assert words(panel).startswith("7 to 3: L1 0.") and not panel.paths.missed().any()
    assert "not read" in panel.still()[1] and panel.grid.footer.value.count("<small>") == 0


def test_depths_that_have_a_step():
    assert depth_options(1000, 25, 999) == [*range(100, 1000, 100), 999]
    assert depth_options(1000, 25, 250)[:3] == [100, 200, 250]
    assert depth_options(40, 3, 39)[0] == 12


# -- GIF and still ---------------------------------------------------------------------------------


def test_save_gif(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = make(2)
    before = panel.paths
    for name in ("counterfactuals-7-6-ddim-w3.0.gif", "counterfactuals-7-6-ddim-w3.0-2.gif"):
        panel.save.click()
        done(panel)
        frames = iio.imread(tmp_path / name, index=None)
        assert frames.shape[:3] == (6, 2 * 2 * (SIZE + 2), 2 * (11 * (SIZE + 2) + 2))
        assert name in panel.saved.value and name in panel.gif.value
    assert panel.paths is before and panel.gif.layout.display == "block"
    last = sources_and(before.sources, before.images, scale=2)
    assert np.abs(way_frames(before)[-1].astype(int) - last).max() <= 1


def test_gif_that_cannot_be_written(make, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    panel = make()
    monkeypatch.setattr(
        "classroom.panels.counterfactual_explorer.Path.cwd", lambda: tmp_path / "file" / "folder"
    )
    panel.save.click()
    assert "cannot be written" in text_of(done(panel))


@pytest.mark.parametrize(("count", "height"), [(1, 2), (4, 4)])
def test_still_says_what_is_read(make, count, height):
    panel = make(count)
    picture, alt = panel.still()
    assert iio.imread(picture, extension=".png").shape[0] == 2 * height * (SIZE + 2)
    read = ", ".join(str(reading.label) for reading in panel.paths.readings[:10])
    assert f"Source 7: read as {read}." in alt and text_of(panel) in alt
    bundle, metadata = panel._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == alt == bundle["text/plain"]


def test_nothing_is_printed(make, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    panel = make()
    panel.guidance_scale.value = 1
    panel.save.click()
    done(panel)
    assert capfd.readouterr() == ("", "")
