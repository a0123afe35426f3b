"""The panels of lesson 11 without a browser: pictures of a class side by side, and one image in schedules."""

import base64
import math
import re
import time

import imageio.v3 as iio
import pytest
import torch
from numeric import SEED
from panel_tools import done, text_of

from classroom import figures
from classroom.panels import ObjectGenerator, ScheduleExplorer
from classroom.panels.gallery import (
    Reader,
    file_stem,
    gallery_frames,
    side_of,
    subject_of,
    suited_reader,
    texts_read,
)
from classroom.panels.snr import Mixture, curves_svg, place
from lessons_lib import data, weights
from lessons_lib.classifier import Evaluator, EvaluatorConfig
from lessons_lib.pipeline import GenerationRequest, generate_images
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import NoiseSchedule, q_sample
from lessons_lib.unet import UNet, UNetConfig

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = ("rose", "tulip <red>", "big $ daisy")
SCHEDULE = NoiseSchedule.cosine(40)


def network(size=8, channels=3, classes=3):
    torch.manual_seed(SEED)
    shape = {"image_size": size, "in_channels": channels, "num_classes": classes}
    made = UNet(UNetConfig(**shape, base_channels=32, channel_mults=(1,), attention_levels=())).eval()
    for weight in made.parameters():  # a fresh U-Net answers 0 whatever it is asked
        torch.nn.init.normal_(weight, std=0.1)
    return made


def save(path, model, schedule=SCHEDULE, names=None):
    card = {"defaults": {"guidance_scale": 2.0, "sampler": "ddim", "steps": 4}} if schedule else {}
    weights.save_pretrained(path, model, schedule, card | ({"class_names": list(names)} if names else {}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny random weights: own (three named classes), plain (no labels), their evaluator."""
    folder = tmp_path_factory.mktemp("weights")
    save(folder / "own.safetensors", network(), names=OWN)
    save(folder / "plain.safetensors", network(classes=0))
    reader = EvaluatorConfig(image_size=8, in_channels=3, widths=(32, 32), num_classes=3)
    torch.manual_seed(0)
    save(folder / "evaluator.safetensors", Evaluator(reader), None, OWN)
    return folder


@pytest.fixture
def names(folder):
    return {"weights": folder / "own.safetensors", "evaluator": folder / "evaluator.safetensors"}


# ---- the generator ----


@pytest.mark.numeric
def test_pictures_of_a_class_are_those_of_the_one_path(names):
    panel = done(ObjectGenerator(**names, label="tulip <red>", guidance_scale=3.0, seed=5))
    four, two = (
        generate_images(GenerationRequest((1,) * count, names["weights"], guidance_scale=3.0, seed=5))
        for count in (4, 2)
    )
    assert torch.equal(panel.drawing.images, four) and four.shape == (4, 3, 8, 8)
    assert len({tuple(image.flatten().tolist()) for image in four}) == 4, "each from its own noise"
    fewer = done(ObjectGenerator(**names, label=1, guidance_scale=3.0, seed=5, count=2))
    assert torch.equal(fewer.drawing.images, two), "a batch of two rounds otherwise than one of four"
    assert torch.equal(fewer.drawing.states[0], panel.drawing.states[0][:2]), "from the same noise"


def test_controls_start_where_the_card_says(names):
    panel = done(ObjectGenerator(**names))
    assert panel.settings() == {"label": 0, "guidance_scale": 2.0, "steps": 4, "seed": 0}
    assert [name for name, _ in panel.label.options] == list(OWN)
    assert (panel.guidance_scale.min, panel.guidance_scale.max, panel.guidance_scale.step) == (0, 7, 0.5)
    assert max(panel.steps.options) <= 40, "no more steps than the schedule has timesteps"
    for control in (panel.label, panel.guidance_scale, panel.steps, panel.seed):
        assert control.description and control.tooltip
        assert getattr(control, "continuous_update", False) is False
    for control in (panel.new_seed, panel.save, panel.scrubber):
        assert control.description and control.tooltip


def test_line_and_readings(names):
    panel = done(ObjectGenerator(**names))
    read = [OWN[reading.label] for reading in panel.drawing.readings]
    hits = f"{read.count('rose')} of 4 are read as rose by the evaluator. Drawn in "
    assert text_of(panel).startswith(hits) and re.search(r"Drawn in \d+\.\d s\.$", text_of(panel))
    shown = panel.pictures.value
    assert len(re.findall(r'alt="Picture \d of class rose, read as [^"]+ \d+%"', shown)) == 4
    panel.guidance_scale.value = 0
    assert "At scale 0 the network is not told the class" in text_of(done(panel))
    panel.label.value = 1
    panel.guidance_scale.value = 2
    assert "tulip &lt;red&gt;" in text_of(done(panel)) and "<red>" not in panel.pictures.value


def test_a_reading_of_another_class_is_marked(names):
    marked = []
    panel = done(ObjectGenerator(**names))
    for label in range(3):
        panel.label.value = label
        done(panel)
        wrong = sum(reading.label != label for reading in panel.drawing.readings)
        assert panel.pictures.value.count("color: #c0492f") == wrong
        marked.append(wrong)
    assert len(set(marked)) > 1


def test_new_seed_and_other_values_are_kept(names):
    panel = done(ObjectGenerator(**names))
    before = panel.drawing.states[0]
    panel.label.value, panel.guidance_scale.value = 2, 4.5
    panel.new_seed.click()
    panel.seed.value = 77
    assert not torch.equal(done(panel).drawing.states[0], before)
    assert panel.settings() == panel._drawn == {"label": 2, "guidance_scale": 4.5, "steps": 4, "seed": 77}


def test_many_moves_end_with_the_pictures_of_the_last(names):
    panel = done(ObjectGenerator(**names, count=2))
    for n in range(30):
        panel.label.value = n % 3
        time.sleep(0.01)
    done(panel)
    expected = generate_images(GenerationRequest((2, 2), names["weights"]))
    assert panel._drawn["label"] == 2 and torch.equal(panel.drawing.images, expected)


def test_scrubber_replays_states_and_estimates(names):
    panel = done(ObjectGenerator(**names))
    assert panel.scrubber.max == 4 and 0 < panel.scrubber.value < 4
    seen, took = set(), []
    for k, t in enumerate([*panel.drawing.timesteps, None]):
        begun = time.thread_time()
        panel.scrubber.value = k
        took.append(time.thread_time() - begun)
        words = f"t = {t}, step {k + 1} of 4" if t is not None else "after the last step"
        assert words in panel.moment.value and f'alt="State 4, {words}"' in panel.replay.value
        assert panel.replay.value.count('alt="Estimate') == 4
        seen.add(panel.replay.value)
    assert len(seen) == 5 and sorted(took)[2] < 0.05
    panel.steps.value = 8
    assert done(panel).scrubber.value == panel.scrubber.max == 8, "it stays at the end"


def test_gif_in_colour(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = done(ObjectGenerator(**names, label=2))
    for name in ("big-daisy-w2.0-seed0.gif", "big-daisy-w2.0-seed0-2.gif"):
        panel.save.click()
        done(panel)
        frames = iio.imread(tmp_path / name)
        assert len(frames) == 5 and name in panel.saved.value and str(tmp_path) in panel.saved.value
    assert frames.shape[1:] == gallery_frames(panel.drawing)[0].shape
    assert (frames[0, ..., 0] != frames[0, ..., 1]).any(), "its colours are kept"
    assert 'src="data:image/gif;base64,' in panel.gif.value and panel.gif.layout.display == "block"


def test_gif_of_what_was_asked_for_last(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = done(ObjectGenerator(**names, count=1))
    panel.label.value = 1
    panel.save.click()  # before it is drawn
    panel.label.value = 0
    done(panel)
    assert (tmp_path / "tulip-red-w2.0-seed0.gif").exists() and panel._drawn["label"] == 0


def test_gif_that_cannot_be_written(names, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    panel = done(ObjectGenerator(**names, count=1))
    monkeypatch.setattr("classroom.panels.objects.Path.cwd", lambda: tmp_path / "file" / "folder")
    panel.save.click()
    assert "cannot be written" in text_of(done(panel))


def test_weights_without_labels_have_neither_class_nor_scale(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = done(ObjectGenerator(folder / "plain.safetensors", folder / "evaluator.safetensors", count=3))
    assert panel.label not in panel.children and panel.guidance_scale not in panel.children
    assert panel.settings() == {"steps": 4, "seed": 0} and text_of(panel).startswith("The evaluator reads ")
    request = GenerationRequest((0,) * 3, folder / "plain.safetensors", guidance="none")
    assert torch.equal(panel.drawing.images, generate_images(request))
    assert "Pictures, seed 0, 4 steps" in panel.still()[1]
    panel.save.click()
    done(panel)
    assert (tmp_path / "pictures-seed0.gif").exists()
    with pytest.raises(ValueError, match=r"Unknown class 'rose': choose from none, the network knows no"):
        ObjectGenerator(folder / "plain.safetensors", label="rose")


def test_without_evaluator_there_is_no_reading(names, tmp_path):
    panel = done(ObjectGenerator(names["weights"], None))
    assert panel.drawing.readings == () and re.fullmatch(r"Drawn in \d+\.\d s\.", text_of(panel))
    assert "%" not in re.sub('src="[^"]*"|style="[^"]*"', "", panel.pictures.value)
    panel = done(ObjectGenerator(names["weights"], tmp_path / "none.safetensors"))
    assert text_of(panel).startswith("There is no evaluator on this machine") and panel.still() is not None


def test_an_evaluator_that_does_not_suit_reads_nothing(names, tmp_path):
    grey = save(
        tmp_path / "grey.safetensors", Evaluator(EvaluatorConfig(image_size=8, widths=(32, 32))), None
    )
    panel = done(ObjectGenerator(names["weights"], grey))
    assert "reads pictures of 1×8×8 (C×H×W) and not of 3×8×8" in text_of(panel)
    assert panel.drawing is not None and 'role="status"' in panel.status.value
    reader = suited_reader(names["weights"], panel.subject)
    assert reader.weights is None and "are no evaluator" in reader.note


def test_an_evaluator_of_other_classes_says_so(names, tmp_path):
    config = EvaluatorConfig(image_size=8, in_channels=3, widths=(32, 32), num_classes=2)
    other = save(tmp_path / "other.safetensors", Evaluator(config), None, ("cat", "dog"))
    panel = done(ObjectGenerator(names["weights"], other))
    assert re.match(r"The evaluator knows no class rose; it reads (cat|dog), ", text_of(panel))


def test_cifar10s_shape_and_names(tmp_path):
    named = data.CLASS_NAMES["cifar10"]
    path = save(tmp_path / "colour.safetensors", network(32, 3, 10), names=named)
    panel = done(ObjectGenerator(path, None, label="cat", count=1, steps=1))
    assert panel.settings()["label"] == 3 and panel.drawing.images.shape == (1, 3, 32, 32)
    assert [name for name, _ in panel.label.options] == list(named)
    assert (
        side_of(32, 4) == 128 and side_of(28, 4) == 112 and side_of(64, 4) == 128 and side_of(300, 4) == 128
    )


def test_a_network_in_hand_and_its_names():
    model = network(8, 1, 2), SCHEDULE
    panel = done(ObjectGenerator(evaluator=None, model=model, class_names=("yes", "no"), label="no", steps=2))
    assert panel.drawing.images.shape == (4, 1, 8, 8) and panel._asked(panel._drawn) == "no"
    assert subject_of(model).names == ("0", "1"), "numbers, where nobody names them"
    with pytest.raises(ValueError, match="There are 1 class names for 2 classes"):
        ObjectGenerator(model=model, class_names=("yes",))


def test_missing_weights_are_a_sentence_and_mistakes_too(names, tmp_path):
    panel = done(ObjectGenerator(tmp_path / "none.safetensors", label="cat"))
    assert text_of(panel).startswith("There are no weights") and panel.drawing is None
    assert panel.still() is None and panel.label in panel.children
    with pytest.raises(ValueError, match="Unknown class 'cow': choose from rose, tulip"):
        ObjectGenerator(**names, label="cow")
    for count in (0, 13):
        with pytest.raises(ValueError, match=f"must be between 1 and 12, got {count}"):
            ObjectGenerator(**names, count=count)


def test_names_make_files_and_texts():
    assert file_stem("a/b: c", 2, 7) == "a-b-c-w2.0-seed7" and file_stem("???", 1, 0) == "class-w1.0-seed0"
    drawing = type("", (), {"images": [0, 0], "readings": []})
    assert texts_read(drawing, Reader(None)) == ["", ""]


@pytest.mark.parametrize("count", [1, 4, 6])
def test_static_picture_beside_the_live_panel(names, count, capfd):
    panel = ObjectGenerator(**names, label=2, count=count)
    bundle, metadata = panel._repr_mimebundle_()  # at once: it waits for the first pictures itself
    picture = iio.imread(base64.b64decode(bundle["image/png"]), extension=".png")
    alt = metadata["image/png"]["alt"]
    assert picture.shape[0] > 100 and "Class big $ daisy, guidance scale 2" in alt and "read as" in alt
    assert capfd.readouterr() == ("", ""), "nothing is printed"


# ---- the schedules ----


@pytest.fixture
def image():
    torch.manual_seed(1)
    return torch.rand(3, 8, 12) * 2 - 1


def test_same_noise_under_each_schedule(image):
    panel = done(ScheduleExplorer(image, t=420, seed=3))
    eps, t = SampleNoise([(3, 0)])(image[None]), torch.tensor([420])
    assert list(panel.shown) == ["linear", "cosine", "sigmoid"]
    for name, found in panel.shown.items():
        schedule = NoiseSchedule.by_name(name)
        torch.testing.assert_close(found.x_t, q_sample(schedule, image[None], t, eps))
        abar = float(schedule.alphas_cumprod[420])
        assert found.log_snr == pytest.approx(math.log(abar / (1 - abar))) and found.share == pytest.approx(
            abar
        )
        assert f"ᾱ = {abar:.3g}, log-SNR = " in panel.words[name].value
        assert f"under the {name} schedule at t = 420" in panel.pictures[name].value


def test_averaging_blocks_of_the_noisy_image(image):
    panel = done(ScheduleExplorer(image, t=700))
    whole = {name: found for name, found in panel.shown.items()}
    panel.shrink.value = 2
    done(panel)
    for name, found in panel.shown.items():
        mean = whole[name].x_t.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-1, -2))
        torch.testing.assert_close(found.x_t, mean, msg="the x_t of the means is the mean of x_t")
        assert found.log_snr + found.gain == pytest.approx(whole[name].log_snr + math.log(4))
        odds = found.share / (1 - found.share), whole[name].share / (1 - whole[name].share)
        assert odds[0] == pytest.approx(4 * odds[1])
        assert "+ 1.39 = " in found.line
    assert "1/4 of its variance" in text_of(panel)


def test_averaging_divides_the_noise_as_it_says():
    panel = done(ScheduleExplorer(torch.zeros(1, 64, 64), t=600))
    before = float(panel.shown["cosine"].x_t.var())
    panel.shrink.value = 4
    assert before / float(done(panel).shown["cosine"].x_t.var()) == pytest.approx(16, rel=0.15)


def test_pictures_keep_their_size_on_the_screen(image):
    panel = done(ScheduleExplorer(image))
    sizes = set()
    for shrink in (1, 2, 4):
        panel.shrink.value = shrink
        sizes |= set(re.findall(r'width="(\d+)" height="(\d+)"', done(panel).pictures["linear"].value))
    assert sizes == {("168", "112")}


def test_hundred_moves_end_with_the_last(image):
    panel = done(ScheduleExplorer(image))
    for t in range(0, 1000, 10):
        panel.t.value = t
    assert text_of(done(panel)).startswith("t = 990 of 1000")
    assert "t = 990" in panel.pictures["cosine"].value and "at t = 990" in panel.curves.value


def test_a_move_takes_less_than_50_ms():
    panel = done(ScheduleExplorer(torch.zeros(3, 32, 32)))
    assert panel.t.continuous_update and panel.shrink.continuous_update
    took = []
    for t in range(5, 1000, 50):
        begun = time.thread_time()  # this thread's own work, however busy the machine is
        panel._show(panel._mix({"t": t, "shrink": 2}))
        took.append(time.thread_time() - begun)
    assert sorted(took)[len(took) // 2] < 0.05


def test_controls_of_the_schedules_and_what_is_refused(image):
    panel = done(ScheduleExplorer(image, ["cosine"], 50, t=49, shrink=None))
    assert panel.t.max == 49 and panel.shrink not in panel.children
    for control in (panel.t, panel.shrink):
        assert control.description and control.tooltip
    odd = done(ScheduleExplorer(image[:, :7]))
    assert odd.shrink not in odd.children, "7 rows are no whole blocks"
    for wrong, words in (
        ((image[0],), r"Give one image .* got shape \[8, 12\]"),
        ((torch.zeros(2, 3, 8, 8),), r"Give one image .* got shape \[2, 3, 8, 8\]"),
        ((image * 255,), r"must lie in \[-1, 1\], got values from"),
        ((image, ["square"]), "Unknown schedule 'square': choose one of linear"),
        ((image, []), "At least one schedule"),
    ):
        with pytest.raises(ValueError, match=words):
            ScheduleExplorer(*wrong)
    with pytest.raises(ValueError, match="between 0 and 999, got 1000"):
        ScheduleExplorer(image, t=1000)
    with pytest.raises(ValueError, match="blocks of 1, 2, 4 pixels a side, not 3"):
        ScheduleExplorer(image, shrink=3)


def test_own_schedules_by_name_even_with_another_T(image):
    own = {"mine <b>": NoiseSchedule(torch.linspace(1e-3, 0.2, 100)), "cosine": NoiseSchedule.cosine(1000)}
    panel = done(ScheduleExplorer(image, own, t=999))
    assert panel.shown["mine <b>"].abar == float(own["mine <b>"].alphas_cumprod[-1])
    assert place(own["mine <b>"], 0, 1000) == 0 and place(own["cosine"], 37, 1000) == 37
    assert "<b>" not in panel.curves.value and "mine &lt;b&gt;" in panel.curves.value


def test_curves_are_drawn_once_and_the_marker_moves():
    schedules = {name: NoiseSchedule.by_name(name) for name in ("linear", "cosine")}
    first, last = (curves_svg(schedules, t, 1000) for t in (0, 999))
    assert first.count("<polyline") == 2 and 'role="img"' in first and figures.BLUE in first
    assert "log-SNR against t/T; at t = 0: linear 9.21" in first
    lines = [re.findall("<polyline[^>]*>", svg) for svg in (first, last)]
    assert lines[0] == lines[1]
    x = [float(re.search(r'<circle cx="([\d.]+)"', svg)[1]) for svg in (first, last)]
    assert x[0] == 0 and x[1] > 400
    assert curves_svg(schedules, 500, 1000, 2).count("<polyline") == 4, "as they were, and shifted"


def test_still_of_the_schedules(image):
    panel = done(ScheduleExplorer(image, shrink=2))
    content, alt = panel.still()
    assert content.startswith(b"\x89PNG") and "cosine: signal" in alt and "t = 400 of 1000" in alt


@pytest.mark.parametrize(("abar", "shown"), [(0.5, "50%"), (0.078, "7.8%"), (0.9987, "99.9%"), (4e-5, "0%")])
def test_percentages_say_enough(abar, shown):
    assert Mixture(None, abar, 1).line.startswith(f"signal {shown} of the variance: ᾱ = {abar:.3g}")
