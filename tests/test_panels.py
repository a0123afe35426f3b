"""The panels without a browser: what all share, a smoke test of each, and what once went wrong.

What a panel shows must be what the library draws; what a learner writes must fail in a sentence.
"""

import base64
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_tools import save, tiny_reader, tiny_unet
from PIL import Image, ImageDraw

from classroom import panels
from classroom.panels import Panel, ten_digits
from classroom.panels.film import GUESSES, SEES, Film, Row, moments_of, seconds, stacked
from classroom.panels.meter import Measured, Setting, plane
from classroom.panels.pad import DrawingPad
from lessons_lib import data, pictures
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation import composition, reversibility
from lessons_lib.images import to_bytes
from lessons_lib.pipeline import CounterfactualRequest as Request
from lessons_lib.pipeline import GenerationRequest, counterfactual_images, generate_images, load_model
from lessons_lib.samplers import Step, sample_ddim
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.weights import WeightsError

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parent.parent
ATTRIBUTES = ("Smiling", "Eyeglasses", "Big $ <Nose>")
FLOWERS = ("rose", "tulip <red>", "big $ daisy")


def done(panel):
    """The panel, once everything asked for is shown."""
    assert panel.wait(300), "the panel is still at work"
    return panel


def fine(panel, wrong=False):
    """What a panel says that has done what was asked for, or could not."""
    assert done(panel).strip.wrong == wrong and panel.strip.busy == "", panel.strip.said
    return panel.strip.said


def wrong(panel):
    return fine(panel, wrong=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights for 8×8 pixels: of digits, of flowers in colour, of faces; and a denoiser of 28×28."""
    folder, linear = tmp_path_factory.mktemp("weights"), NoiseSchedule.linear(50)
    ten, three, colour = ({"num_classes": 10}, {"num_classes": 3, "in_channels": 3}, {"in_channels": 3})
    faces = three | {"multi_label": True}
    for name, network, schedule, names in (
        ("denoiser", tiny_unet(**ten), linear, ()),
        ("denoiser-28", tiny_unet(**ten, image_size=28, attention_levels=()), linear, ()),
        ("guide", tiny_reader(**ten), linear, ()),
        ("other", tiny_reader(**ten), NoiseSchedule.cosine(50), ()),
        ("evaluator", tiny_reader(False, **ten), None, ()),
        ("flowers", tiny_unet(**three), linear, FLOWERS),
        ("flower-reader", tiny_reader(False, **three), None, FLOWERS),
        ("faces", tiny_unet(**colour, num_classes=0), linear, ()),
        ("face-guide", tiny_reader(**faces), linear, ATTRIBUTES),
        ("face-reader", tiny_reader(False, **faces), None, ATTRIBUTES),
    ):  # fmt: skip
        own = {"guidance_scale": 2.0, "sampler": "ddim", "steps": 5} if hasattr(network, "null_label") else {}
        save(folder / f"{name}.safetensors", network, schedule, names, **own)
    return folder


def digits_of(count, channels=1):
    noise = torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(count))
    return in_8_bits(noise * 2 - 1)


MINE = object()  # (network, schedule) of the tiny denoiser
DIGITS = {"weights": "denoiser", "evaluator": "evaluator"}
FACES = {"weights": "faces", "classifier": "face-guide", "evaluator": "face-reader"}
FREE = {"weights": "denoiser", "guidance": "none"}
STEERED = {"weights": "denoiser", "guidance": "classifier", "classifier": "guide"}
WAYS = {"steered <a>": STEERED, "free": "denoiser", "none": FREE, "mine": MINE}
READERS = {"<one>": lambda x_t, t: torch.arange(10.0).expand(len(x_t), -1).softmax(1)}
# What it is made of, weights by name; a control, another value of it, and the name of its GIF.
PANELS = {
    "digit": (panels.DigitGenerator, DIGITS, "guidance_scale", 3.5, "digit-7-w2.0-seed0"),
    "simple": (panels.DigitGenerator, DIGITS | {"simple": True}, "digit", 3, "digit-7-w2.0-seed0"),
    "comparison": (panels.Comparison, {"ways": WAYS, "samples": 3, "steps": 5, "interval": True,
                   "evaluator": "evaluator"}, "guidance_scale", 9.0, "comparison-7-w4.0-seed0"),
    "race": (panels.SamplerRace, DIGITS, "digit", 2, "race-7-seed0"),
    "noise": (panels.NoiseExplorer, {}, "t", 900, None),
    "reader": (panels.NoiseReader, {"readers": READERS}, "t", 900, None),
    "features": (panels.FeatureExplorer, {"weights": "denoiser", "t": 20, "told": 40}, "layer", "up 1", None),
    "flowers": (panels.ObjectGenerator, {"weights": "flowers", "evaluator": "flower-reader",
                "label": FLOWERS[1]}, "label", 2, "tulip-red-w2.0-seed0"),
    "schedules": (panels.ScheduleExplorer, {"image": digits_of(1)}, "t", 700, None),
    "counterfactuals": (panels.CounterfactualExplorer, DIGITS | {"images": digits_of(2), "sources": (7, 6),
                        "steps": 5}, "depth", 25, "counterfactuals-7-6-ddim-w3.0"),
    "meter": (panels.InterventionMeter, DIGITS | {"images": digits_of(3), "sources": [7, 0, 4], "steps": 5},
              "method", "sdedit", None),
    "drawn": (panels.DrawnCounterfactuals, {"weights": "denoiser-28", "steps": 2}, "guidance_scale", 0.5,
              "drawn-7-w4.0-t49"),
    "faces": (panels.FacePanel, FACES | {"images": digits_of(6, 3), "steps": 4, "guidance_scale": 7.0,
              "attribute": ATTRIBUTES[2]}, "target", 0, "big-nose-yes-s7.0-face1"),
}  # fmt: skip


@pytest.fixture
def make(folder):
    """Make a panel by its name here, with the tiny weights; done, if it is not told to be quick."""

    def found(value):
        if isinstance(value, dict):
            return {key: found(part) for key, part in value.items()}
        if value is MINE:
            return load_model(folder / "denoiser.safetensors")[:2]
        path = folder / f"{value}.safetensors" if isinstance(value, str) else folder
        return path if path.is_file() else value

    def make(name, quick=False, **options):
        panel = PANELS[name][0](**found(PANELS[name][1] | options))
        if name == "drawn":
            panel.pause = 0.0
        return panel if quick else done(panel)

    return make


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder that looks like the course; the notebooks beside the library are the working folder."""
    (tmp_path / "lessons_lib").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_shows_something_at_once_and_what_is_moved_and_saves_it(make, name, capfd, course):
    panel, (control, value, gif) = make(name, quick=True), PANELS[name][2:]
    live = {"noise": {"t"}, "reader": {"t"}, "schedules": {"t", "shrink"}}.get(name, set())
    for key, one in panel.controls.items():
        assert one.description and one.tooltip, key
        assert getattr(one, "continuous_update", key in live) == (key in live), key
    bundle, metadata = panel._repr_mimebundle_()  # it waits for the first picture itself
    assert len(fine(panel)) > 10
    picture = iio.imread(base64.b64decode(bundle["image/png"]), extension=".png")
    alt = metadata["image/png"]["alt"]
    assert picture.shape[0] > 30 and picture.std() > 1 and metadata["image/png"]["width"] < 1200
    assert bundle["text/plain"] == alt == panel.still()[1] and len(alt) > 30
    film, pixels = panel.strip.film, panel.strip.pixels
    assert film["gif"] == bool(gif) and len(pixels) > 0
    for row in film["rows"]:
        if "html" in row:
            assert not re.search("<(a|two|one|red|Nose|b)>", row["html"]), "names are escaped"
            continue
        assert len(row["alts"]) == row["count"] and all(map(str.strip, row["alts"][1:]))
        assert {view["frames"] for view in row["views"].values()} <= {1, len(film["moments"])}
    panel._heard(None, {"kind": "save"}, None)
    getattr(panel, control).value = value  # the file that was asked for before is not dropped
    assert panel.strip.busy or name in ("noise", "reader", "schedules")
    assert fine(panel) and (panel.strip.film, panel.strip.pixels) != (film, pixels)
    assert not np.array_equal(panel.still()[0], picture)
    assert capfd.readouterr() == ("", ""), "a widget's thread prints nothing"
    saved = course / "my_work" / f"{gif}.gif"
    assert saved.exists() == bool(gif)
    if gif:
        assert len(iio.imread(saved, index=None)) > 1 and panel.strip.saved["name"] == saved.name


def test_a_gif_is_never_written_over_another_and_a_sentence_says_why_not(make, course, monkeypatch):
    panel = make("digit")
    for name in ("digit-7-w2.0-seed0.gif", "digit-7-w2.0-seed0-2.gif"):
        panel.save()
        assert fine(panel) and (course / "my_work" / name).exists()
    (course / "file").write_text("no folder")
    monkeypatch.setattr("pathlib.Path.cwd", lambda: course / "file" / "folder")
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: False)
    panel.save()
    assert "cannot be written" in wrong(panel)
    panel = make("digit", weights="nowhere")
    panel.save()
    assert "nothing to save" in wrong(panel)


WEIGHED = ("digit", "counterfactuals", "meter", "faces", "race", "flowers", "drawn")


@pytest.mark.parametrize("name", [*WEIGHED[:-1], "comparison"])
def test_a_missing_evaluator_still_draws(make, name):
    for evaluator in (None, "nowhere"):
        panel = make(name, evaluator=evaluator)
        assert ("There is no evaluator" in fine(panel) or name == "race") and panel.still() is not None


REFUSED = [
    ("comparison", {"ways": {"a": {"guidence": "cfg"}}}, "field of the way 'a' 'guidence': choose one of"),
    ("comparison", {"ways": {"a": {"seed": 3}}}, "field of the way 'a' 'seed'"),
    ("comparison", {"ways": {"a": STEERED | {"classifier": "other"}}}, "another schedule"),
    ("flowers", {"label": "cow"}, "Unknown class 'cow': choose one of rose, tulip"),
    ("flowers", {"evaluator": "evaluator"}, r"reads pictures of 1×8×8 \(C×H×W\) and not of 3×8×8"),
    ("flowers", {"evaluator": "flowers"}, "are no evaluator: they cannot read"),
    ("schedules", {"image": torch.ones(1, 1, 8, 8) * 255}, r"must lie in \[-1, 1\], got values from"),
    ("counterfactuals", {"sources": (7,)}, "There are 1 labels for 2 images"),
    ("counterfactuals", {"images": digits_of(11), "sources": range(11)}, "Give 1 to 10 images"),
    ("counterfactuals", {"sources": [12, 3]}, "Unknown label 12: choose from 0 to 9."),
    ("faces", {"attribute": "Smile"}, "Unknown attribute 'Smile': did you mean Smiling"),
    ("faces", {"images": digits_of(1, 3)[0]}, "Give 1 to 100 images"),
    ("faces", {"images": torch.zeros(1, 3, 8, 4)}, r"must have shape \[1, 3, 8, 8\], got \[1, 3, 8, 4\]"),
    ("faces", {"classifier": "guide", "attribute": "1"}, "reads classes, not attributes"),
    ("faces", {"classifier": "nowhere"}, "There are no weights"),
    ("faces", {"evaluator": "flower-reader"}, "reads classes, not attributes"),
    *((name, {"weights": "nowhere"}, "There are no weights") for name in WEIGHED),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "words"), REFUSED)
def test_what_no_panel_or_these_weights_cannot_do_is_a_sentence(make, name, options, words):
    try:
        panel = make(name, **options)
        said = wrong(panel)
        assert panel.still() is None and "image/png" not in panel._repr_mimebundle_()
    except (ValueError, WeightsError) as error:
        said = str(error)
    assert re.search(words, said), said


def test_a_film_reaches_the_page_whole_and_a_long_one_leaves_moments_out(monkeypatch):
    way = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1, 1).expand(7, 2, 3, 4, 5).clone()
    way[:, 1] += 100
    film = Film([Row({GUESSES: way, SEES: way[:, :, :1]})], "", moments=moments_of(range(6)), stem="x")
    told, pixels = film.encoded()
    (row,) = told["rows"]
    assert (row["count"], row["height"], row["width"], row["frames"]) == (2, 4, 5, 7)
    sent = np.frombuffer(pixels, np.uint8)
    first, second = (row["views"][name] for name in (GUESSES, SEES))
    assert (first["channels"], second["channels"]) == (3, 1)
    moments = sent[first["start"] : second["start"]].reshape(7, 2, 4, 5, 3)
    assert (moments[3, 1] == 103).all() and (sent[second["start"] :].reshape(7, 2, 4, 5)[6, 0] == 6).all()
    assert told["moments"][0] == "step 1 of 6, t = 0" and told["moments"][-1] == "the finished picture"
    monkeypatch.setattr("classroom.panels.film.MOST_BYTES", len(pixels) // 2)
    told, pixels = film.encoded()
    assert told["moments"] == [film.moments[k] for k in (0, 2, 4, 6)] and len(pixels) == len(sent) * 4 // 7
    assert [seconds(one) for one in (84, 11_700)] == ["0.08 s", "11.7 s"]
    assert stacked([torch.full((1, 1, 2, 2), 3.0)]).max() == 255, "what lies outside is clipped"


class SlowPanel(Panel):
    """Shows the last number that it was given, after ten slow steps."""

    seconds, steps_made = 0.0, 0

    def redraw(self, _change=None):
        self.shown = []

    def number(self, n):
        def work():
            for k in range(10):
                time.sleep(self.seconds / 10)
                self.steps_made += 1
                yield (k + 1) / 10
            return n

        self.ask(work, self.shown.append)


def test_many_changes_end_with_the_last_and_stale_ones_are_dropped_between_their_steps():
    panel, written = SlowPanel({}), []
    panel.seconds = 0.2
    panel.number(-1)
    panel.ask(lambda: written.append("file"))
    for n in range(50):
        panel.number(n)
        time.sleep(0.01)
    assert done(panel).shown[-1] == 49 and panel.steps_made < 500 / 2, "it must not wait for stale ones"
    assert written == ["file"], "a file that was asked for is not dropped"


def test_one_worker_off_the_main_thread_ends_when_idle_and_another_follows(monkeypatch):
    monkeypatch.setattr("classroom.panels.panel.LINGER", 0.05)
    panel, seen = SlowPanel({}), set()
    for n in (1, 2):
        panel.ask(lambda: seen.add(threading.get_ident()), lambda _: seen.add(threading.get_ident()))
        done(panel).number(n)
        deadline = time.monotonic() + 10
        while done(panel)._worker is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert panel._worker is None
    assert panel.shown == [1, 2] and threading.get_ident() not in seen


def test_a_film_on_the_way_is_shown_and_progress_ends_at_zero():
    panel, heard = SlowPanel({}), {"progress": [], "said": []}
    panel.strip.observe(lambda change: heard[change["name"]].append(change["new"]), [*heard])
    panel.ask(lambda: (yield from [0.5, Film([], "half")]) or Film([], "whole"), panel.show)
    assert fine(panel) == "whole" and heard == {"progress": [0.5, 0.0], "said": ["half", "whole"]}


MEMORY = "There is not enough memory for this: close other programs, or ask for less."
ERRORS = [
    (data.DataError("The file is cut short."), "The file is cut short."),
    (MemoryError(), MEMORY),
    (torch.OutOfMemoryError("CUDA out of memory.\nTried to …"), MEMORY),
    (RuntimeError("odd\nthing"), "Something went wrong: odd thing"),
    (KeyError(), "Something went wrong: KeyError"),
    (SystemExit(), "Something went wrong: SystemExit"),
]


@pytest.mark.parametrize(("error", "text"), ERRORS)
def test_errors_are_sentences_and_the_panel_survives(error, text):
    panel = SlowPanel({})

    def work():
        yield 0.5
        raise error

    panel.ask(work, panel.shown.append)
    assert wrong(panel) == text
    panel.ask(lambda: 1, lambda _: 1 / 0)
    assert "division by zero" in wrong(panel), "an error while showing, too"
    panel.number(5)
    assert done(panel).shown == [5]


def divided(eps_fn, schedule, x_T, timesteps):
    for t in timesteps:
        yield Step(int(t), x_T / (1 // 0), x_T)


def one_step(x_t):
    """A sampler of one step to a function of x_T."""
    return lambda eps_fn, schedule, x_T, timesteps: iter([Step(0, x_t(x_T), x_T)])


BROKEN = [
    ("digit", "sampler_fn", divided, r"stopped: ZeroDivisionError, .*zero \(line \d+: .*1 // 0"),
    ("digit", "sampler_fn", lambda *_: None, r"must yield Step.*; it returned NoneType"),
    ("digit", "sampler_fn", lambda *_: iter(()), r"must yield Step.*; it ended without one"),
    ("digit", "sampler_fn", lambda e, s, x, t: iter([x]), r"must yield Step\(t, x_t, x_0\).*yielded shape"),
    ("digit", "sampler_fn", one_step(lambda x: x[:, :, 1:]), r"its x_t is shape \[1, 1, 7, 8\]"),
    ("digit", "sampler_fn", lambda e, s, x, t: iter(lambda: Step(0, x, x), None), "more than the 5 steps"),
    ("digit", "sampler_fn", one_step(lambda x: x / 0), r"values that are not numbers"),
    ("digit", "sampler_fn", lambda *_: sys.exit(), r"SystemExit"),
    ("counterfactuals", "abduct_fn", lambda *_: [][0], r"stopped: IndexError, .* \(line \d+: .*\[\]\[0\]"),
    ("counterfactuals", "abduct_fn", lambda *_: None, r"images of shape \[2, 1, 8, 8\], not NoneType"),
    ("counterfactuals", "abduct_fn", lambda e, s, x, t: x / 0, "values that are not numbers"),
    ("meter", "intervene_fn", lambda *_: [][0], r"stopped: IndexError, .* \(line \d+: .*\[\]\[0\]"),
    ("meter", "intervene_fn", lambda x, *_: x[:1], r"shape \[3, 1, 8, 8\], not shape \[1, 1, 8, 8\]"),
    ("noise", "q_sample_fn", lambda *_: None, r"must return a tensor of shape \[1, 1, 28, 28\]"),
    ("noise", "q_sample_fn", lambda *_: 1 / 0, "division by zero"),
]


@pytest.mark.parametrize(("name", "argument", "function", "pattern"), BROKEN)
def test_what_a_learner_gets_wrong_is_named_with_its_line(make, name, argument, function, pattern):
    panel = make(name, **{argument: function})
    assert re.search(pattern, wrong(panel)), panel.strip.said
    control = {"digit": "sampler", "counterfactuals": "method", "meter": "method"}.get(name)
    if control:  # the library's own goes on
        getattr(panel, control).value = "ddim"
        assert fine(panel) and panel.still() is not None


def test_own_code_cannot_reach_the_originals_and_the_way_back_has_8_bit_pixels_only(make):
    def in_place(eps_fn, schedule, x_T, timesteps):
        for t in timesteps:
            x_T.mul_(0.5)
            yield Step(int(t), x_T, x_T)

    states = make("digit", sampler_fn=in_place).film.result.states
    torch.testing.assert_close(states[0] / 32, states[-1])
    panel = make("counterfactuals", abduct_fn=lambda e, s, x_0, ts: x_0.zero_())
    assert torch.equal(panel.film.result.sources, digits_of(2))
    assert torch.equal(make("meter", intervene_fn=lambda x, *_: x.zero_()).images, digits_of(3))
    asked = []

    def hiding(x, source, target):
        """Hides the sources in the last decimals, and in an attribute."""
        asked.append((x, source.tolist(), target.tolist()))
        out = (x - 0.1).clamp(-1, 1) + 1e-4
        out.source = x
        return out

    panel = make("meter", intervene_fn=hiding)
    panel.there_and_back.click()
    done(panel)
    (first, *labels), (second, *turned) = asked
    assert labels == [[7, 0, 4], panel.targets.tolist()] and turned == labels[::-1]
    assert torch.equal(first, in_8_bits(first)) and torch.equal(second, in_8_bits(second))
    assert not hasattr(second, "source")


def test_first_picture_needs_no_slow_import(folder):
    paths = f"{str(folder / 'denoiser.safetensors')!r}, evaluator={str(folder / 'evaluator.safetensors')!r}"
    code = "import sys\nfrom classroom.panels import DigitGenerator\n"
    code += f"panel = DigitGenerator({paths})\npanel.wait(300)\nassert panel.film, panel.strip.said\n"
    code += "print({'torchvision', 'matplotlib', 'accelerate', 'sklearn'} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.strip() == "set()", process.stdout + process.stderr


@pytest.mark.parametrize("seed", range(10))
def test_without_a_wish_all_ten_are_one_picture(seed):
    images = ten_digits.ten_digits(0.0, seed, steps=2)
    assert images.shape == (10, 1, 28, 28) and (images == images[0]).all()


@pytest.mark.parametrize(("weights", "frames"), [("mnist-denoiser", 1), ("mnist-flow-map", 25)])
def test_ten_digits_part_as_they_are_told_play_once_displayed_and_obey(weights, frames, monkeypatch):
    monkeypatch.setattr(ten_digits, "FRAME_S", 0.0)
    panel = panels.TenDigits(weights=weights)
    bundle, _ = panel._repr_mimebundle_()
    assert "image/png" in bundle and "Press Shift + Enter" in bundle["text/plain"]
    right = int(re.match(r"Scale 2: (\d+) of 10", fine(panel))[1])
    assert right >= 9 and panel.guidance_scale.value == ten_digits.RISE[-1]
    assert len({image.numpy().tobytes() for image in panel.film.result}) == 10
    panel.guidance_scale.value = 0.0
    assert "All ten are the same" in fine(panel)
    (row,), before = panel.film.pictures, panel.film.result
    assert all((view == view[:, :1]).all() and len(view) == frames for view in row.views.values())
    panel.new_seed.click()
    assert fine(panel) and not torch.equal(panel.film.result, before)
    monkeypatch.setattr(ten_digits, "FRAME_S", 0.2)
    panel.play.click()
    time.sleep(0.1)
    panel.guidance_scale.value = 3.0  # a move ends the play
    assert "Scale 3:" in fine(panel) and panel.guidance_scale.value == 3.0


@pytest.mark.parametrize(("kind", "seed"), [(panels.DigitGenerator, 0), (panels.TenDigits, 3)])
def test_with_a_flow_map_a_moving_slider_is_followed_and_at_rest_the_way_comes(kind, seed, monkeypatch):
    monkeypatch.setattr("classroom.panels.panel.REST", 0.3)
    panel, shown, labels = kind(weights="mnist-flow-map"), [], tuple(range(10)) if seed else (7,)
    fine(panel)
    assert all(control.continuous_update for control in panel.controls.values())
    assert panel.guidance_scale.max <= 8 and "sampler" not in panel.controls
    panel.strip.observe(lambda change: shown.append((panel.strip.film, change["new"])), "pixels")
    for k in range(1, 21):
        panel.guidance_scale.value = k / 20
        time.sleep(0.02)
    fine(panel)
    scales = [float(film["title"].rpartition(" ")[2]) for film, _ in shown]
    assert scales == sorted(scales) and scales[-2:] == [1.0, 1.0] and len(set(scales)) > 1
    assert [film["follows"] for film, _ in shown] == [True] * (len(shown) - 1) + [False]
    assert [film["rows"][0]["frames"] for film, _ in shown] == [1] * (len(shown) - 1) + [25]
    for scale, (_, pixels) in zip(scales[:-1], shown, strict=False):
        fields = {"guidance_scale": scale, "seed": seed, "sample_indices": (0,) * len(labels)}
        images = to_bytes(generate_images(GenerationRequest(labels, "mnist-flow-map", **fields)))
        sent = np.frombuffer(pixels, np.uint8)[: images.numel()].reshape(images.shape)
        assert np.abs(sent.astype(int) - images.numpy()).max() <= 1, "the picture is not of its value"
    (row,) = panel.film.pictures
    for view in row.views.values():
        assert (view[-1].int() - to_bytes(row.images(24)).int()).abs().max() <= 1
    assert panel.film.moments[::24] == ["t = 999", "the finished picture"]


def test_a_flow_map_takes_no_sampler_and_the_scales_that_it_learned():
    panel = panels.DigitGenerator("mnist-flow-map", guidance_scale=11, simple=True)
    assert panel.guidance_scale.value == 8 and [*panel.controls] == ["digit", "guidance_scale"]
    assert fine(panel) and panel.film.result.timesteps[-1] == 41
    with pytest.raises(ValueError, match="draws without a sampler"):
        panels.DigitGenerator("mnist-flow-map", sampler_fn=sample_ddim)


def test_the_race_counts_what_a_learners_sampler_asks_and_goes_on_without_it(make, folder):
    def asks_twice(eps_fn, schedule, x_T, timesteps):
        for step in sample_ddim(eps_fn, schedule, x_T, timesteps):
            eps_fn(step.x_t, timesteps[:1])
            yield step

    def breaks(eps_fn, schedule, x_T, timesteps):
        yield from sample_ddim(eps_fn, schedule, x_T, timesteps[:2])
        raise KeyError("abar")

    panel = make("race", sampler_fn=asks_twice, seed=4)
    drawings, (row,) = panel.film.result, panel.film.pictures
    assert drawings["yours"].evaluations[:2] == [2, 4] and row.frames == 51
    assert [text[:3] for text in row.texts] == ["4th", "3rd", "1st", "2nd"]
    fields = {"guidance_scale": 2.0, "seed": 4, "sampler": "dpmpp_2m", "steps": 10}
    images = generate_images(GenerationRequest((7,), folder / "denoiser.safetensors", **fields))
    torch.testing.assert_close(drawings["DPM-Solver++(2M)"].images, images)
    assert (row.images(10)[2] - images).abs().max() < 0.01 < (row.images(9)[2] - images).abs().max()
    panel.controls["steps of DDIM"].value = 10
    assert "after 10 evaluations: DDIM and DPM-Solver++(2M)." in fine(panel)
    assert panel.film.result["DDPM"] is drawings["DDPM"], "what did not move is not drawn again"
    said = fine(make("race", sampler_fn=breaks))
    assert re.search(r"First, after 10 .* yours failed. .*line \d+: raise KeyErr", said)


def test_faces_are_those_of_the_one_path_before_and_after(make, folder):
    place = {name: folder / f"{name}.safetensors" for name in ("faces", "face-guide", "face-reader")}
    panel = make("faces", attribute="smiling", target=0, guidance_scale=3.0, depth=25)
    request = Request(
        (1,) * 4, (0,) * 4, place["faces"], guidance="classifier", classifier=place["face-guide"], depth=25,
        attribute="Smiling", steps=4, guidance_scale=3.0,
    )  # fmt: skip
    (before, after), said = panel.film.result, fine(panel)
    torch.testing.assert_close(after, in_8_bits(counterfactual_images(request, digits_of(6, 3)[:4])))
    reader = load_model(place["face-reader"])[0]
    read = [reader.probabilities(x) for x in (before, after)]
    hits = [int((p[:, 0] < 0.5).sum()) for p in read]
    assert f"Read as asked: {hits[0]} of 4 before, {hits[1]} of 4 after." in said
    for k, name in ((1, "Eyeglasses"), (2, "Big $ <Nose>")):
        change = float((read[1] - read[0])[:, k].mean())
        assert (f"{name} {100 * change:+.0f}".replace("-", "−") in said) == (abs(change) >= 0.005)
    assert panel.first.options == (("1–4", 0), ("3–6", 2))
    kept, panel.attribute.value = panel._kept, "Eyeglasses"
    assert done(panel)._kept is kept, "inversion is done once for all wishes"
    panel.guidance_scale.value = 0
    assert fine(panel).startswith("At scale 0 nothing steers. ")


def test_the_grid_is_what_the_library_draws_and_says_what_is_misread(make, folder):
    panel = make("counterfactuals")
    grid, rows = panel.film.result, panel.film.pictures
    weights, targets = folder / "denoiser.safetensors", tuple(range(10)) * 2
    request = Request((7, 6), targets, weights, guidance_scale=3.0, steps=5)
    torch.testing.assert_close(grid.drawing.images, counterfactual_images(request, digits_of(2)))
    read = torch.tensor([reading.label for reading in grid.drawing.readings]).view(2, 10)
    missed = (read != torch.arange(10)).tolist()
    assert [list(row.marks) for row in rows] == [[False, *marks] for marks in missed]
    assert set(rows[0].views) == {GUESSES, SEES, "what changed"} and rows[0].zooms
    panel.method.value = "same-noise"
    assert panel.depth.disabled and not panel.seed.disabled and fine(panel)


def test_the_meter_shows_what_the_library_measures(make, folder):
    panel, x = make("meter"), digits_of(3)
    evaluator = load_model(folder / "evaluator.safetensors")[0]
    three, first = (x, panel.sources, panel.targets), Setting("ddim", 3.0, 49)
    assert not (panel.sources == panel.targets).any()

    def intervene(x, source, target, scale=3.0):
        three = source.tolist(), target.tolist(), folder / "denoiser.safetensors"
        return counterfactual_images(Request(*three, guidance_scale=scale, steps=5), x)

    assert torch.equal(panel.tried[first].images, in_8_bits(intervene(*three)))
    panel.there_and_back.click()
    back = reversibility(intervene, evaluator, *three)
    assert re.search(rf"There and back: .*off by {back.error:.3f}\.", fine(panel))
    nulls = composition(lambda *three: intervene(*three, scale=1.0), x, panel.sources, (1, 2))
    panel.nothing.click()
    panel.nothing.click()
    assert re.search(rf"After 2 null interventions: .*off by {nulls[2]:.3f}\.", fine(panel))
    panel.depth.value = 40
    assert "null" not in fine(panel) and len(panel.film.pictures) == 3
    assert [*panel.tried] == [first, Setting("ddim", 3.0, 40)]
    panel.clear.click()
    assert fine(panel) and len(panel.tried) == 1

    def place(successes, l1):
        measured = Measured(x, (1,) * 8, [k >= successes for k in range(8)], l1, 0.0)
        (*_, mark) = re.findall(r"<g transform=.translate\((\S+) (\S+)\)", plane({first: measured}))
        return tuple(map(float, mark))

    (x, y), (far, _), (_, low) = place(8, 0.05), place(8, 0.1), place(2, 0.05)
    assert far > x and low > y, "the best is at the upper left"


ONE, SEVEN = [[[140, 50], [140, 230]]], [[[80, 60], [200, 60], [130, 230]]]
THREE = [
    [[85, 75], [110, 52], [150, 48], [180, 65], [188, 92], [172, 120], [140, 134], [122, 138], [150, 140],
     [182, 156], [196, 186], [182, 218], [146, 236], [108, 230], [80, 208]]
]  # fmt: skip


def draw(pad, strokes):
    """What the page sends at the end of each stroke."""
    for points in strokes:
        pad.drawing = True
        pad.strokes = [*pad.strokes, points]
        pad.drawing = False


def test_the_pad_takes_strokes_and_pictures_and_forgets_a_lost_end(monkeypatch):
    changes = []
    pad = DrawingPad(lambda: changes.append(len(pad.strokes)))
    draw(pad, ONE + SEVEN)
    assert changes == [1, 2] and pad.pixels()[140, 140] == 255 and pad.digit().shape == (1, 1, 28, 28)
    pad.undo()
    pad.put(data.running_example())
    assert pad.strokes == [] and torch.equal(pad.digit(), in_8_bits(data.running_example()))
    pad.undo()
    assert pad.digit() is None
    pad.drawing = True
    assert pad.is_drawing
    monkeypatch.setattr("classroom.panels.pad.FORGOTTEN", 0.0)
    assert not pad.is_drawing


def test_shipped_weights_show_a_digit_at_once_and_it_as_every_digit_after_the_pause():
    panel = panels.DrawnCounterfactuals(steps=10)
    done(panel).drawn_as.value = "4"
    assert torch.equal(panel.film.result.sources, in_8_bits(pictures.sharpened(data.running_example())))
    assert "drawn as 4." in fine(panel) and panel.film.result.labels == (4,)
    panel.clear.click()
    assert fine(panel) == "Draw a digit with the mouse or a finger." and panel.still() is None
    assert panel.strip.film["rows"][0]["views"] is None, "outlines"
    assert panel.drawn_as.value == "as read", "what the last digit was taken for is forgotten with it"
    panel.pause = 30.0
    draw(panel.pad, SEVEN)
    deadline = time.monotonic() + 20
    while "Read as 7" not in panel.strip.said and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "on their way" in panel.strip.said and not panel.wait(0.2)
    panel.pause = 0.0
    for k in range(20):
        draw(panel.pad, [[[30 + 10 * k, 40], [30 + 10 * k, 240]]])
    assert torch.equal(done(panel).film.result.sources, panel.pad.digit()) and len(panel.pad.strokes) == 21
    panel.clear.click()
    draw(panel.pad, THREE)
    assert fine(panel).startswith("Read as 3 (")
    grid, request = panel.film.result, Request((3,), tuple(range(10)), guidance_scale=4.0, steps=10)
    assert torch.equal(grid.drawing.images, counterfactual_images(request, panel.pad.digit()))
    assert grid.missed().sum() <= 1 and grid.distances()[0, 3] < 0.06, "its own label changes little"


def test_a_picture_is_put_on_the_pad_and_a_bad_one_is_a_sentence(make):
    panel, image = make("drawn"), Image.new("RGB", (600, 800), "white")
    ImageDraw.Draw(image).line([(150, 160), (450, 160), (300, 640)], "navy", width=50)
    file = iio.imwrite("<bytes>", np.asarray(image), extension=".png")
    draw(panel.pad, ONE)

    def upload(content):  # as the browser does
        facts = {"name": "a&b.txt", "type": "", "size": len(content), "last_modified": datetime.now(UTC)}
        panel.upload.value = [facts | {"content": memoryview(content)}]
        done(panel)

    upload(file)
    assert panel.pad.strokes == [] and panel.film.result.labels == (7,) and panel.upload.value == ()
    assert torch.equal(panel.film.result.sources, in_8_bits(pictures.digit_from_bytes(file)))
    before = panel.film
    for content, said in (  # tests/test_pictures.py has more of them
        (b"no picture", "a&b.txt is no picture of a known kind: use PNG, JPEG"),
        (file[:300], "The picture a&b.txt is damaged or cut short."),
    ):
        upload(content)
        assert wrong(panel).startswith(said) and panel.film is before and panel.pad.picture
