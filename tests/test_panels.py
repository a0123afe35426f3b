"""The panels without a browser: what all share, a smoke test of each, and what once went wrong.

What a panel shows must be what the library draws; what a learner writes must fail in a sentence.
"""

import base64
import datetime
import io
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import imageio.v3 as iio
import ipywidgets
import numpy as np
import pytest
import torch
from command_tools import awake, save
from PIL import Image, ImageDraw

from classroom import panels
from classroom.panels import Panel, ten_digits
from classroom.panels.drawing import read
from classroom.panels.film import GUESSES, SEES, Film, Row, moments_of, seconds, stacked
from classroom.panels.pad import DrawingPad
from classroom.panels.plane import Dot, Setting, plane_svg
from classroom.panels.pull import CLASSIFIERS, pull_on_estimate
from lessons_lib import data, pictures
from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.data import DataError
from lessons_lib.evaluation import Share, composition, reversibility
from lessons_lib.files import WriteError
from lessons_lib.guidance import class_log_prob, unconditional, with_classifier
from lessons_lib.images import to_bytes
from lessons_lib.pipeline import (
    CounterfactualRequest,
    GenerationRequest,
    counterfactual_images,
    generate_images,
    load_model,
)
from lessons_lib.samplers import SampleNoise, Step, sample_ddim
from lessons_lib.schedules import NoiseSchedule, predict_x0, q_sample
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import WeightsError

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parent.parent
LINEAR = NoiseSchedule.linear(50)
ATTRIBUTES = ("Smiling", "Eyeglasses", "Big $ <Nose>")
FLOWERS = ("rose", "tulip <red>", "big $ daisy")
LANES = {
    "DDPM": {"sampler": "ddpm", "steps": 8},
    "<b>": {"sampler": "ddim", "steps": 5},
    "fast": {"sampler": "dpmpp_2m", "steps": 3},
}


def done(panel):
    """The panel, once everything asked for is shown."""
    assert panel.wait(300), "the panel is still at work"
    return panel


def fine(panel):
    """What a panel says that has done what was asked for."""
    assert not done(panel).strip.wrong, panel.strip.said
    return panel.strip.said


def wrong(panel):
    """The sentence of a panel that could not."""
    assert done(panel).strip.wrong and panel.strip.busy == "", panel.strip.said
    return panel.strip.said


def unet(size=8, channels=1, classes=10, **more):
    shape = {"image_size": size, "in_channels": channels, "base_channels": 32, "num_classes": classes}
    return UNet(UNetConfig(**shape, channel_mults=(1,), attention_levels=(), **more))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights for 8×8 pixels: of digits, of flowers in colour, of faces; and a denoiser of 28×28."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    drawn = {"guidance_scale": 2.0, "sampler": "ddim", "steps": 5}
    grey = {"image_size": 8, "widths": (32, 32)}
    colour = grey | {"in_channels": 3}
    faces = colour | {"num_classes": 3, "multi_label": True}
    for name, network, schedule, names, defaults in (
        ("denoiser", unet(), LINEAR, (), drawn),
        ("denoiser-28", unet(28, blocks_per_level=1), LINEAR, (), drawn),
        ("guide", NoisyClassifier(NoisyClassifierConfig(**grey)), LINEAR, (), {}),
        ("<two>", NoisyClassifier(NoisyClassifierConfig(**grey)), LINEAR, (), {}),
        ("other", NoisyClassifier(NoisyClassifierConfig(**grey)), NoiseSchedule.cosine(50), (), {}),
        ("evaluator", Evaluator(EvaluatorConfig(**grey)), None, (), {}),
        ("flowers", unet(channels=3, classes=3), LINEAR, FLOWERS, drawn),
        ("flower-reader", Evaluator(EvaluatorConfig(**colour, num_classes=3)), None, FLOWERS, {}),
        ("faces", unet(channels=3, classes=0), LINEAR, (), drawn),
        ("face-guide", NoisyClassifier(NoisyClassifierConfig(**faces)), LINEAR, ATTRIBUTES,
         {"guidance_scale": 7.0}),
        ("face-reader", Evaluator(EvaluatorConfig(**faces)), None, ATTRIBUTES, {}),
    ):  # fmt: skip
        save(folder / f"{name}.safetensors", awake(network, 0.3), schedule, names, **defaults)
    return folder


def digits_of(count, channels=1):
    noise = torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(count))
    return in_8_bits(noise * 2 - 1)


def reader(x_t, t):
    return torch.arange(10.0).expand(len(x_t), -1).softmax(1)


@pytest.fixture
def make(folder):
    """Make a panel by its name here, with the tiny weights; done, if it is not told to be quick."""
    place = {path.stem: path for path in folder.glob("*.safetensors")}
    digits = {"weights": place["denoiser"], "evaluator": place["evaluator"]}
    faces = {"classifier": place["face-guide"], "evaluator": place["face-reader"], "weights": place["faces"]}
    free, steered = {"weights": place["denoiser"]}, {"guidance": "classifier", "classifier": place["guide"]}
    ways = {"steered <a>": free | steered, "free": place["denoiser"], "none": free | {"guidance": "none"},
            "mine": load_model(place["denoiser"])[:2]}  # fmt: skip
    makers = {
        "digit": (panels.DigitGenerator, digits),
        "simple": (panels.DigitGenerator, digits | {"simple": True}),
        "comparison": (panels.Comparison, {"ways": ways, "samples": 3, "steps": 5, "interval": True,
                       "evaluator": place["evaluator"]}),
        "race": (panels.SamplerRace, {"lanes": LANES} | digits),
        "pull": (panels.GradientOverlay, {"classifiers": {"one": place["guide"], "<two>": place["<two>"]},
                 "steps": 3} | digits),
        "noise": (panels.NoiseExplorer, {}),
        "reader": (panels.NoiseReader, {"readers": {"<one>": reader}}),
        "features": (panels.FeatureExplorer, {"weights": place["denoiser"], "t": 20, "told": 40}),
        "flowers": (panels.ObjectGenerator, {"weights": place["flowers"], "evaluator": place["flower-reader"],
                    "label": FLOWERS[1], "count": 2}),
        "schedules": (panels.ScheduleExplorer, {"image": digits_of(1, 3)[0], "shrink": 2}),
        "counterfactuals": (panels.CounterfactualExplorer, {"images": digits_of(2), "sources": (7, 6),
                            "steps": 5} | digits),
        "meter": (panels.InterventionMeter, {"images": digits_of(3), "sources": [7, 0, 4],
                  "targets": [3, 5, 9], "steps": 5} | digits),
        "drawn": (panels.DrawnCounterfactuals, {"weights": place["denoiser-28"], "steps": 2}),
        "faces": (panels.FacePanel, faces | {"images": digits_of(3, 3), "count": 2, "steps": 4,
                  "attribute": ATTRIBUTES[2]}),
    }  # fmt: skip

    def make(name, quick=False, **options):
        kind, settings = makers[name]
        panel = kind(**settings | options)
        if name == "drawn":
            panel.pause = 0.0
        return panel if quick else done(panel)

    return make


# A control of each panel, another value of it, and the name of its GIF.
PANELS = {
    "digit": ("guidance_scale", 3.5, "digit-7-w2.0-seed0"),
    "simple": ("digit", 3, "digit-7-w2.0-seed0"),
    "comparison": ("guidance_scale", 9.0, "comparison-7-w4.0-seed0"),
    "race": ("digit", 2, "race-7-seed0"),
    "pull": ("digit", 8, "pull-3"),
    "noise": ("t", 900, None),
    "reader": ("t", 900, None),
    "features": ("layer", "up 1", None),
    "flowers": ("label", 2, "tulip-red-w2.0-seed0"),
    "schedules": ("t", 700, None),
    "counterfactuals": ("depth", 25, "counterfactuals-7-6-ddim-w3.0"),
    "meter": ("method", "sdedit", None),
    "drawn": ("guidance_scale", 0.5, "drawn-7-w4.0-t49"),
    "faces": ("target", 0, "big-nose-yes-s7.0-face1"),
}
WITH_GIF = [name for name, (_, _, gif) in PANELS.items() if gif]


def widgets_in(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from widgets_in(child)


# -- what all panels have --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_shows_something_at_once_and_what_is_moved(make, name, capfd):
    panel = make(name, quick=True)
    bundle, metadata = panel._repr_mimebundle_()  # it waits for the first picture itself
    assert len(fine(panel)) > 10
    picture = iio.imread(base64.b64decode(bundle["image/png"]), extension=".png")
    alt = metadata["image/png"]["alt"]
    assert picture.shape[0] > 30 and picture.std() > 1 and metadata["image/png"]["width"] < 1200
    assert bundle["text/plain"] == alt == panel.still()[1] and len(alt) > 30
    film, pixels = panel.strip.film, panel.strip.pixels
    rows = [row for row in film["rows"] if "html" not in row]
    size = 0
    for row in rows:
        assert len(row["alts"]) == row["count"] and all(map(str.strip, row["alts"][1:]))
        for view in row["views"].values():
            assert view["start"] == size and view["frames"] in (1, len(film["moments"]))
            size += view["frames"] * row["count"] * row["height"] * row["width"] * view["channels"]
    assert size == len(pixels) > 0
    charts = [row["html"] for row in film["rows"] if "html" in row]
    assert not re.search("<(new|a|two|one|red|Nose|b)>", "".join(charts)), "names are escaped"
    control, value, gif = PANELS[name]
    assert film["gif"] == bool(gif)
    getattr(panel, control).value = value
    assert panel.strip.busy or name in ("noise", "reader", "schedules")
    assert fine(panel) and (panel.strip.film, panel.strip.pixels) != (film, pixels)
    assert panel.strip.busy == "" and not np.array_equal(panel.still()[0], picture)
    assert capfd.readouterr() == ("", ""), "a widget's thread prints nothing"


@pytest.mark.parametrize("name", PANELS)
def test_every_control_says_what_it_does_and_waits_for_the_hand(make, name):
    panel = make(name)
    kinds = (ipywidgets.Button, ipywidgets.IntSlider, ipywidgets.FloatSlider, ipywidgets.Dropdown)
    for widget in widgets_in(panel):
        if isinstance(widget, (*kinds, ipywidgets.BoundedIntText)):
            assert widget.description and widget.tooltip, widget
    live = {"noise": {"t"}, "reader": {"t"}, "schedules": {"t", "shrink"}}.get(name, set())
    for key, control in panel.controls.items():
        assert getattr(control, "continuous_update", key in live) == (key in live), key


@pytest.mark.parametrize("name", WITH_GIF)
def test_a_gif_is_saved_beside_others_or_a_sentence_says_why_not(make, name, tmp_path, monkeypatch):
    (tmp_path / "lessons_lib").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    panel, stem = make(name), PANELS[name][2]
    panel._heard(None, {"kind": "save"}, None)
    getattr(panel, PANELS[name][0]).value = PANELS[name][1]  # what was asked for is not dropped
    fine(panel)
    saved = tmp_path / "my_work" / f"{stem}.gif"
    assert len(iio.imread(saved, index=None)) > 1 and panel.strip.saved["name"] == saved.name
    again = make(name)
    again.save()
    done(again)
    assert (tmp_path / "my_work" / f"{stem}-2.gif").exists(), "a file is never overwritten"
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("pathlib.Path.cwd", lambda: tmp_path / "file" / "folder")
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: False)
    panel.save()
    assert "cannot be written" in wrong(panel)


WEIGHED = ("digit", "pull", "counterfactuals", "meter", "faces", "race", "flowers", "drawn")


@pytest.mark.parametrize("name", WEIGHED)
def test_missing_weights_are_a_sentence(make, name, tmp_path):
    own = {"label": None} if name == "flowers" else {}
    panel = make(name, weights=tmp_path / "none.safetensors", **own)
    assert wrong(panel).startswith("There are no weights")
    assert panel.still() is None and "image/png" not in panel._repr_mimebundle_()
    panel.save()
    assert "nothing to save" in wrong(panel)


@pytest.mark.parametrize("name", [*WEIGHED[:-1], "comparison"])
def test_a_missing_evaluator_still_draws(make, name, tmp_path):
    for evaluator in (None, tmp_path / "none.safetensors"):
        panel = make(name, evaluator=evaluator)
        assert fine(panel) and panel.still() is not None


WRONG = [
    ("comparison", {"ways": {}}, "At least one way"),
    ("comparison", {"ways": {"a": {"guidence": "cfg"}}}, "sets 'guidence': choose from .*weights, guidance"),
    ("comparison", {"ways": {"a": {"seed": 3}}}, "sets seed, but all rows share digit and noise"),
    ("race", {"lanes": {}}, "At least one lane"),
    ("race", {"lanes": {"a": {"seed": 3}}}, "The lane 'a' has 'seed': choose from"),
    ("race", {"lanes": {"yours": {}}, "sampler_fn": sample_ddim}, "'yours' is the lane of sampler_fn"),
    ("pull", {"classifiers": {}}, "At least one classifier"),
    ("reader", {"readers": {}}, "At least one reader"),
    ("flowers", {"label": "cow"}, "Unknown class 'cow': choose from rose, tulip"),
    ("flowers", {"count": 13}, "must be between 1 and 12, got 13"),
    ("schedules", {"image": torch.zeros(8, 12)}, r"Give one image .* got shape \[8, 12\]"),
    ("schedules", {"image": torch.ones(1, 8, 8) * 255}, r"must lie in \[-1, 1\], got values from"),
    ("schedules", {"shrink": 3}, "blocks of 1, 2, 4 pixels a side, not 3"),
    ("counterfactuals", {"sources": (7,)}, "2 images and 1 labels"),
    ("counterfactuals", {"images": digits_of(11), "sources": range(11)}, "Give 1 to 10 images"),
    ("meter", {"sources": [1]}, "one label an image"),
    ("meter", {"images": torch.zeros(17, 1, 8, 8)}, "1 to 16 images, got 17"),
    ("faces", {"attribute": "Smile"}, "Unknown attribute 'Smile': did you mean Smiling"),
    ("faces", {"count": 9}, "must be between 1 and 8, got 9"),
    ("faces", {"target": 2}, r"must be 1 \(yes\) or 0 \(no\), got 2"),
    ("faces", {"images": digits_of(1, 3)[0]}, "Give one face or more"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_what_no_panel_can_show_is_refused(make, name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


TOLD = [
    ("comparison", {"ways": {"a": {"guidance": "classifier", "classifier": "other"}}}, "another schedule"),
    ("pull", {"classifiers": {"reader": "evaluator"}}, "reads clean images only"),
    ("flowers", {"evaluator": "evaluator"}, r"reads pictures of 1×8×8 \(C×H×W\) and not of 3×8×8"),
    ("counterfactuals", {"sources": [12, 3]}, "Unknown label 12: choose from 0 to 9."),
    ("faces", {"classifier": "guide", "attribute": "1"}, "reads classes, not attributes"),
    ("faces", {"images": torch.zeros(1, 3, 8, 4)}, r"pictures of 3×8×8 \(C×H×W\), but the faces have"),
    ("faces", {"evaluator": "flower-reader"}, "reads classes, not attributes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "words"), TOLD)
def test_what_these_weights_cannot_do_is_a_sentence(make, folder, name, options, words):
    def path_of(value):
        if isinstance(value, dict):
            own = {"weights": folder / "denoiser.safetensors"} if "classifier" in value else {}
            return own | {key: path_of(part) for key, part in value.items()}
        path = folder / f"{value}.safetensors" if isinstance(value, str) else folder
        return path if path.is_file() else value

    panel = make(name, **{key: path_of(value) for key, value in options.items()})
    assert re.search(words, panel.strip.said), panel.strip.said


# -- the film --------------------------------------------------------------------------------------


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


# -- the worker ------------------------------------------------------------------------------------


class SlowPanel(Panel):
    """Shows the last number that it was given, after ten slow steps."""

    def __init__(self, seconds=0.0):
        self.seconds, self.shown, self.steps_made = seconds, [], 0
        super().__init__({})

    def redraw(self, _change=None):
        pass

    def number(self, n):
        def work():
            for k in range(10):
                time.sleep(self.seconds / 10)
                self.steps_made += 1
                yield (k + 1) / 10
            return n

        self.ask(work, self.shown.append)


def test_many_changes_end_with_the_last_and_stale_ones_are_dropped_between_their_steps():
    panel, written = SlowPanel(0.2), []
    panel.number(-1)
    panel.ask(lambda: written.append("file"))
    started = time.monotonic()
    for n in range(50):
        panel.number(n)
        time.sleep(0.01)
    asked = time.monotonic() - started
    done(panel)
    assert panel.shown[-1] == 49 and panel.steps_made < 500 / 2
    assert time.monotonic() - started < asked + 10, "the last picture must not wait for stale ones"
    assert written == ["file"], "a file that was asked for is not dropped"


def test_one_worker_off_the_main_thread_ends_when_idle_and_another_follows(monkeypatch):
    monkeypatch.setattr("classroom.panels.panel.LINGER", 0.05)
    panel, seen = SlowPanel(), set()
    for n in (1, 2):
        for _ in range(10):
            panel.ask(lambda: seen.add(threading.get_ident()), lambda _: seen.add(threading.get_ident()))
        panel.number(n)
        done(panel)
        deadline = time.monotonic() + 10
        while panel._worker is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert panel._worker is None
    assert panel.shown == [1, 2] and threading.get_ident() not in seen


def test_a_film_on_the_way_is_shown_and_progress_ends_at_zero():
    panel, progress = SlowPanel(), []
    panel.strip.observe(lambda change: progress.append(change["new"]), "progress")
    shown = []
    panel.strip.observe(lambda change: shown.append(change["new"]), "said")

    def work():
        yield 0.5
        yield Film([], "half")
        return Film([], "whole")

    panel.ask(work, panel.show)
    assert fine(panel) == "whole" and shown == ["half", "whole"] and progress == [0.5, 0.0]


MEMORY = "There is not enough memory for this: close other programs, or ask for less."


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (WeightsError("There are no weights."), "There are no weights."),
        (DataError("The file is cut short."), "The file is cut short."),
        (WriteError("It cannot be written."), "It cannot be written."),
        (MemoryError(), MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to …"), MEMORY),
        (RuntimeError("odd\nthing"), "Something went wrong: odd thing"),
        (KeyError(), "Something went wrong: KeyError"),
        (SystemExit(), "Something went wrong: SystemExit"),
    ],
)
def test_errors_are_sentences_and_the_panel_survives(error, text):
    panel = SlowPanel()

    def work():
        yield 0.5
        raise error

    panel.ask(work, panel.shown.append)
    assert wrong(panel) == text
    panel.ask(lambda: 1, lambda _: 1 / 0)
    assert "division by zero" in wrong(panel), "an error while showing, too"
    panel.number(5)
    assert done(panel).shown == [5]


# -- what a learner writes -------------------------------------------------------------------------


def wrong_division(eps_fn, schedule, x_T, timesteps):
    for t in timesteps:
        yield Step(int(t), x_T / (1 // 0), x_T)


def yields_wrong_shape(eps_fn, schedule, x_T, timesteps):
    yield Step(0, x_T[:, :, 1:], x_T)


def never_ends(eps_fn, schedule, x_T, timesteps):
    while True:
        yield Step(0, x_T, x_T)


def yields_nan(eps_fn, schedule, x_T, timesteps):
    for t in timesteps:
        yield Step(int(t), x_T * float("nan"), x_T)


def quits(*_):
    raise SystemExit


def broken(eps_fn, schedule, x_0, timesteps):
    return x_0 + missing  # noqa: F821


def crashing(x, source, target):
    return x + nowhere  # noqa: F821


BROKEN = [
    ("digit", "sampler_fn", wrong_division, r"stopped: ZeroDivisionError, .*zero \(line \d+: .*1 // 0"),
    ("digit", "sampler_fn", lambda *_: None, r"must yield Step.*; it returned NoneType"),
    ("digit", "sampler_fn", lambda *_: iter(()), r"must yield Step.*; it ended without one"),
    ("digit", "sampler_fn", lambda e, s, x, t: iter([x]), r"must yield Step\(t, x_t, x_0\).*yielded shape"),
    ("digit", "sampler_fn", yields_wrong_shape, r"its x_t is shape \[1, 1, 7, 8\]"),
    ("digit", "sampler_fn", never_ends, r"makes more than the 5 steps"),
    ("digit", "sampler_fn", yields_nan, r"values that are not numbers"),
    ("digit", "sampler_fn", quits, r"SystemExit"),
    ("counterfactuals", "abduct_fn", broken, r"stopped: NameError.* \(line \d+: return x_0 \+ missing"),
    ("counterfactuals", "abduct_fn", lambda *_: None, r"images of shape \[2, 1, 8, 8\], not NoneType"),
    ("counterfactuals", "abduct_fn", lambda e, s, x, t: x / 0, "values that are not numbers"),
    ("meter", "intervene_fn", crashing, r"stopped: NameError.* \(line \d+: return x \+ nowhere"),
    ("meter", "intervene_fn", lambda *_: None, r"images of shape \[3, 1, 8, 8\], not NoneType"),
    ("meter", "intervene_fn", lambda x, *_: x[:1], r"shape \[3, 1, 8, 8\], not shape \[1, 1, 8, 8\]"),
    ("meter", "intervene_fn", lambda x, *_: x / 0, "values that are not numbers"),
    ("noise", "q_sample_fn", lambda *_: None, r"must return a tensor of shape \[1, 1, 28, 28\]"),
    ("noise", "q_sample_fn", lambda *_: 1 / 0, "division by zero"),
    ("reader", "readers", {"one": lambda x_t, t: 1 / 0}, "division by zero"),
]


@pytest.mark.parametrize(("name", "argument", "function", "pattern"), BROKEN)
def test_what_a_learner_gets_wrong_is_named_with_its_line(make, name, argument, function, pattern):
    panel = make(name, **{argument: function})
    assert re.search(pattern, wrong(panel)), panel.strip.said
    control = {"digit": "sampler", "counterfactuals": "method", "meter": "method"}.get(name)
    if control:  # the library's own goes on
        getattr(panel, control).value = "ddim"
        assert fine(panel) and panel.still() is not None


def test_a_sampler_that_works_in_place_keeps_its_steps_apart(make):
    def in_place(eps_fn, schedule, x_T, timesteps):
        for t in timesteps:
            x_T.mul_(0.5)
            yield Step(int(t), x_T, x_T)

    states = make("digit", sampler_fn=in_place).film.result.states
    torch.testing.assert_close(states[0] / 32, states[-1])


def test_own_code_cannot_reach_the_originals_and_the_way_back_has_8_bit_pixels_only(make):
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
    assert labels == [[7, 0, 4], [3, 5, 9]] and turned == labels[::-1]
    assert torch.equal(first, in_8_bits(first)) and torch.equal(second, in_8_bits(second))
    assert not hasattr(second, "source")


# -- digits ----------------------------------------------------------------------------------------


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
    assert images.shape == (10, 1, 28, 28)
    assert all(torch.equal(image, images[0]) for image in images)


def test_ten_digits_part_as_they_are_told_play_once_displayed_and_obey(monkeypatch):
    readings = read(ten_digits.ten_digits(2.0, seed=3))
    assert sum(reading.label == digit for digit, reading in enumerate(readings)) >= 9
    monkeypatch.setattr(ten_digits, "FRAME_S", 0.0)
    panel = panels.TenDigits(steps=1)
    bundle, _ = panel._repr_mimebundle_()
    assert "image/png" in bundle and "Press Shift + Enter" in bundle["text/plain"]
    fine(panel)
    assert panel.guidance_scale.value == ten_digits.RISE[-1]
    assert len({image.numpy().tobytes() for image in panel.film.result}) == 10
    panel.guidance_scale.value = 0.0
    assert "All ten are the same" in fine(panel) and (panel.film.result == panel.film.result[0]).all()
    before = panel.seed
    panel.another.click()
    fine(panel)
    assert panel.seed != before
    monkeypatch.setattr(ten_digits, "FRAME_S", 0.2)
    panel.play.click()
    time.sleep(0.1)
    panel.guidance_scale.value = 3.0  # a move ends the play
    assert "Scale 3:" in fine(panel) and panel.guidance_scale.value == 3.0


# -- drawing while a slider moves ------------------------------------------------------------------


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


def test_a_flow_map_draws_one_picture_ten_times_without_a_wish_plays_and_takes_no_sampler(monkeypatch):
    monkeypatch.setattr(ten_digits, "FRAME_S", 0.0)
    panel = panels.TenDigits(weights="mnist-flow-map")
    assert "All ten are the same" in fine(panel)
    (row,) = panel.film.pictures
    assert all((view == view[:, :1]).all() and len(view) == 25 for view in row.views.values())
    panel.play.click()
    assert "Scale 2: " in fine(panel) and len(panel.film.moments) == 25
    panel = panels.DigitGenerator("mnist-flow-map", guidance_scale=11, simple=True)
    assert panel.guidance_scale.value == 8 and [*panel.controls] == ["digit", "guidance_scale"]
    assert fine(panel) and panel.film.result.timesteps[-1] == 41
    with pytest.raises(ValueError, match="draws without a sampler"):
        panels.DigitGenerator("mnist-flow-map", sampler_fn=sample_ddim)


# -- the race --------------------------------------------------------------------------------------


def test_the_race_counts_what_a_learners_sampler_asks_and_goes_on_without_it(make, folder):
    def asks_twice(eps_fn, schedule, x_T, timesteps):
        x = x_T
        for k, step in enumerate(sample_ddim(eps_fn, schedule, x_T, timesteps)):
            if k < len(timesteps) - 1:
                eps_fn(x, timesteps[k : k + 1])
            x = step.x_t
            yield step

    def breaks(eps_fn, schedule, x_T, timesteps):
        yield from sample_ddim(eps_fn, schedule, x_T, timesteps[:2])
        raise KeyError("abar")

    panel = make("race", sampler_fn=asks_twice, seed=4)
    runs, (row,) = panel.film.result, panel.film.pictures
    assert runs["yours"].evaluations == 19 and runs["yours"].counts[:2] == [2, 4]
    assert [text[:3] for text in row.texts] == ["3rd", "2nd", "1st", "4th"] and row.frames == 20
    for name, lane in LANES.items():
        request = GenerationRequest((7,), folder / "denoiser.safetensors", guidance_scale=2.0, seed=4, **lane)
        torch.testing.assert_close(runs[name].drawing.images, generate_images(request))
        assert runs[name].image_after(99) is runs[name].drawing.images
    panel = make("race", sampler_fn=breaks)
    said = fine(panel)
    assert said.startswith("fast was first") and re.search(
        r"yours did not arrive. .*line \d+: raise KeyErr", said
    )


# -- the pull of a classifier ----------------------------------------------------------------------


def test_pull_is_what_guidance_changes_in_the_estimate(folder):
    network, classifier = (load_model(folder / f"{name}.safetensors")[0] for name in ("denoiser", "guide"))
    x_t = SampleNoise([(0, 0), (0, 1)])(torch.empty(2, 1, 8, 8))
    t, eps_fn = torch.tensor([49, 7]), unconditional(network)
    log_prob_fn = class_log_prob(classifier, torch.tensor([3, 4]))
    for scale in (0.0, 4.0):
        with torch.no_grad():
            eps, guided = eps_fn(x_t, t), with_classifier(eps_fn, log_prob_fn, LINEAR, scale)(x_t, t)
        pull = pull_on_estimate(log_prob_fn, LINEAR, scale, x_t, t)
        moved = predict_x0(LINEAR, x_t, t, guided) - predict_x0(LINEAR, x_t, t, eps)
        torch.testing.assert_close(pull, moved, rtol=1e-3, atol=1e-3)
        assert (pull.abs().amax() > 1e-4) == (scale > 0)
    schedule, t, x_t = NoiseSchedule.cosine(100), torch.tensor([30, 70]), torch.rand(2, 3, 4, 5).double()
    abar = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    # log p = -|x - 1|²/2 has the gradient 1 - x.
    pull = pull_on_estimate(lambda x, t: -(x - 1).square().flatten(1).sum(1) / 2, schedule, 2.5, x_t, t)
    torch.testing.assert_close(pull, 2.5 * (1 - abar) / abar.sqrt() * (1 - x_t))


def test_shipped_noise_aware_pull_is_a_stroke_and_the_clean_ones_is_speckle():
    """How alike neighbouring pixels are pulled, for ten noises: measured 0.93 … 0.96 and 0.56 … 0.74."""
    seven, t, alike = data.running_example().expand(10, -1, -1, -1), torch.full((10,), 757), {}
    for name, source in CLASSIFIERS.items():
        classifier, schedule, _ = load_model(source)
        x_t = q_sample(schedule, seven, t, SampleNoise([(0, k) for k in range(10)])(seven))
        pull = pull_on_estimate(class_log_prob(classifier, torch.full((10,), 3)), schedule, 4.0, x_t, t)
        products = (pull[..., 1:] * pull[..., :-1]).mean(dim=(1, 2, 3))
        alike[name] = products / pull.square().mean(dim=(1, 2, 3))
    assert alike["noise-aware"].min() > 0.85 > alike["clean"].max()


# -- faces ---------------------------------------------------------------------------------------


def test_faces_are_those_of_the_one_path_before_and_after(make, folder):
    place = {name: folder / f"{name}.safetensors" for name in ("faces", "face-guide", "face-reader")}
    panel = make("faces", attribute="smiling", target=0, guidance_scale=3.0, depth=25)
    request = CounterfactualRequest(
        (1, 1), (0, 0), place["faces"], guidance="classifier", classifier=place["face-guide"], depth=25,
        attribute="Smiling", steps=4, guidance_scale=3.0,
    )  # fmt: skip
    pairs, faces = panel.film.result, digits_of(3, 3)
    torch.testing.assert_close(pairs.after, counterfactual_images(request, faces[:2]))
    reader = load_model(place["face-reader"])[0]
    before, after = (reader.probabilities(in_8_bits(x)) for x in (pairs.before, pairs.after))
    hits = [int((p[:, 0] < 0.5).sum()) for p in (before, after)]
    assert f"Read as asked (Smiling: no): {hits[0]} of 2 before, {hits[1]} of 2 after." in fine(panel)
    change = (after - before).mean(dim=0)[1:]
    sizes = [size for _, size in pairs.side_effects()]
    assert sizes == pytest.approx(sorted(change.tolist(), key=lambda size: -abs(size)), abs=1e-6)
    assert panel.first.options == (("1–2", 0), ("2–3", 1))
    kept = panel._kept
    panel.attribute.value = "Eyeglasses"
    assert done(panel)._kept is kept, "inversion is done once for all wishes"
    panel.guidance_scale.value = 0
    assert fine(panel).startswith("At scale 0 nothing steers. ")


# -- counterfactuals -------------------------------------------------------------------------------


def cfg_request(folder, sources, targets, **options):
    settings = {"guidance_scale": 3.0, "steps": 5} | options
    return CounterfactualRequest(sources, targets, folder / "denoiser.safetensors", **settings)


def test_the_grid_is_what_the_library_draws_and_says_what_is_misread(make, folder):
    panel = make("counterfactuals")
    grid, rows = panel.film.result, panel.film.pictures
    request = cfg_request(folder, (7, 6), tuple(range(10)) * 2, depth=49)
    torch.testing.assert_close(grid.drawing.images, counterfactual_images(request, digits_of(2)))
    missed = [
        [reading.label != k for k, reading in enumerate(grid.drawing.readings[i : i + 10])] for i in (0, 10)
    ]
    assert [list(row.marks) for row in rows] == [[False, *marks] for marks in missed]
    assert set(rows[0].views) == {GUESSES, SEES, "what changed"} and rows[0].zooms
    panel.method.value = "same-noise"
    assert panel.depth.disabled and not panel.seed.disabled and fine(panel)


def test_the_meter_shows_what_the_library_measures(make, folder):
    panel = make("meter")
    evaluator, x = load_model(folder / "evaluator.safetensors")[0], digits_of(3)
    source, target = torch.tensor([7, 0, 4]), torch.tensor([3, 5, 9])

    def intervene(x, source, target, scale=3.0):
        request = cfg_request(folder, source.tolist(), target.tolist(), guidance_scale=scale, depth=49)
        return counterfactual_images(request, x)

    setting = Setting("ddim", 3.0, 49)
    assert torch.equal(
        panel.film.result[setting, "counterfactual", 0].images, in_8_bits(intervene(x, source, target))
    )
    panel.there_and_back.click()
    back = reversibility(intervene, evaluator, x, source, target)
    assert f"off by {back.error:.3f}." in fine(panel) and "There and back: " in panel.strip.said
    nulls = composition(lambda *three: intervene(*three, scale=1.0), x, source, (1, 2))
    panel.nothing.click()
    panel.nothing.click()
    assert re.search(rf"After 2 null interventions: .*off by {nulls[2]:.3f}\.", fine(panel))
    panel.depth.value = 39
    assert "null" not in fine(panel) and len(panel.film.pictures) == 3
    assert [dot.setting for dot in panel.dots] == [setting, Setting("ddim", 3.0, 39)]
    panel.clear.click()
    assert fine(panel) and len(panel.dots) == 1

    def place(successes, l1):
        svg = plane_svg([Dot(Setting("ddim", 1.0, 9), Share(successes, 8), l1)])
        return tuple(map(float, re.search(r"<g transform=.translate\((\S+) (\S+)\)", svg).groups()))

    (x, y), (far, _), (_, low) = place(8, 0.05), place(8, 0.1), place(2, 0.05)
    assert far > x and low > y, "the best is at the upper left"


# -- draw a digit ----------------------------------------------------------------------------------

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


def test_shipped_weights_turn_a_drawing_into_every_digit():
    panel = panels.DrawnCounterfactuals(example=False, steps=10)
    assert (
        fine(panel) == "Draw a digit with the mouse or a finger."
        and panel.strip.film["rows"][0]["views"] is None
    )
    draw(panel.pad, THREE)
    assert fine(panel).startswith("Read as 3 (")
    grid = panel.film.result
    request = CounterfactualRequest((3,), tuple(range(10)), guidance_scale=4.0, steps=10)
    assert grid.labels == (3,) and torch.equal(grid.sources, panel.pad.digit())
    assert torch.equal(grid.drawing.images, counterfactual_images(request, grid.sources))
    assert grid.missed().sum() <= 1 and grid.distances()[0, 3] < 0.06, "its own label changes little"


def test_the_digit_is_shown_at_once_and_the_row_after_the_pause(make):
    panel = make("drawn")
    assert torch.equal(panel.film.result.sources, in_8_bits(pictures.sharpened(data.running_example())))
    panel.drawn_as.value = "4"
    panel.clear.click()
    assert fine(panel) == "Draw a digit with the mouse or a finger." and panel.still() is None
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
    fine(panel)
    assert torch.equal(panel.film.result.sources, panel.pad.digit()) and len(panel.pad.strokes) == 21
    panel.clear.click()
    draw(panel.pad, ONE)
    panel.drawn_as.value = "4"
    assert "drawn as 4." in fine(panel) and panel.film.result.labels == (4,)


def drawn_file(kind="PNG"):
    image = Image.new("RGB", (600, 800), "white")
    ImageDraw.Draw(image).line([(150, 160), (450, 160), (300, 640)], "navy", width=50)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def upload(panel, content, name):
    """What the browser sends."""
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    facts = {"name": name, "type": "", "size": len(content), "last_modified": now}
    panel.upload.value = [facts | {"content": memoryview(content)}]
    return done(panel)


def huge():
    """The first bytes of a PNG of 10,000 × 10,000 pixels."""
    parts = (b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0), b"IEND")
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_picture_is_put_on_the_pad_and_a_bad_one_is_a_sentence(make):
    panel = make("drawn")
    draw(panel.pad, ONE)
    for kind in ("PNG", "JPEG"):
        upload(panel, drawn_file(kind), "mine")
        assert panel.pad.strokes == [] and panel.film.result.labels == (7,) and panel.upload.value == ()
        assert torch.equal(panel.film.result.sources, in_8_bits(pictures.digit_from_bytes(drawn_file(kind))))
    before = panel.film
    for content, said in (
        (b"no picture", "a&b.txt is no picture of a known kind: use PNG, JPEG"),
        (b"", "a&b.txt is no picture of a known kind"),
        (drawn_file()[:300], "The picture a&b.txt is damaged or cut short."),
        (huge(), "The picture is too large: at most 4,096 pixels on a side are allowed"),
        (iio.imwrite("<bytes>", np.full((9, 9, 3), 200, np.uint8), extension=".png"), "The picture is empty"),
    ):
        upload(panel, content, "a&b.txt")
        assert wrong(panel).startswith(said)
        assert panel.film is before and panel.pad.picture
