"""The face panel of lesson 12 without a browser: faces before and after, what is read, what came along."""

import base64
import dataclasses
import re
import time

import imageio.v3 as iio
import pytest
import torch
from panel_tools import done, text_of

from classroom.panels import FacePanel
from classroom.panels.facerows import GAIN, change_maps, file_stem, side_for, way_frames
from classroom.panels.pairs import FaceEdit, choices, result_line, side_line
from lessons_lib import data, weights
from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.images import difference_maps, to_pixels
from lessons_lib.pipeline import (
    CounterfactualRequest,
    GenerationRequest,
    counterfactual_images,
    generate_images,
)
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("Smiling", "Eyeglasses", "Blond_Hair", "Big $ <Nose>", "Mouth_Slightly_Open")
SCHEDULE = NoiseSchedule.cosine(40)
SHAPE = {"image_size": 16, "in_channels": 3}
NARROW = {"widths": (32, 32), "num_classes": len(NAMES), "multi_label": True}


def random(model):
    """Weights that answer: a fresh network says 0 whatever it is asked."""
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model.eval()


def save(path, model, schedule=SCHEDULE, names=NAMES, defaults=None):
    card = {"defaults": defaults or {}} | ({"class_names": list(names)} if names else {})
    weights.save_pretrained(path, model, schedule, card)
    return path


def denoiser(**other):
    shape = SHAPE | {"num_classes": 0} | other
    return random(UNet(UNetConfig(**shape, base_channels=32, channel_mults=(1,), attention_levels=())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny random weights: a denoiser without labels, a classifier and an evaluator of five attributes."""
    folder = tmp_path_factory.mktemp("weights")
    card = {"guidance_scale": 2.0, "sampler": "ddim", "steps": 4}
    save(folder / "denoiser.safetensors", denoiser(), defaults=card)
    steers = random(NoisyClassifier(NoisyClassifierConfig(**SHAPE, **NARROW)))
    save(folder / "classifier.safetensors", steers, defaults={"guidance_scale": 7.0, "spacing": "logsnr"})
    save(folder / "evaluator.safetensors", random(Evaluator(EvaluatorConfig(**SHAPE, **NARROW))), None)
    return folder


@pytest.fixture
def names(folder):
    return {name: folder / f"{name}.safetensors" for name in ("denoiser", "classifier", "evaluator")}


@pytest.fixture
def given(names):
    """The panel's arguments."""
    return {"weights": names["denoiser"], "classifier": names["classifier"], "evaluator": names["evaluator"]}


@pytest.fixture(scope="module")
def faces():
    torch.manual_seed(1)
    return torch.rand(7, 3, 16, 16) * 2 - 1


def read(names, images):
    network = weights.load_pretrained(names["evaluator"])[0]
    return network.probabilities(((images + 1) * 127.5).round() / 127.5 - 1)


# ---- drawn faces ----


def test_drawn_faces_are_those_of_the_one_path(names, given):
    panel = done(FacePanel(**given, attribute="blond hair", target=0, guidance_scale=3.0, seed=5))
    asked = GenerationRequest(
        (0,) * 4, names["denoiser"], "classifier", classifier=names["classifier"], attribute="Blond_Hair",
        guidance_scale=3.0, seed=5,
    )  # fmt: skip
    assert torch.equal(panel.pairs.after, generate_images(asked))
    spacing = asked.plan().request.spacing
    plain = GenerationRequest((0,) * 4, names["denoiser"], "none", seed=5, spacing=spacing)
    assert spacing == "logsnr", "the unguided faces take the guided ones' steps, not the denoiser's own"
    assert torch.equal(panel.pairs.before, generate_images(plain))
    assert not torch.equal(panel.pairs.before, panel.pairs.after)
    assert panel.pairs.after.shape == (4, 3, 16, 16)


def test_at_scale_0_nothing_changes(given):
    panel = done(FacePanel(**given, guidance_scale=0))
    torch.testing.assert_close(panel.pairs.before, panel.pairs.after, rtol=0, atol=1e-5)
    text = text_of(panel)
    assert text.startswith("At scale 0 nothing steers. ") and "Mean change of a pixel 0.000" in text
    assert "Also changed: nothing that the evaluator reads." in text


def test_controls_start_where_the_cards_say(given):
    panel = done(FacePanel(**given))
    edit = {"attribute": "Smiling", "target": 1, "guidance_scale": 7.0, "steps": 4}
    assert panel.settings() == panel._drawn == edit | {"seed": 0}
    scale = panel.guidance_scale
    assert (scale.min, scale.max, scale.step) == (0, 14, 0.5) and max(panel.steps.options) <= 40
    assert panel.attribute.options[-1] == ("Mouth Slightly Open", "Mouth_Slightly_Open")
    assert [text for text, _ in panel.target.options] == ["yes", "no"] and panel.chosen is None
    for control in (panel.attribute, panel.target, scale, panel.steps, panel.seed, panel.scrubber):
        assert control.description and control.tooltip
        if control is not panel.scrubber:
            assert getattr(control, "continuous_update", False) is False
    for button in (panel.new_seed, panel.save):
        assert button.description and button.tooltip
    assert done(FacePanel(**given, guidance_scale=20)).guidance_scale.max == 20


def test_line_and_readings(names, given):
    panel = done(FacePanel(**given))
    before, after = (read(names, images)[:, 0] for images in (panel.pairs.before, panel.pairs.after))
    hits = [int((p >= 0.5).sum()) for p in (before, after)]
    mean = float((panel.pairs.after - panel.pairs.before).abs().mean()) / 2
    said = rf"Read as asked \(Smiling: yes\): {hits[0]} of 4 before, {hits[1]} of 4 after. "
    found = re.match(said + r"Mean change of a pixel (\d\.\d{3}) \(of 0 to 1\)\. \d+\.\d s\.", text_of(panel))
    assert float(found[1]) == pytest.approx(mean, abs=2e-3)
    for row, which, read_in in ((panel.before, "before", before), (panel.after, "after", after)):
        for k, p in enumerate(read_in, start=1):
            assert f'alt="Face {k} {which}, read as Smiling {p:.0%}"' in row.value
            assert f">Smiling {p:.0%}</span>" in row.value
    assert panel.before.value.count("color: #c0492f") == 0
    assert panel.after.value.count("color: #c0492f") == int((after < 0.5).sum())
    panel.target.value = 0
    assert "(Smiling: no)" in text_of(done(panel)) and "Smiling: no" in panel.heads[1].value


def test_side_effects_are_the_largest_mean_changes(names, given):
    panel = done(FacePanel(**given))
    change = (read(names, panel.pairs.after) - read(names, panel.pairs.before)).mean(dim=0)
    ranked = sorted(range(1, 5), key=lambda k: -abs(change[k]))
    found = panel.pairs.side_effects()
    assert [name for name, _ in found] == [NAMES[k] for k in ranked]
    assert [size for _, size in found] == pytest.approx([float(change[k]) for k in ranked], abs=1e-6)
    assert 'role="status"' in panel.status.value and "<b>Also changed: " in panel.status.value


def test_side_line_in_words(given):
    pairs = done(FacePanel(**given)).pairs
    before = torch.full((4, 5), 0.5)
    after = before + torch.tensor([0.4, 0.01, -0.123, 0.004, 0.41])
    made = dataclasses.replace(pairs, read=(before, after))
    words = "Also changed: Mouth Slightly Open +41 points, Blond Hair −12, Eyeglasses +1."
    assert side_line(made) == words
    assert "4 of 4 before, 4 of 4 after" in result_line(made)
    asked_no = dataclasses.replace(made, edit=FaceEdit("Smiling", 0, 2.0, 4), read=(before - 0.1, after))
    assert "(Smiling: no): 4 of 4 before, 0 of 4 after" in result_line(asked_no)


def test_another_wish_starts_from_the_same_faces(given, monkeypatch):
    panel = done(FacePanel(**given))
    before, kept = panel.pairs.before, panel.source._kept
    panel.attribute.value, panel.guidance_scale.value = "Eyeglasses", 4.5
    done(panel)
    assert panel.source._kept is kept and panel.pairs.before is before, "they were not drawn again"
    panel.new_seed.click()
    panel.seed.value = 77
    assert not torch.equal(done(panel).pairs.before, before)
    assert panel._drawn == {
        "attribute": "Eyeglasses", "target": 1, "guidance_scale": 4.5, "steps": 4, "seed": 77
    }  # fmt: skip


def test_many_moves_end_with_the_faces_of_the_last(names, given):
    panel = done(FacePanel(**given, count=2))
    for n in range(30):
        panel.attribute.value = NAMES[n % 5]
        panel.target.value = n % 2
        time.sleep(0.01)
    done(panel)
    asked = GenerationRequest(
        (1, 1), names["denoiser"], "classifier", classifier=names["classifier"], attribute=NAMES[4]
    )
    assert panel._drawn["attribute"] == NAMES[4] and torch.equal(panel.pairs.after, generate_images(asked))


# ---- given faces ----


@pytest.mark.numeric
@pytest.mark.parametrize("depth", [None, 25])
def test_counterfactuals_are_those_of_the_one_path(names, given, faces, depth):
    panel = done(FacePanel(faces[:3], **given, target=0, depth=depth, steps=5))
    asked = CounterfactualRequest(
        (0,) * 3, (0,) * 3, names["denoiser"], guidance="classifier", classifier=names["classifier"],
        attribute="Smiling", depth=depth, steps=5,
    )  # fmt: skip
    torch.testing.assert_close(panel.pairs.after, counterfactual_images(asked, faces[:3]))
    torch.testing.assert_close(panel.pairs.before, faces[:3], rtol=0, atol=1 / 255 + 1e-6)
    assert panel.seed is None and panel.new_seed is None and panel.chosen is None
    assert panel.settings()["first"] == 0 and "seed" not in panel.settings()
    assert "The given faces" in panel.heads[0].value and "counterfactuals" in panel.heads[1].value
    assert len(panel.pairs.drawing.states) == len(panel.pairs.drawing.timesteps) + 1


def test_more_faces_than_are_shown(given, faces):
    panel = done(FacePanel(faces, **given, count=3, steps=3))
    assert panel.chosen.options == (("1–3", 0), ("4–6", 3), ("5–7", 4)) and panel.chosen in panel.children
    first = panel.pairs.before
    panel.chosen.value = 4
    torch.testing.assert_close(done(panel).pairs.before, faces[4:], rtol=0, atol=1 / 255 + 1e-6)
    panel.chosen.value = 0
    assert torch.equal(done(panel).pairs.before, first)
    assert FacePanel(faces, **given, count=1, steps=2).chosen.options[6] == ("7", 6)


def test_inversion_is_done_once_for_all_wishes(given, faces, monkeypatch):
    panel, seen = done(FacePanel(faces[:2], **given, steps=3)), []
    monkeypatch.setattr(panel.source, "_abducted", lambda *asked: seen.append(asked))
    for attribute, target, scale in (("Eyeglasses", 1, 7), ("Smiling", 0, 7), ("Smiling", 1, 0)):
        panel.attribute.value, panel.target.value, panel.guidance_scale.value = attribute, target, scale
        done(panel)
    assert seen == [] and panel._drawn["guidance_scale"] == 0
    assert text_of(panel).startswith("At scale 0 nothing steers. Read as asked")


def test_faces_that_do_not_suit(given, faces):
    panel = done(FacePanel(faces[..., :8], **given))
    assert "The denoiser draws pictures of 3×16×16 (C×H×W), but the faces have 3×16×8." in text_of(panel)
    assert 'role="alert"' in panel.status.value and panel.still() is None
    for wrong, words in (
        (faces[0], r"Give one face or more as \[N, C, H, W\], got shape \[3, 16, 16\]"),
        (faces[:0], "Give one face or more"),
        (faces * 255, r"must lie in \[-1, 1\], got values from -25"),
    ):
        with pytest.raises(ValueError, match=words):
            FacePanel(wrong, **given)
    assert "depth must be between" in text_of(done(FacePanel(faces, **given, depth=500)))
    with pytest.raises(ValueError, match="A depth says how far given faces are taken back"):
        FacePanel(**given, depth=20)


# ---- what is shown ----


def test_what_changed(given):
    panel = done(FacePanel(**given))
    pairs, maps = panel.pairs, change_maps(panel.pairs)
    fainter = dataclasses.replace(
        pairs,
        before=pairs.before / 10,
        drawing=dataclasses.replace(pairs.drawing, images=pairs.after / 10),
    )
    white = difference_maps(pairs.before, pairs.before)
    plain = difference_maps(fainter.after, fainter.before)
    torch.testing.assert_close(change_maps(fainter) - white, GAIN * (plain - white))
    assert maps.min() >= -1 and maps.max() <= 1
    content = re.search(r"base64,([^\"]+)", panel.changes.value)[1]
    assert (iio.imread(base64.b64decode(content)) == to_pixels(maps[0])).all()
    assert panel.changes.value.count(", what changed") == 4


def test_scrubber_replays_states_and_estimates(given, faces):
    for panel in (FacePanel(**given), FacePanel(faces[:4], **given)):
        seen, timesteps = set(), done(panel).pairs.drawing.timesteps
        assert panel.scrubber.max == len(timesteps) == 4 and 0 < panel.scrubber.value < 4
        for k, t in enumerate([*timesteps, None]):
            panel.scrubber.value = k
            words = f"t = {t}, step {k + 1} of 4" if t is not None else "after the last step"
            assert words in panel.moment.value and f'alt="State 4, {words}"' in panel.replay.value
            assert panel.replay.value.count('alt="Estimate') == 4
            seen.add(panel.replay.value)
        assert len(seen) == 5
    panel.steps.value = 8
    assert done(panel).scrubber.value == panel.scrubber.max == 8, "it stays at the end"


@pytest.mark.parametrize("count", [1, 4, 8])
def test_nothing_jumps_and_the_row_fits(given, count):
    panel = FacePanel(**given, count=count)
    rows = (panel.before, panel.after, panel.changes, panel.replay)
    tall = [row.layout.height for row in rows]
    done(panel)
    assert tall == [row.layout.height for row in rows] and all(height.endswith("px") for height in tall)
    assert panel.after.value.count("<img") == count and count * (panel.side + 8) <= 600
    assert f'width="{panel.side // 2}"' in panel.changes.value
    assert ("Smiling" in re.sub('alt="[^"]*"', "", panel.after.value)) == (count <= 4)


def test_names_are_escaped(given):
    panel = done(FacePanel(**given, attribute="Big $ <Nose>"))
    shown = panel.status.value + panel.after.value + panel.heads[1].value
    assert "<Nose>" not in shown and "&lt;Nose&gt;" in panel.after.value
    assert panel.still()[0].startswith(b"\x89PNG")


def test_gif(given, faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = done(FacePanel(**given, attribute="Blond Hair", target=0))
    for name in ("blond-hair-no-s7.0-seed0.gif", "blond-hair-no-s7.0-seed0-2.gif"):
        panel.save.click()
        done(panel)
        frames = iio.imread(tmp_path / name)
        assert len(frames) == 5 and name in panel.saved.value and str(tmp_path) in panel.saved.value
    assert frames.shape[1:] == way_frames(panel.pairs)[0].shape
    assert 'src="data:image/gif;base64,' in panel.gif.value and panel.gif.layout.display == "block"
    panel = FacePanel(faces, **given)
    panel.save.click()  # before it is drawn
    done(panel)
    assert (tmp_path / "smiling-yes-s7.0-face1.gif").exists() and panel.pairs is not None


def test_gif_that_cannot_be_written(given, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    panel = done(FacePanel(**given, count=1))
    monkeypatch.setattr("classroom.panels.face_panel.Path.cwd", lambda: tmp_path / "file" / "folder")
    panel.save.click()
    assert "cannot be written" in text_of(done(panel))


@pytest.mark.parametrize("count", [1, 4, 6])
def test_static_picture_beside_the_live_panel(given, faces, count, capfd):
    for panel, words in (
        (FacePanel(**given, count=count), "Steered to Smiling: yes, scale 7, 4 steps, seed 0. Read as asked"),
        (FacePanel(faces, **given, count=count), "Steered to Smiling: yes, scale 7, 4 steps. Read as asked"),
    ):
        bundle, metadata = panel._repr_mimebundle_()  # at once: it waits for the first faces itself
        picture = iio.imread(base64.b64decode(bundle["image/png"]), extension=".png")
        alt = metadata["image/png"]["alt"]
        assert picture.shape[0] > 100 and alt.startswith(words) and "Also changed: " in alt
    assert capfd.readouterr() == ("", ""), "nothing is printed"


# ---- what is wrong, or not there ----


def test_missing_weights_are_a_sentence(given, faces, tmp_path):
    for name in ("weights", "classifier"):
        for images in (None, faces):
            panel = done(FacePanel(images, **given | {name: tmp_path / "none.safetensors"}))
            assert text_of(panel).startswith("There are no weights") and panel.pairs is None
            assert panel.still() is None and panel.attribute in panel.children
    assert [name for _, name in panel.attribute.options] == list(data.ATTRIBUTES)
    own = {"attribute": "Own", "classifier": tmp_path / "none.safetensors"}
    assert FacePanel(**given | own).attribute.value == "Own"


def test_attributes_to_choose_from(given):
    with pytest.raises(ValueError, match="Unknown attribute 'Smile': did you mean Smiling"):
        FacePanel(**given, attribute="Smile")
    with pytest.raises(ValueError, match="Unknown attribute 'Hair': did you mean Blond_Hair"):
        FacePanel(**given, attributes=("Smiling", "Hair"))
    panel = FacePanel(**given, attribute="eyeglasses", attributes=("blond hair", "EYEGLASSES"))
    assert [name for _, name in panel.attribute.options] == ["Blond_Hair", "Eyeglasses"]
    assert panel.attribute.value == "Eyeglasses"
    assert choices(given["classifier"], "Smiling", ["Eyeglasses"]) == (["Smiling", "Eyeglasses"], "Smiling")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": 2}, r"must be 1 \(yes\) or 0 \(no\), got 2"),
        ({"count": 0}, "must be between 1 and 8, got 0"),
        ({"count": 9}, "must be between 1 and 8, got 9"),
    ],
)
def test_what_is_refused(given, wrong, words):
    with pytest.raises(ValueError, match=words):
        FacePanel(**given, **wrong)


def test_without_evaluator_there_is_no_reading(given, tmp_path):
    panel = done(FacePanel(**given | {"evaluator": None}))
    assert re.fullmatch(
        r"Mean change of a pixel \d\.\d{3} \(of 0 to 1\)\. \d+\.\d s\.", text_of(panel).strip()
    )
    assert "%" not in re.sub('src="[^"]*"|style="[^"]*"', "", panel.after.value)
    panel = done(FacePanel(**given | {"evaluator": tmp_path / "none.safetensors"}))
    assert text_of(panel).startswith("There is no evaluator on this machine") and panel.still() is not None


def test_evaluators_that_do_not_suit(given, tmp_path):
    plain = NARROW | {"multi_label": False}
    classes = save(tmp_path / "classes.safetensors", Evaluator(EvaluatorConfig(**SHAPE, **plain)), None)
    panel = done(FacePanel(**given | {"evaluator": classes}))
    assert "reads classes, not attributes. Mean change" in text_of(panel)
    other = tmp_path / "other.safetensors"
    save(other, random(Evaluator(EvaluatorConfig(**SHAPE, **NARROW))), None, list("abcde"))
    panel = done(FacePanel(**given | {"evaluator": other}))
    assert text_of(panel).startswith("The evaluator knows no attribute Smiling. Mean change")
    assert "Also changed: " in text_of(panel)


def test_a_classifier_of_classes_is_a_sentence(given, faces, tmp_path):
    plain = NARROW | {"multi_label": False}
    path = save(tmp_path / "classes.safetensors", NoisyClassifier(NoisyClassifierConfig(**SHAPE, **plain)))
    for images in (None, faces):
        panel = done(FacePanel(images, **given | {"classifier": path}))
        assert "reads classes, not attributes." in text_of(panel) and panel.pairs is None


def test_a_network_in_hand(names, given, faces, tmp_path):
    model = (weights.load_pretrained(names["denoiser"])[0], SCHEDULE)
    mine = given | {"weights": tmp_path / "none.safetensors"}
    for images in (None, faces):
        panel, stored = (
            done(FacePanel(images, **arguments, steps=4)) for arguments in (mine | {"model": model}, given)
        )
        assert torch.equal(panel.pairs.after, stored.pairs.after)
        assert torch.equal(panel.pairs.before, stored.pairs.before)


def test_names_make_files_and_sizes():
    settings = {"attribute": "5_o_Clock_Shadow", "target": 1, "guidance_scale": 4, "steps": 3}
    assert file_stem(settings | {"seed": 7}) == "5-o-clock-shadow-yes-s4.0-seed7"
    assert file_stem(settings | {"attribute": "???", "first": 2}) == "attribute-yes-s4.0-face3"
    assert (side_for(64, 4), side_for(64, 8), side_for(300, 8), side_for(16, 6)) == (128, 64, 64, 64)
