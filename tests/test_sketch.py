"""Draw a digit, without a browser: strokes, the pause, what is on the pad, uploads, the row, GIF, still."""

import datetime
import io
import itertools
import re
import struct
import time
import zlib

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from panel_tools import done, text_of
from PIL import Image, ImageDraw

from classroom.panels import DrawnCounterfactuals, sketch
from classroom.panels.digits import read
from classroom.panels.pad import DrawingPad, Marks
from lessons_lib import data, pictures
from lessons_lib.pipeline import CounterfactualRequest, counterfactual_images
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig

pytestmark = pytest.mark.usefixtures("one_thread")

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ONE = [[(140, 50), (140, 230)]]
SEVEN = [[(80, 60), (200, 60), (130, 230)]]
THREE = [
    [(85, 75), (110, 52), (150, 48), (180, 65), (188, 92), (172, 120), (140, 134), (122, 138), (150, 140),
     (182, 156), (196, 186), (182, 218), (146, 236), (108, 230), (80, 208)]
]  # fmt: skip


def draw(pad, strokes):
    """As a hand does it: between two points the mouse says where it is."""
    for points in strokes:
        pad.begin(*points[0])
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            for part in (0.25, 0.5, 0.75, 1.0):
                pad.move(x0 + part * (x1 - x0), y0 + part * (y1 - y0))
        pad.end()


def blank(panel):
    """The panel with nothing on its pad."""
    panel.pad.clear_all()
    return done(panel)


@pytest.fixture(scope="module")
def model():
    """Tiny random weights for digits of 28×28 pixels."""
    torch.manual_seed(0)
    network = UNet(
        UNetConfig(28, 1, 32, channel_mults=(1,), blocks_per_level=1, attention_levels=(), num_classes=10)
    )
    for parameter in network.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval(), NoiseSchedule.linear(50)


@pytest.fixture
def make(model):
    def make(**options):
        panel = DrawnCounterfactuals(**{"model": model, "steps": 2} | options)
        panel.pause = 0.0
        return done(panel)

    return make


# -- the pad ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strokes", "label"), [(ONE, 1), (SEVEN, 7), (THREE, 3)])
def test_strokes_become_a_digit_that_is_read(strokes, label):
    pad = DrawingPad(lambda: None)
    draw(pad, strokes)
    digit = pad.marks().digit()
    assert digit.shape == (1, 1, 28, 28) and digit.min() == -1 and digit.max() == 1
    assert read(digit)[0].label == label


def test_strokes_as_pixels():
    pixels = Marks(None, (((40.0, 140.0), (240.0, 140.0)),)).pixels()
    assert pixels.shape == (280, 280) and pixels.dtype == np.uint8
    assert 19 <= (pixels[:, 140] > 0).sum() <= 21 and pixels[140, 31] == 255 and pixels[140, 28] == 0
    assert pixels[132, 31] == 0, "the ends are round"


def test_a_stroke_over_the_edge_is_still_ink():
    digit = Marks(None, (((0.0, 20.0), (280.0, 20.0), (280.0, 280.0)),)).digit()
    assert (digit > 0).float().mean() < 0.3, "the edge is not taken for the background"
    assert Marks(None, (((-50.0, -50.0),),)).digit() is None


def test_a_point_is_a_stroke():
    pad = DrawingPad(lambda: None)
    draw(pad, [[(100, 100)]])
    assert (pad.marks().digit() > 0).any()


def test_every_end_is_told_and_a_move_without_a_stroke_is_nothing():
    told = []
    pad = DrawingPad(lambda: told.append(len(pad.strokes)))
    pad.move(10, 10)
    pad.end()
    assert pad.strokes == [] and told == []
    draw(pad, [*ONE, *SEVEN])
    assert told == [1, 2] and pad.strokes[0][0] == (140, 50)
    pad.undo()
    assert told == [1, 2, 1] and len(pad.strokes) == 1
    pad.clear_all()
    pad.undo()
    assert told[3:] == [0, 0]


def event(pad, **content):
    pad._handle_frontend_event(pad, content, [])


def test_what_the_mouse_says():
    pad = DrawingPad(lambda: None)
    event(pad, event="client_ready")
    event(pad, event="mouse_move", x=1, y=1)
    event(pad, event="mouse_down", x=10, y=20)
    event(pad, event="mouse_move", x=30, y=40)
    assert pad.drawing
    event(pad, event="mouse_out", x=300, y=40)
    event(pad, event="mouse_move", x=31, y=41)
    event(pad, event="mouse_up", x=31, y=41)
    assert pad.strokes == [[(10, 20), (30, 40)]] and not pad.drawing


def test_what_a_finger_says():
    pad = DrawingPad(lambda: None)
    here, there = {"x": 10, "y": 20}, {"x": 30, "y": 40}
    event(pad, event="touch_start", touches=[here])
    event(pad, event="touch_start", touches=[here, there])
    event(pad, event="touch_move", touches=[there, here])
    event(pad, event="touch_end", touches=[there])
    assert pad.drawing, "one of two fingers is still there"
    event(pad, event="touch_end", touches=[])
    assert pad.strokes == [[(10, 20), (30, 40)]] and not pad.drawing
    event(pad, event="touch_start", touches=[here])
    event(pad, event="touch_cancel", touches=[])
    assert len(pad.strokes) == 2 and not pad.drawing


def test_a_stroke_whose_end_was_lost_is_not_waited_for(monkeypatch):
    pad = DrawingPad(lambda: None)
    pad.begin(10, 10)
    monkeypatch.setattr("classroom.panels.pad.FORGOTTEN", 0.0)
    assert not pad.drawing


def test_keys_on_the_pad():
    pad, left = DrawingPad(lambda: None), []
    pad.blur = lambda: left.append(True)
    draw(pad, [*ONE, *SEVEN])
    press = {"event": "key_down", "shift_key": False, "ctrl_key": False, "meta_key": False}
    event(pad, **press | {"key": "z", "ctrl_key": True})
    event(pad, **press | {"key": "z"})
    assert len(pad.strokes) == 1
    event(pad, **press | {"key": "Backspace"})
    assert pad.strokes == [] and left == []
    event(pad, **press | {"key": "Tab"})
    assert left, "or the Tab key would stay on the pad for ever"


# -- the row ---------------------------------------------------------------------------------------


def test_first_state_is_an_example_with_its_row(make, model):
    panel = make()
    row = panel.row
    assert row.source == 7 and torch.equal(row.digit, pictures.sharpened(data.running_example()))
    request = CounterfactualRequest((7,), tuple(range(10)), guidance_scale=4.0, steps=2)
    assert panel.request(7, panel.settings()) == request and row.drawing.images.shape == (10, 1, 28, 28)
    assert panel.cells.value.count("<img") == 20 and "as it is" in panel.cells.value
    right = sum(row.drawing.readings[k].label == k for k in range(10) if k != 7)
    expected = rf"Read as 7 \(\d+%\)\. {right} of 9 other digits read as asked, mean L1 0\.\d\d\. \d+\.\d s\."
    assert re.fullmatch(expected, text_of(panel)), text_of(panel)
    assert "Read as 7" in panel.reading.value and "network sees it" in panel.image.value


def test_the_row_is_what_the_library_draws():
    panel = DrawnCounterfactuals(steps=4, depth=749, guidance_scale=2.0)
    row = done(panel).row
    request = CounterfactualRequest((7,), tuple(range(10)), guidance_scale=2.0, steps=4, depth=749)
    assert torch.equal(row.drawing.images, counterfactual_images(request, row.digit))
    states = row.drawing.states
    assert len(states) == 4 and row.drawing.timesteps == [749, 499, 249]
    assert all(torch.equal(states[0][0], state) for state in states[0]), "one abduction for all"


def test_shipped_weights_turn_a_drawing_into_every_digit():
    panel = DrawnCounterfactuals(example=False, steps=10)
    draw(panel.pad, THREE)
    row = done(panel).row
    assert row.source == 3 and text_of(panel).startswith("Read as 3 (")
    assert sum(read.label == k for k, read in enumerate(row.drawing.readings)) >= 9
    assert (row.drawing.images[3] - row.digit[0]).abs().mean() / 2 < 0.06, "its own label changes little"


def test_a_stroke_draws_a_new_row(make):
    panel = blank(make())
    assert panel.row is None
    draw(panel.pad, ONE)
    assert done(panel).row.source == 1 and len(panel.strokes) == 1
    assert torch.equal(panel.row.digit, panel.pad.marks().digit())


def test_drawn_as_and_scale_and_depth(make):
    panel = make()
    before = panel.row
    panel.drawn_as.value = "1"
    after = done(panel).row
    assert after.source == 1 and "(98%), drawn as 1." in re.sub(r"\d+%", "98%", text_of(panel))
    panel.guidance_scale.value = 0.5
    panel.depth.value = panel.depth.options[0]
    last = done(panel).row
    assert last.settings == {"drawn_as": 1, "guidance_scale": 0.5, "depth": panel.depth.options[0]}
    assert len(last.drawing.timesteps) < len(before.drawing.timesteps) == panel.steps
    assert panel.scrubber.max == len(last.drawing.timesteps) == panel.scrubber.value


def test_nothing_on_the_pad_is_a_sentence(make):
    panel = make(example=False)
    assert text_of(panel) == sketch.EMPTY == "Draw a digit with the mouse or a finger."
    assert 'role="status"' in panel.status.value and panel.row is None and panel.still() is None
    panel.save.click()
    assert text_of(done(panel)).startswith("There is nothing to save yet.")
    panel.scrubber.value = 0
    panel.example.click()
    assert done(panel).row is not None
    panel.clear.click()
    assert text_of(done(panel)) == sketch.EMPTY and panel.reading.value == ""


def test_undo(make):
    panel = make()
    draw(panel.pad, ONE)
    assert not torch.equal(done(panel).row.digit, panel.pad.picture)
    panel.undo.click()
    assert torch.equal(done(panel).row.digit, panel.pad.picture)
    panel.undo.click()
    assert text_of(done(panel)) == sketch.EMPTY


def test_example_puts_another_digit_there(make):
    panel, seen = make(), set()
    draw(panel.pad, ONE)
    for _ in range(4):
        panel.example.click()
        assert panel.strokes == []
        seen.add(done(panel).row.digit.sum().item())
    assert len(seen) > 1


def test_a_scribble_is_told_what_it_is_read_as(make):
    panel = blank(make())
    draw(panel.pad, [[(20, 20), (260, 260)], [(20, 260), (260, 20)], [(140, 10), (140, 270)]])
    assert re.match(r"Read as \d \(\d+%\)\. ", text_of(done(panel))) and panel.row is not None


# -- the pause, and what wins ----------------------------------------------------------------------


def test_the_digit_is_shown_at_once_and_the_row_after_the_pause(make):
    panel = blank(make())
    panel.pause = 30.0
    draw(panel.pad, SEVEN)
    deadline = time.monotonic() + 20
    while "Read as 7" not in panel.reading.value and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "Read as 7" in panel.reading.value and panel.row is None
    assert panel.progress.layout.visibility == "visible" and not panel.wait(0.3)
    panel.pause = 0.0
    draw(panel.pad, [[(90, 150), (190, 150)]])
    assert len(done(panel).pad.strokes) == 2 and panel.row is not None, "the newer stroke ends the pause"
    assert panel.progress.layout.visibility == "hidden"


def test_no_row_while_the_hand_is_drawing(make):
    panel = blank(make())
    draw(panel.pad, ONE)
    panel.pad.begin(100, 100)
    assert not panel.wait(0.3) or panel.row is not None
    panel.pad.end()
    assert torch.equal(done(panel).row.digit, panel.pad.marks().digit())


def test_twenty_quick_strokes_end_with_all_of_them(make):
    panel = blank(make())
    for k in range(20):
        draw(panel.pad, [[(30 + 10 * k, 40), (30 + 10 * k, 240)]])
        time.sleep(0.005)
    assert len(panel.strokes) == 20
    assert torch.equal(done(panel).row.digit, panel.pad.marks().digit())


# -- uploads ---------------------------------------------------------------------------------------


def file_of(size=(600, 800), kind="PNG"):
    image = Image.new("RGB", size, "white")
    w, h = size
    ImageDraw.Draw(image).line(
        [(w // 4, h // 5), (3 * w // 4, h // 5), (w // 2, 4 * h // 5)], "navy", width=w // 12
    )
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def upload(panel, content, name):
    """What the browser sends."""
    panel.upload.value = [
        {"name": name, "type": "", "size": len(content), "content": memoryview(content), "last_modified": NOW}
    ]
    return done(panel)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_is_put_on_the_pad(make, kind):
    panel, content = make(), file_of(kind=kind)
    draw(panel.pad, ONE)
    upload(panel, content, "mine")
    assert panel.strokes == [] and panel.row.source == 7 and panel.upload.value == ()
    assert torch.equal(panel.row.digit, pictures.digit_from_bytes(content))
    draw(panel.pad, [[(90, 150), (190, 150)]])
    assert not torch.equal(done(panel).row.digit, panel.pad.picture), "one may draw on it"


def huge():
    """The first bytes of a PNG of 10,000 × 10,000 pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no picture", "a&b.txt is no picture of a known kind: use PNG, JPEG"),
        (b"", "a&b.txt is no picture of a known kind"),
        (file_of()[:300], "The picture a&b.txt is damaged or cut short."),
        (huge(), "The picture is too large: at most 4,096 pixels on a side are allowed"),
        (iio.imwrite("<bytes>", np.full((9, 9, 3), 200, np.uint8), extension=".png"),
         "The picture is empty"),
    ],
    ids=["text", "nothing", "half", "huge", "one colour"],
)  # fmt: skip
def test_a_bad_picture_is_a_sentence_and_the_pad_stays(make, content, said):
    panel = make()
    before = panel.row
    upload(panel, content, "a&b.txt")
    assert text_of(panel).replace("&amp;", "&").startswith(said) and 'role="alert"' in panel.status.value
    assert panel.row is before and panel.pad.picture is not None


def test_bytes_as_a_file(tmp_path):
    content = file_of()
    (tmp_path / "d.png").write_bytes(content)
    assert torch.equal(pictures.digit_from_bytes(content), pictures.load_digit(tmp_path / "d.png"))
    with pytest.raises(data.DataError, match=r"^The file is no picture of a known kind"):
        pictures.digit_from_bytes(b"")


# -- errors ----------------------------------------------------------------------------------------


def test_without_an_evaluator_one_says_what_it_is(make, tmp_path):
    panel = make(evaluator=tmp_path / "none.safetensors")
    assert text_of(panel) == sketch.NO_EVALUATOR and panel.row is None
    panel.drawn_as.value = "7"
    assert done(panel).row.source == 7 and panel.row.drawing.readings == ()
    assert re.match("There is no evaluator to read it, drawn as 7. Mean L1 0.", text_of(panel))
    panel.scrubber.value = 1
    assert "→" not in panel.cells.value and "read as" not in panel.still()[1]


def test_errors_are_sentences(make, tmp_path):
    panel = done(DrawnCounterfactuals(tmp_path / "none.safetensors"))
    assert text_of(panel).startswith("There are no weights") and 'role="alert"' in panel.status.value
    assert "Unknown method" in text_of(make(method="guess"))
    panel = make(method="same-noise")
    assert panel.row is not None, "the top of the slider is no depth"


def test_wrong_images_are_refused():
    network = UNet(UNetConfig(8, 3, 32, channel_mults=(1,), attention_levels=(), num_classes=10))
    panel = done(DrawnCounterfactuals(model=(network, NoiseSchedule.linear(50)), steps=2))
    assert text_of(panel) == "The images must have shape [1, 3, 8, 8], got [1, 1, 28, 28]."


# -- replay, GIF, still ----------------------------------------------------------------------------


def test_replay(make):
    panel = make(steps=5)
    finished, seen = panel.cells.value, set()
    assert panel.scrubber.value == panel.scrubber.max == 5 and "finished images" in panel.moment.value
    for view in ("estimate", "state"):
        panel.view.value = view
        for k in range(5):
            panel.scrubber.value = k
            seen.add(panel.cells.value)
            assert "→ " in panel.cells.value and f"step {k + 1} of 5" in panel.moment.value
    assert len(seen) == 10 and finished not in seen
    panel.scrubber.value = 5
    assert panel.cells.value == finished


def test_save_gif(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = make()
    for name in ("drawn-7-w4.0-t49.gif", "drawn-7-w4.0-t49-2.gif"):
        panel.save.click()
        done(panel)
        frames = iio.imread(tmp_path / name, index=None)
        assert len(frames) > 1 and frames.shape[1] == 56 and f"Saved as <b>{name}</b>" in panel.saved.value
    assert "<img" in panel.gif.value and panel.gif.layout.display == "block"


def test_still(make):
    picture, alt = make().still()
    height, width, _ = iio.imread(picture, extension=".png").shape[:3]
    assert width > 600 and 100 < height < width
    assert alt.startswith("A drawn 7 and what it would look like as 0 to 9, guidance scale 4; read as ")
    bundle, metadata = make()._repr_mimebundle_()
    assert bundle["text/plain"] == metadata["image/png"]["alt"] == alt


def test_every_control_has_a_description(make):
    panel = make()
    for each in (panel.drawn_as, panel.guidance_scale, panel.depth, panel.scrubber, panel.clear, panel.undo,
                 panel.example, panel.upload, panel.save):  # fmt: skip
        assert each.description and each.tooltip
    assert panel.guidance_scale.continuous_update is False and panel.view.description
