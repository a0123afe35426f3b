"""The panels without a browser: their logic, their manners, their stills."""

import base64
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import imageio.v3 as iio
import ipywidgets
import pytest
import torch
from panel_tools import done, text_of

from classroom.panels import DigitGenerator, ModelComparison, Panel, draw_digit
from classroom.panels.panel import PATIENCE, sentence
from lessons_lib import weights
from lessons_lib.classifier import Evaluator, EvaluatorConfig
from lessons_lib.data import DataError
from lessons_lib.files import WriteError
from lessons_lib.images import to_grid, to_pixels
from lessons_lib.pipeline import GenerationRequest
from lessons_lib.samplers import Step, sample_ddim
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import WeightsError

ROOT = Path(__file__).resolve().parent.parent
TINY = UNetConfig(
    image_size=8, in_channels=1, base_channels=32, channel_mults=(1,), attention_levels=(), num_classes=10
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny random weights: denoiser.safetensors and evaluator.safetensors."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    defaults = {"defaults": {"guidance_scale": 2.0, "sampler": "ddim", "steps": 5}}
    weights.save_pretrained(folder / "denoiser.safetensors", UNet(TINY), NoiseSchedule.linear(50), defaults)
    reader = Evaluator(EvaluatorConfig(image_size=8, widths=(32, 32)))
    weights.save_pretrained(folder / "evaluator.safetensors", reader, None, {})
    return folder


@pytest.fixture
def names(folder):
    return {"weights": folder / "denoiser.safetensors", "evaluator": folder / "evaluator.safetensors"}


@pytest.fixture
def model(names):
    """(network, schedule), as a learner who has just trained one holds it."""
    return weights.load_pretrained(names["weights"])[:2]


class SlowPanel(Panel):
    """Shows the last number that it was given, after ten slow steps."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.shown, self.steps_made = seconds, [], 0
        self.children = (self.progress, self.status)

    def number(self, n):
        def work():
            for k in range(10):
                time.sleep(self.seconds / 10)
                self.steps_made += 1
                yield (k + 1) / 10
            return n

        self.ask(work, self.shown.append)


# -- manners ---------------------------------------------------------------------------------------


def test_hundred_changes_in_two_seconds_end_with_the_last():
    panel = SlowPanel(seconds=0.3)
    started = time.monotonic()
    for n in range(100):
        panel.number(n)
        time.sleep(0.02)
    asked = time.monotonic() - started
    done(panel)
    assert panel.shown[-1] == 99
    assert panel.steps_made < 1000 / 2, "stale requests must be dropped between their steps"
    assert time.monotonic() - started < asked + 10, "the last picture must not wait for stale ones"


def test_one_worker_off_the_main_thread():
    panel, seen = SlowPanel(0), set()
    for _ in range(20):
        panel.ask(
            lambda: seen.add(threading.current_thread()), lambda _: seen.add(threading.current_thread())
        )
        done(panel)
    assert len(seen) == 1 and threading.main_thread() not in seen


def test_an_idle_worker_ends_and_a_later_request_starts_another(monkeypatch):
    monkeypatch.setattr("classroom.panels.panel.LINGER", 0.05)
    panel = SlowPanel(0)
    for n in (1, 2):
        panel.number(n)
        done(panel)
        deadline = time.monotonic() + 10
        while panel._worker is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert panel._worker is None
    assert panel.shown == [1, 2]


def test_a_file_that_was_asked_for_is_not_dropped():
    panel, written = SlowPanel(0.2), []
    panel.number(1)
    panel.ask(lambda: "file", written.append, keep=True)
    for n in (2, 3):
        panel.number(n)
    done(panel)
    assert written == ["file"] and panel.shown[-1] == 3


@pytest.mark.parametrize("with_steps", [True, False])
def test_progress_bar_appears_only_for_what_takes_long(monkeypatch, with_steps):
    assert PATIENCE == 0.5
    panel, seen = SlowPanel(0.6), []
    panel.progress.layout.observe(lambda change: seen.append(change["new"]), "visibility")
    for patience, expected in ((60, []), (0.1, ["visible", "hidden"])):
        monkeypatch.setattr("classroom.panels.panel.PATIENCE", patience)
        if with_steps:
            panel.number(1)
        else:
            panel.ask(lambda: time.sleep(0.6), lambda _: None)
        done(panel)
        assert seen == expected


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            ValueError("The number of steps must be at least 1, got 0."),
            "The number of steps must be at least 1, got 0.",
        ),
        (WeightsError("There are no weights."), "There are no weights."),
        (DataError("The file is cut short."), "The file is cut short."),
        (WriteError("It cannot be written."), "It cannot be written."),
        (MemoryError(), "There is not enough memory for this: close other programs, or ask for less."),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried to …"),
            "There is not enough memory for this: close other programs, or ask for less.",
        ),
        (RuntimeError("odd\nthing"), "Something went wrong: odd thing"),
        (KeyError(), "Something went wrong: KeyError"),
        (SystemExit(), "Something went wrong: SystemExit"),
        (ValueError("is 1 < 2 & so on?"), "is 1 &lt; 2 &amp; so on?"),
    ],
)
def test_errors_are_sentences_and_the_panel_survives(error, text):
    panel = SlowPanel(0)

    def work():
        yield 0.5
        raise error

    panel.ask(work, panel.shown.append)
    done(panel)
    assert text_of(panel) == text and "Traceback" not in panel.status.value
    assert 'role="alert"' in panel.status.value
    panel.number(5)
    assert done(panel).shown == [5]


def test_error_while_showing():
    panel = SlowPanel(0)
    panel.ask(lambda: 1, lambda _: 1 / 0)
    done(panel)
    assert sentence(ZeroDivisionError("division by zero")) == text_of(panel)


# -- drawing, without a panel ----------------------------------------------------------------------


def test_draw_digit(names):
    request = GenerationRequest((7,), names["weights"], seed=3)
    drawing = draw_digit(request, evaluator=names["evaluator"])
    assert drawing.images.shape == (1, 1, 8, 8) and drawing.images.abs().max() <= 1
    assert len(drawing.states) == 6 and len(drawing.estimates) == len(drawing.timesteps) == 5
    assert drawing.timesteps == sorted(drawing.timesteps, reverse=True)
    assert 0 <= drawing.readings[0].label <= 9 and 0 < drawing.readings[0].probability <= 1
    assert drawing.milliseconds > 0
    again = draw_digit(request, evaluator=None)
    assert torch.equal(again.images, drawing.images) and again.readings == ()


def test_draw_digit_with_model_and_own_sampler(names, model):
    request = GenerationRequest((7,), names["weights"], sampler="ddim", steps=5, guidance_scale=2.0)
    by_name = draw_digit(request, evaluator=None)
    by_model = draw_digit(request, model=model, evaluator=None)
    by_sampler = draw_digit(request, model=model, sampler_fn=sample_ddim, evaluator=None)
    for other in (by_model, by_sampler):
        assert torch.equal(by_name.images, other.images)
        assert all(map(torch.equal, by_name.states, other.states))


def test_draw_digit_without_a_card_has_defaults(model):
    assert len(draw_digit(GenerationRequest((1,)), model=model, evaluator=None).timesteps) == 25


def test_first_picture_needs_no_slow_import(names):
    paths = f"{str(names['weights'])!r}, evaluator={str(names['evaluator'])!r}"
    code = "import sys\nfrom classroom.panels import DigitGenerator\n"
    code += f"panel = DigitGenerator({paths})\npanel.wait(300)\nassert panel.drawing, panel.status.value\n"
    code += "print({'torchvision', 'matplotlib', 'accelerate', 'sklearn'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "set()", run.stdout + run.stderr


def test_pixels_of_one_image_are_those_of_the_grid():
    image = torch.rand(1, 1, 5, 7) * 3 - 1.5
    assert (to_pixels(image[0], scale=3) == to_grid(image, scale=3)).all()


def test_missing_evaluator_still_draws(names, tmp_path):
    panel = done(DigitGenerator(names["weights"], evaluator=tmp_path / "none.safetensors"))
    assert panel.drawing is not None and "There is no evaluator" in text_of(panel)
    assert panel.still() is not None


# -- the learner's own sampler ---------------------------------------------------------------------


def wrong_division(eps_fn, schedule, x_T, timesteps):
    for t in timesteps:
        yield Step(int(t), x_T / (1 // 0), x_T)


def wrong_argument(eps_fn, schedule, x_T, timesteps):
    for t in timesteps:
        yield Step(int(t), eps_fn(x_T, int(t)), x_T)


def returns_nothing(eps_fn, schedule, x_T, timesteps):
    return None


def yields_nothing(eps_fn, schedule, x_T, timesteps):
    yield from ()


def yields_images(eps_fn, schedule, x_T, timesteps):
    yield x_T


def yields_wrong_shape(eps_fn, schedule, x_T, timesteps):
    yield Step(0, x_T[:, :, 1:], x_T)


def never_ends(eps_fn, schedule, x_T, timesteps):
    while True:
        yield Step(0, x_T, x_T)


def yields_nan(eps_fn, schedule, x_T, timesteps):
    for t in timesteps:
        yield Step(int(t), x_T * float("nan"), x_T)


def quits(eps_fn, schedule, x_T, timesteps):
    raise SystemExit


@pytest.mark.parametrize(
    ("sampler_fn", "pattern"),
    [
        (wrong_division, r"Your sampler stopped in line \d+, `.*1 // 0.*`: ZeroDivisionError, .*zero"),
        (wrong_argument, r"Your sampler stopped in line \d+, `.*eps_fn\(x_T, int\(t\)\).*`: \w+Error"),
        (returns_nothing, r"Your sampler returned NoneType: it must yield a Step"),
        (yields_nothing, r"Your sampler ended without a Step"),
        (yields_images, r"must yield Step\(t, x_t, x_0\).*\[1, 1, 8, 8\]; it yielded Tensor"),
        (yields_wrong_shape, r"its x_t is shape \[1, 1, 7, 8\]"),
        (never_ends, r"makes more than the 5 steps"),
        (yields_nan, r"values that are not numbers"),
        (quits, r"SystemExit"),
    ],
)
def test_wrong_samplers_are_named_with_their_line(names, sampler_fn, pattern):
    panel = done(DigitGenerator(**names, sampler_fn=sampler_fn))
    assert re.search(pattern, text_of(panel).replace("&#x27;", "'")), text_of(panel)
    panel.sampler.value = "ddim"
    assert 'role="status"' in done(panel).status.value and panel.drawing is not None


def test_own_sampler_draws_and_can_be_compared_with_the_librarys(names):
    calls = []

    def mine(eps_fn, schedule, x_T, timesteps):
        calls.append(len(timesteps))
        yield from sample_ddim(eps_fn, schedule, x_T, timesteps)

    panel = done(DigitGenerator(**names, sampler_fn=mine))
    assert calls == [5] and panel.sampler.value == "yours"
    own = panel.drawing.images
    panel.sampler.value = "ddim"
    assert torch.equal(done(panel).drawing.images, own) and calls == [5]


def test_a_sampler_that_works_in_place_keeps_its_steps_apart(names):
    def in_place(eps_fn, schedule, x_T, timesteps):
        for t in timesteps:
            x_T.mul_(0.5)
            yield Step(int(t), x_T, x_T)

    states = done(DigitGenerator(**names, sampler_fn=in_place)).drawing.states
    torch.testing.assert_close(states[0] / 32, states[-1])


# -- the digit generator ---------------------------------------------------------------------------


def test_controls_start_where_the_card_says(names):
    panel = done(DigitGenerator(**names, digit=4, seed=9))
    assert panel.request() == GenerationRequest(
        (4,), names["weights"], guidance_scale=2.0, sampler="ddim", steps=5, seed=9
    )
    assert max(panel.steps.options) <= 50, "no more steps than the schedule has timesteps"


def test_every_control_has_a_description_and_waits_for_the_hand(names):
    panel = done(DigitGenerator(**names))
    for control in (panel.digit, panel.guidance_scale, panel.sampler, panel.steps, panel.seed):
        assert control.description and control.tooltip
        assert getattr(control, "continuous_update", False) is False
    for control in (panel.new_seed, panel.save, panel.scrubber):
        assert control.description and control.tooltip


def test_moving_a_slider_draws_again_and_keeps_the_other_values(names):
    panel = done(DigitGenerator(**names))
    before = panel.drawing
    panel.guidance_scale.value = 3.5
    panel.digit.value = 2
    assert done(panel).drawing is not before and panel.drawing.request.labels == (2,)
    assert panel.request().guidance_scale == 3.5
    assert re.match(r"The evaluator reads \d \(\d+\.\d%\), .* Drawn in \d+ ms\.", text_of(panel))


def test_reading_says_whether_it_was_asked_for(names):
    panel = done(DigitGenerator(**names))
    read = panel.drawing.readings[0].label
    panel.digit.value = (read + 1) % 10
    read = done(panel).drawing.readings[0].label
    asked = panel.digit.value
    wanted = "the digit that was asked for" if read == asked else f"not the {asked} that was asked for"
    assert wanted in text_of(panel)
    panel.guidance_scale.value = 0
    assert "at scale 0 the network is not told" in text_of(done(panel))


def test_hundred_moves_end_with_the_picture_of_the_last(names):
    panel = done(DigitGenerator(**names, steps=20))
    for n in range(100):
        panel.digit.value = n % 10
        time.sleep(0.02)
    done(panel)
    expected = draw_digit(GenerationRequest((9,), names["weights"], steps=20), evaluator=None)
    assert panel.drawing.request.labels == (9,) and torch.equal(panel.drawing.images, expected.images)


def test_new_seed_draws_other_noise(names):
    panel = done(DigitGenerator(**names))
    before, seeds = panel.drawing.states[0], set()
    for _ in range(5):
        panel.new_seed.click()
        seeds.add(panel.seed.value)
    assert len(seeds) > 1 and not torch.equal(done(panel).drawing.states[0], before)


def test_scrubber_replays_states_and_estimates(names):
    panel = done(DigitGenerator(**names))
    assert panel.scrubber.max == 5 and 0 < panel.scrubber.value < 5
    pictures = set()
    for k, t in enumerate([*panel.drawing.timesteps, None]):
        panel.scrubber.value = k
        assert (
            f"t = {t}, step {k + 1} of 5" if t is not None else "after the last step"
        ) in panel.moment.value
        pictures.add(panel.state.value)
    assert len(pictures) == 6
    panel.steps.value = 10
    assert done(panel).scrubber.value == panel.scrubber.max == 10, "it stays at the end"


def test_slider_over_steps_answers_within_50_ms(names):
    panel = done(DigitGenerator(**names))
    times = []
    for k in (0, 1, 2, 3, 4, 5) * 3:
        started = time.thread_time()  # this thread's own work, however busy the machine is
        panel.scrubber.value = k
        times.append(time.thread_time() - started)
    assert sorted(times)[len(times) // 2] < 0.05


def test_simple_shows_less(names):
    simple, full = done(DigitGenerator(**names, simple=True)), done(DigitGenerator(**names))
    assert simple.digit in simple.children and simple.steps not in simple.children
    assert full.steps in full.children


def test_save_gif(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = done(DigitGenerator(**names))
    for name in ("digit-7-w2.0-seed0.gif", "digit-7-w2.0-seed0-2.gif"):
        panel.save.click()
        done(panel)
        frames = iio.imread(tmp_path / name)
        assert len(frames) == 6 and name in panel.saved.value and str(tmp_path) in panel.saved.value
    assert 'src="data:image/gif;base64,' in panel.gif.value and panel.gif.layout.display == "block"
    assert {path.name for path in tmp_path.iterdir()} == {
        "digit-7-w2.0-seed0.gif",
        "digit-7-w2.0-seed0-2.gif",
    }


def test_gif_of_what_was_asked_for_last(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = done(DigitGenerator(**names))
    panel.digit.value = 3
    panel.save.click()  # before the 3 is drawn
    panel.digit.value = 5
    done(panel)
    assert (tmp_path / "digit-3-w2.0-seed0.gif").exists() and panel.drawing.request.labels == (5,)


def test_gif_that_cannot_be_written(names, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    panel = done(DigitGenerator(**names))
    monkeypatch.setattr("classroom.panels.digits.Path.cwd", lambda: tmp_path / "file" / "folder")
    panel.save.click()
    assert "cannot be written" in text_of(done(panel))
    panel.digit.value = 1
    assert "The evaluator reads" in text_of(done(panel))


def test_missing_weights_are_a_sentence(tmp_path):
    panel = done(DigitGenerator(tmp_path / "none.safetensors"))
    assert text_of(panel).startswith("There are no weights") and panel.drawing is None
    assert panel.still() is None
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "image/png" not in bundle


def test_nothing_is_printed(names, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    panel = done(DigitGenerator(**names))
    panel.digit.value = 1
    panel.save.click()
    done(panel)
    done(DigitGenerator(**names, sampler_fn=wrong_division))
    assert capfd.readouterr() == ("", "")


# -- the still -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["full", "simple", "comparison"])
def test_static_picture_beside_the_live_panel(names, make):
    panel = {
        "full": lambda: DigitGenerator(**names),
        "simple": lambda: DigitGenerator(**names, simple=True),
        "comparison": lambda: ModelComparison({"a": names["weights"]}, steps=5, evaluator=names["evaluator"]),
    }[make]()
    data, metadata = panel._repr_mimebundle_()  # at once: it waits for the first picture itself
    view = data["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == panel.model_id
    picture = iio.imread(base64.b64decode(data["image/png"]), extension=".png")
    assert picture.shape[0] > 100 and picture.std() > 1
    alt = metadata["image/png"]["alt"]
    assert "Target digit 7" in alt and data["text/plain"] == alt


def test_pictures_in_the_panel_have_alt_texts(names):
    panel = done(DigitGenerator(**names))
    for picture in (panel.image, panel.state, panel.estimate):
        assert re.search(r'alt="[^"]+"', picture.value)


# -- the comparison --------------------------------------------------------------------------------


def test_comparison_draws_from_the_same_noise(names, model):
    models = {"mine <new>": model, "shipped": names["weights"]}
    panel = done(ModelComparison(models, steps=5, samples=3, evaluator=names["evaluator"]))
    mine, shipped = panel.drawings.values()
    assert mine.images.shape == (3, 1, 8, 8) and len(mine.readings) == 3
    assert torch.equal(mine.states[0], shipped.states[0]) and torch.equal(mine.images, shipped.images)
    before = mine.images
    panel.seed.value = 4
    assert not torch.equal(done(panel).drawings["shipped"].images, before)
    assert "<new>" not in "".join(w.value for box in panel.children for w in _htmls(box))


def test_comparison_says_what_is_wrong(names, tmp_path):
    panel = done(ModelComparison({"gone": tmp_path / "none.safetensors", "here": names["weights"]}))
    assert "There are no weights" in text_of(panel) and panel.still() is None
    with pytest.raises(ValueError, match="At least one model"):
        ModelComparison({})


def _htmls(widget):
    if isinstance(widget, ipywidgets.HTML):
        return [widget]
    return [html for child in getattr(widget, "children", ()) for html in _htmls(child)]
