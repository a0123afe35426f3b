"""What is injected into files, and what people do to a run: nothing lost, nothing silently wrong.

`FAULTS_SEED=7 pytest -s -m slow tests/test_faults.py` injects others than by default, and prints the table.
"""

import dataclasses
import errno
import gzip
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import struct
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from command_tools import Images, good, refused, save, tiny_reader, tiny_unet
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_training import LOSS, SCHEDULE, build, config, run, same, trained

from classroom.checks import store
from lessons_lib import data, evaluation, recipes, weights
from lessons_lib.cli import app
from lessons_lib.data import image_set, mnist
from lessons_lib.evaluation import quality
from lessons_lib.evaluation.task import read_rows
from lessons_lib.files import Locked, lock
from lessons_lib.pipeline import GenerationRequest, generate_images, generate_with
from lessons_lib.training import CHECKPOINT, StepDone, Stopped, TrainingError, train
from lessons_lib.weights import WeightsError, load_pretrained, read_card, save_pretrained

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"channel_mults": (1,), "num_classes": 3}


# -- each kind, with its example and its siblings -------------------------------------------------------
def test_a_finished_run_is_left_alone(tmp_path, monkeypatch):
    recipe = dataclasses.replace(
        recipes.RECIPES["mnist", "denoiser"],
        network=build(dropout=0.0).config,
        defaults={"steps": 2, "sampler": "ddim"},
    )
    settings = config(epochs=1, output_dir=tmp_path)
    options = recipes.DiffusionOptions(timesteps=50, sample_every=0)
    x, y = (torch.rand(24, 1, 8, 8) * 255).to(torch.uint8), torch.arange(24) % 3

    def go(resume, images=x, augment=None):
        sets = dict.fromkeys(data.SPLITS, data.ImageSet(images, y, ("a", "b", "c"), "folder"))
        own = dataclasses.replace(recipe, augment=augment)
        return list(recipes.run_recipe(own, lambda: sets, settings, options, resume=resume))[-1]

    path = go(False).path
    weights.write_card(path, read_card(path) | {"metrics": {"fid": 1}, "notes": "mine"})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert not go(True).is_new
    for changed, words in (
        ({"images": 255 - x}, "images_sha256"),
        ({"augment": recipes.random_flip}, "augment"),
    ):
        with pytest.raises(TrainingError, match=words):
            go(True, **changed)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    content = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    for name in ("images_sha256", "augment"):  # as older checkpoints are
        del content["state"]["settings"][name]
    torch.save(content, tmp_path / CHECKPOINT)
    path.unlink()  # killed between the two
    assert go(True).is_new and load_pretrained(path)


def test_numbers_that_are_not_finite_stop_a_training_after_its_last_step(tmp_path):
    def loss(model, *given):
        found = LOSS(model, *given)
        model.unused.data.fill_(torch.inf)
        return found

    with pytest.raises(ValueError, match="lr must be above 0 and at most 1e30"):
        run(lr=float("inf"))
    with pytest.raises(TrainingError, match=r"weights are not finite at step 1: .*last good checkpoint"):
        model = build()
        model.unused = torch.nn.Parameter(torch.zeros(1))
        run(model, loss, epochs=1, batch_size=24, output_dir=tmp_path)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]["step"] == 0


def test_numbers_that_are_not_finite_are_neither_saved_nor_drawn_nor_measured(tmp_path):
    network = tiny_unet(**SMALL)
    next(network.parameters()).data[0] = 1e5  # infinite in half precision
    with pytest.raises(WeightsError, match=r"not finite \(in \w+"):
        save_pretrained(tmp_path / "a.safetensors", network, None, {})
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="must be below 1e30"):
        GenerationRequest((1,), guidance_scale=1e39)
    next(network.parameters()).data[0] = torch.nan
    with pytest.raises(ValueError, match="no finite numbers any more at t = 49"):
        list(generate_with(network, SCHEDULE, GenerationRequest((1,))))
    with pytest.raises(ValueError, match="is not finite"):
        quality.predictions(tiny_reader(False), torch.full((2, 1, 8, 8), torch.nan))


def test_one_writer_at_a_time(tmp_path):
    events = train(build(), LOSS, Images(), config(output_dir=tmp_path))
    next(events)
    for resume in (False, True):
        with pytest.raises(Locked, match="is being written by another process"):
            run(output_dir=tmp_path, resume=resume)
    assert isinstance(list(events)[-1], Stopped) and sorted(os.listdir(tmp_path)) == [
        CHECKPOINT,
        "losses.json",
    ]
    with lock(tmp_path / "table.csv"), pytest.raises(Locked), lock(tmp_path / "table.csv", 0.05):
        pass
    assert not list(tmp_path.glob(".*lock"))


@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM), signal.SIGINT])
def test_every_signal_to_end_is_heard(tmp_path, number):
    def loss(*given):
        os.kill(os.getpid(), number)
        return LOSS(*given)

    reason = "interrupted" if number == signal.SIGINT else "terminated"
    assert run(loss_fn=loss, output_dir=tmp_path)[-1].reason == reason
    assert same(trained(), trained(output_dir=tmp_path, resume=True))


def test_a_command_that_is_terminated_says_so(run, here, tiny, monkeypatch):
    monkeypatch.setattr("lessons_lib.cli.common.generate", lambda part: os.kill(os.getpid(), signal.SIGTERM))
    assert run(f"sample mnist --weights {tiny}/denoiser.safetensors --out x.png")[0] == 143


class Broken(io.StringIO):
    """A stdout that fails as a closed pipe, a full disk, or a console without the letters."""

    encoding = "cp1252"

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        if isinstance(self.error, OSError):
            raise self.error
        text.encode(self.encoding)
        return super().write(text)


STREAMS = {
    "closed pipe": (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0),
    "closed terminal": (OSError(errno.EIO, "Input/output error"), 0),
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), 1),
    "cp1252": (None, 0),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_printing_never_ends_the_work(here, tiny, monkeypatch, kind):
    error, status = STREAMS[kind]
    monkeypatch.setattr(sys, "stdout", out := Broken(error))
    words = f"sample mnist --weights {tiny}/denoiser.safetensors --labels 1 --steps 1 --out"
    assert app.main([*words.split(), "字.png"]) == status and Path("字.png").exists()
    assert error or "\\u5b57.png" in out.getvalue()


def test_what_is_not_read_of_a_folder_is_named(here, capsys):
    for k in range(12):
        (here / "pets" / "deep").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (k, 9, 9)).save(here / "pets" / f"{k}.jfif", "JPEG")
    (here / "pets" / "x.heic").write_bytes(b"x")
    (here / "pets" / "deep" / "y.png").write_bytes(b"x")
    if hasattr(os, "mkfifo"):
        os.mkfifo(here / "pets" / "pipe.png")
        with pytest.raises(image_set.UnreadableError, match="no ordinary file"):
            image_set.decode(here / "pets" / "pipe.png", 8, 1)
    (here / "pets" / "deep" / "y.png").rename(here / "pets" / "z.png2")
    (here / "pets" / "deep").rmdir()
    assert len(data.load("folder:pets")) < 12
    assert "files: " in (err := capsys.readouterr().err) and "x.heic" in err and "z.png2" in err
    with pytest.raises(data.DataError, match="are not read, the first"):
        data.load("folder:pets", strict=True)


def test_folders_as_people_lay_them_out(here):
    for k in range(24):
        path = here / "both" / ("Train" if k % 3 else "Testing") / f"{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), k).save(path)
    assert len(data.load("folder:both", "test")) == 8
    assert data.load("folder:both").class_names == ("0", "1")
    shutil.copytree(here / "both/Train", here / "alone/train")
    assert data.load("folder:alone").class_names == ("0", "1")
    shutil.copytree(here / "both/Train", here / "none/test")
    with pytest.raises(data.DataError, match="holds test but no train"):
        data.load("folder:none")


def idx(shape, content):
    return struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape) + content


@pytest.fixture
def small_mnist(here, monkeypatch):
    """A tiny data set whose checksums are the known ones; write(folder) puts it there."""
    shapes = {name: ((20, 28, 28) if "images" in name else (20,)) for name in mnist.SHAPES}
    files = {
        name: idx(shape, bytes(k % 10 for k in range(int(np.prod(shape))))) for name, shape in shapes.items()
    }
    monkeypatch.setattr(mnist, "SHAPES", shapes)
    monkeypatch.setattr(mnist, "CHECKSUMS", {n: hashlib.sha256(c).hexdigest() for n, c in files.items()})
    monkeypatch.setattr(mnist, "_read_idx", mnist._read_idx.__wrapped__)

    def write(folder, change=lambda name, content: (name, content)):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            new, content = change(name, content)
            Path(folder, new).write_bytes(content)

    return write


def test_what_is_plainly_mnist_is_read_and_a_named_place_without_it_is_refused(
    here, small_mnist, monkeypatch
):
    layouts = {
        "MNIST/raw": None,
        ".": lambda n, c: (n + ".gz", gzip.compress(c)),
        "raw": lambda n, c: (n.replace("-idx", ".idx"), c),
    }
    for k, (folder, change) in enumerate(layouts.items()):
        small_mnist(here / f"{k}" / folder, *filter(None, [change]))
        monkeypatch.setattr(data, "_data_roots", lambda k=k: [here / f"{k}"])
        assert data.load("mnist").source == "mnist" and len(data.load("mnist", "test")) == 10
    (here / "x").mkdir()
    (here / "x" / "other.txt").touch()
    monkeypatch.setattr(data, "_data_roots", lambda: [here / "x"])
    monkeypatch.setenv("LESSONS_DATA", str(here / "x"))
    with pytest.raises(data.DataError, match=r"has no MNIST \(it holds other.txt\)"):
        data.load("mnist")
    monkeypatch.setenv("LESSONS_DATA", os.devnull)
    assert data.load("mnist").source == "digits"


def test_pictures_with_odd_metadata(tmp_path):
    long = PngInfo()
    long.add_text("comment", "x" * 3_000_000, zip=True)
    Image.new("L", (16, 16), 80).save(tmp_path / "a.png", pnginfo=long)
    Image.new("L", (16, 16), 80).save(tmp_path / "b.png", exif=b"Exif\0\0MM\0*junk")
    for name in ("a.png", "b.png"):
        assert (image_set.decode(tmp_path / name, 8, 1) == 80).all()
    Image.fromarray(np.full((16, 16), 4095, np.uint16)).save(tmp_path / "c.png")
    assert (image_set.decode(tmp_path / "c.png", 8, 1) == 255).all(), "twelve bits"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (218, 178)).save(tmp_path / "d.jpg", exif=exif)
    assert data.read_face(tmp_path / "d.jpg").shape == (3, 64, 64)


def test_small_carelessness(run, here, tiny, monkeypatch):
    words = f"sample mnist --weights {tiny}/denoiser.safetensors --steps 1 --labels 1"
    good(run(f"{words} --out=~/x.png --individual pictures --num-per-label 2")) if monkeypatch.setenv(
        "HOME", str(here)
    ) is None else 0
    assert Path("x.png").exists() and not Path("~").exists()
    refused(run(f"{words} --out y.png --individual pictures"), "holds other pictures: name an empty folder.")
    refused(run(f"{words} --out y.png --num-per-label 1000000000"), "GB of memory, and")
    refused(run(f"{words} --out y.gif --num-per-label 2000"), "at most 65,535 pixels a side")
    refused(run(f"{words} --out {'y' * 300}.png"), "File name too long")
    refused(
        run(f"evaluate mnist --weights cifar10-denoiser --evaluator-weights {tiny}/judge.safetensors"),
        "pixels a side but",
    )
    for wrong in ({"steps": 2.5}, {"interval": (1, 2, 3)}, {"seed": "a"}, {"eta": -1}, {"weights": 5}):
        with pytest.raises(ValueError, match=r"must be|are a name"):
            GenerationRequest((1,), **wrong)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "two")
    refused(run("sample mnist --out y.png"), "WORLD_SIZE must be a whole number")


def test_drawn_pictures_are_kept_where_the_file_fails(run, here, tiny, monkeypatch):
    monkeypatch.setattr("lessons_lib.cli.common.save_gif", lambda *_: 1 / 0)
    words = f"sample mnist --weights {tiny}/denoiser.safetensors --steps 1 --labels 1,2 --out x.gif"
    refused(run(words), "the images are in x-kept.npz.")
    assert np.load("x-kept.npz")["images"].shape == (2, 1, 28, 28)


# -- faults that are injected ---------------------------------------------------------------------------
class Silent(Exception):
    """A wrong result without a word."""


class Lost(Exception):
    """What was reported saved is gone."""


FAULTS = []  # (name, how many, function of the bench, random numbers and an empty folder -> what happened)
ODD = (None, True, -1, 0, 1.5, 10**40, float("nan"), "", "ten", [], [1], {}, {"a": 1}, "\0", ["ddim"])


def fault(name, count=10):
    return lambda function: FAULTS.append((name, count, function))


def flipped(raw, dice):
    place = dice.randrange(len(raw))
    return raw[:place] + bytes([raw[place] ^ 1 << dice.randrange(8)]) + raw[place + 1 :]


def cut(raw, dice):
    return raw[: dice.randrange(len(raw))]


def expect(holds, otherwise=Silent):
    if not holds:
        raise otherwise
    return "survived"


class Bench:
    """What the faults are injected into; made once."""

    def __init__(self, root, small_mnist):
        (root / "good").mkdir()
        self.root, self.weights = root, root / "good" / "net.safetensors"
        self.state = load_pretrained(save(self.weights, tiny_unet(**SMALL), SCHEDULE, steps=2))[
            0
        ].state_dict()
        reader = tiny_reader(False)
        features, labels = evaluation.features(reader, Images(48).x), torch.arange(48) % 3
        reference = evaluation.Reference.of(features, labels, 3, extractor="a", source="mnist")
        reference.save(root / "good" / "net-reference.npz")
        run(output_dir=root / "run", stop_after=3, checkpoint_every=1)
        self.trained = trained()
        small_mnist(root / "mnist")
        small_mnist(root / "gz", lambda n, c: (n + ".gz", gzip.compress(c)))
        for k in range(24):
            (root / "pets").mkdir(exist_ok=True)
            Image.new("L", (16, 16), 9 * k).save(root / "pets" / f"{k}.png")
        self.pets, self.digits = (
            data.load(f"folder:{root / 'pets'}").images[:],
            mnist.read(root / "mnist", "train"),
        )

    def pair(self, folder, suffix, change, dice):
        """A copy of the weights with one file changed."""
        shutil.copytree(self.root / "good", folder, dirs_exist_ok=True)
        path = folder / f"net{suffix}"
        path.write_bytes(change(path.read_bytes(), dice))
        return folder / "net.safetensors"

    def loads(self, path):
        model = load_pretrained(path)[0]
        plan = GenerationRequest((1,), weights=path).plan()
        return expect(
            same(model.state_dict(), self.state) and torch.equal(plan.schedule.betas, SCHEDULE.betas)
        )


for suffix, kind in ((".safetensors", "weights"), (".json", "card")):
    for change in (flipped, cut):
        fault(f"{kind}, {change.__name__}", 15)(
            lambda bench, dice, folder, s=suffix, c=change: bench.loads(bench.pair(folder, s, c, dice))
        )


@fault("card, edited", 40)
def _(bench, dice, folder):
    def edit(raw, dice):
        card = json.loads(raw)
        place = card
        while isinstance(place[key := dice.choice([*place])], dict) and place[key] and dice.random() < 0.7:
            place = place[key]
        place[key] = dice.choice(ODD)
        return json.dumps(card).encode()

    return bench.loads(bench.pair(folder, ".json", edit, dice))


@fault("reference, flipped", 30)
def _(bench, dice, folder, change=flipped):
    bench.pair(folder, "-reference.npz", change, dice)
    one, two = (
        evaluation.Reference.load(place / "net-reference.npz") for place in (folder, bench.root / "good")
    )
    facts = [{**vars(each), **vars(each.statistics), "statistics": 0} for each in (one, two)]
    return expect(str(facts[0]) == str(facts[1]))


fault("reference, cut")(lambda *given: FAULTS[5][2](*given, change=cut))
NUMBERS = {"mean": (np.nan, np.inf), "covariance": (np.nan, -1e9), "count": (0, 1, 7), "floor_count": (0, 99)}
NUMBERS |= {
    "floor": (0, -1, np.nan, np.inf),
    "spread": (-1, np.inf),
    "class_counts": (-5, 9),
    "extractor": (1,),
}


@fault("reference, other content", 20)
def _(bench, dice, folder):
    with np.load(bench.root / "good" / "net-reference.npz") as file:
        content = {name: file[name].copy() for name in file.files}
    name = dice.choice([*NUMBERS])
    number = dice.choice(NUMBERS[name])
    content[name] = (
        np.full_like(content[name], number) if content[name].dtype.kind in "fi" else np.array(number)
    )
    np.savez(folder / "x.npz", **content)
    evaluation.Reference.load(folder / "x.npz")
    raise Silent


def resumed(bench, folder, **more):
    return expect(same(bench.trained, trained(output_dir=folder, resume=True, **more)), Lost)


@fault("checkpoint, flipped", 25)
def _(bench, dice, folder, change=flipped):
    shutil.copytree(bench.root / "run", folder, dirs_exist_ok=True)
    raw = (folder / CHECKPOINT).read_bytes()
    (folder / CHECKPOINT).write_bytes(change(raw, dice))
    return expect(same(bench.trained, trained(output_dir=folder, resume=True)))


fault("checkpoint, cut")(lambda *given: FAULTS[8][2](*given, change=cut))


@fault("MNIST file, flipped", 15)
def _(bench, dice, folder, name="mnist", change=flipped):
    shutil.copytree(bench.root / name, folder, dirs_exist_ok=True)
    path = dice.choice([path for path in folder.iterdir() if path.name.startswith("train")])
    path.write_bytes(change(path.read_bytes(), dice))
    found = mnist.read(folder, "train")
    return expect(
        torch.equal(found.images, bench.digits.images) and torch.equal(found.labels, bench.digits.labels)
    )


fault("MNIST .gz, cut or flipped", 15)(
    lambda bench, dice, folder: FAULTS[10][2](bench, dice, folder, "gz", dice.choice((cut, flipped)))
)


@fault("decoded pictures, flipped", 15)
def _(bench, dice, folder):
    (kept,) = bench.root.rglob("pictures.npy")
    raw = kept.read_bytes()
    try:
        kept.write_bytes(flipped(raw, dice))
        return expect(torch.equal(data.load(f"folder:{bench.root / 'pets'}").images[:], bench.pets))
    finally:
        kept.write_bytes(raw)


@fault("progress.json, damaged")
def _(bench, dice, folder):
    store.put("exercises", "1", "right")
    raw = dice.choice((cut, lambda raw, _: b"<<<<<<<\n" + raw, lambda *_: b"[]"))(
        store.path().read_bytes(), dice
    )
    store.path().write_bytes(raw)
    store.put("exercises", "2", "right")
    copies = [path.read_bytes() for path in folder.glob("*.damaged*")]
    expect(raw in copies or "1" in store.section("exercises"), Lost)
    return "repaired"


@fault("progress.json, two writers")
def _(bench, dice, folder):
    def answer(who):
        for k in range(5):
            time.sleep(dice.random() / 1000)
            store.put("exercises", f"{who}.{k}", 1)

    threads = [threading.Thread(target=answer, args=(who,)) for who in range(2)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    return expect(len(store.section("exercises")) == 10, Lost)


@fault("table of a sweep, cut or twice")
def _(bench, dice, folder):
    rows = (
        [f"{k},c{k // 2},abc" for k in range(6)]
        if dice.random() < 0.5
        else [f"{k},c{k},abc" for k in range(6)]
    )
    text = "\ufeff" * dice.randrange(2) + "\n".join(["x,command,weights_sha256", *rows])
    (folder / "a.csv").write_text(text[: dice.randrange(40, len(text) + 1)], encoding="utf-8")
    found = read_rows(folder / "a.csv", ("x", "command", "weights_sha256"))
    return expect([",".join(row.values()) for row in found[:-1]] == rows[: len(found) - 1])


@fault("full disk", 15)
def _(bench, dice, folder):
    path, calls, last, write = (
        bench.pair(folder, ".json", lambda raw, _: raw, dice),
        itertools.count(),
        dice.randrange(4),
        Path.write_bytes,
    )

    def fails(path, content):
        if next(calls) == last:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", fails)
        try:
            save_pretrained(path, tiny_unet(**SMALL), SCHEDULE, {})
        finally:
            bench.loads(path)
    return "survived"


@fault("signal in a training", 15)
def _(bench, dice, folder):
    number, at = dice.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)), dice.randrange(6)
    steps = itertools.count()

    def loss(*given):
        if next(steps) == at:
            os.kill(os.getpid(), number)
        return LOSS(*given)

    expect(run(loss_fn=loss, output_dir=folder)[-1].reason in ("interrupted", "terminated"), Lost)
    return resumed(bench, folder)


@fault("closed pipe or console")
def _(bench, dice, folder):
    words = f"sample mnist --weights {bench.weights} --labels 1 --steps 2 --out {folder}/字.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", Broken(dice.choice(list(STREAMS.values()))[0]))
        expect(app.main(words.split()) in (0, 1) and (folder / "字.png").exists(), Lost)
    return "survived"


@fault("two trainings in one folder")
def _(bench, dice, folder):
    events = train(model := build(), LOSS, Images(), config(output_dir=folder))
    for event in itertools.islice(events, dice.randrange(1, 6)):
        assert isinstance(event, StepDone) or event
    with pytest.raises(Locked):
        run(output_dir=folder, resume=dice.random() < 0.5)
    list(events)
    expect(same(model.state_dict(), bench.trained), Lost)
    return "refused"


@fault("a number that is not finite", 15)
def _(bench, dice, folder):
    path, network = bench.pair(folder, ".json", lambda raw, _: raw, dice), tiny_unet(**SMALL)
    numbers = dice.choice([*network.parameters()]).data.view(-1)
    numbers[dice.randrange(len(numbers))] = dice.choice((torch.nan, torch.inf, -torch.inf, 1e5))
    try:
        save_pretrained(path, network, SCHEDULE, {})
    finally:
        bench.loads(path)
    raise Silent


@fault("guidance beyond all bounds")
def _(bench, dice, folder):
    request = GenerationRequest((1, 2), weights=bench.weights, guidance_scale=10 ** dice.uniform(3, 60))
    return expect(bool(generate_images(request).isfinite().all()))


@fault("kill -9 while weights are overwritten", 200 if hasattr(os, "fork") else 0)
def _(bench, dice, folder):
    path, network = folder / "net.safetensors", tiny_unet(**SMALL)
    save_pretrained(path, network, SCHEDULE, {"n": 0})
    if (child := os.fork()) == 0:
        os.fsync = lambda handle: None  # what a killed process has written is not lost
        for n in itertools.count(1):
            network.conv_out.bias.data.fill_(n % 100)
            save_pretrained(path, network, SCHEDULE, {"n": n})
    time.sleep(dice.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        model, _, card = load_pretrained(path)
    except WeightsError as error:
        raise Lost from error
    with lock(path):  # nothing stale is left
        return expect(card["n"] == 0 or model.conv_out.bias[0] == card["n"] % 100)


@pytest.mark.slow
def test_injected_faults(here, small_mnist, monkeypatch, capsys):
    """FAULTS_SEED chooses the faults; prints the table."""
    seed, bench, table = (
        int(os.environ.get("FAULTS_SEED", "0")),
        Bench(here, small_mnist),
        defaultdict(Counter),
    )
    for k, (name, count, function) in enumerate(FAULTS):
        for n in range(count):
            (folder := here / f"{k}-{n}").mkdir()
            monkeypatch.setenv("LESSONS_PROGRESS", str(folder / "progress.json"))
            try:
                what = function(bench, random.Random(f"{seed} {name} {n}"), folder)
            except Exception as error:
                named = {Silent: "silently wrong", Lost: "lost"}.get(type(error))
                what = named or ("refused" if app.explain(error) else f"traceback: {error!r}")
            table[name][what] += 1
            shutil.rmtree(folder)
    columns = ("survived", "refused", "repaired", "lost", "silently wrong")
    with capsys.disabled():
        print(f"\n| seed {seed} | injected | {' | '.join(columns)} | tracebacks |\n|---|" + "---|" * 7)
        for name, found in table.items():
            others = {what: n for what, n in found.items() if what not in columns}
            print(
                f"| {name} | {found.total()} | {' | '.join(str(found[c]) for c in columns)} | {others or 0} |"
            )
    assert sum(found.total() for found in table.values()) >= 300 and len(table) >= 15
    bad = {name: found for name, found in table.items() if set(found) - {*columns[:3]}}
    assert not bad
