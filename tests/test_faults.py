"""Faults: what people do to a run, and what is injected into files. Nothing is lost or silently wrong.

`FAULTS_SEED=7 pytest -m slow tests/test_faults.py` injects others than by default; it prints the table.
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
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from command_tools import Images, good, refused, save, tiny_reader, tiny_unet, write_celeba_lists
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_training import LOSS, SCHEDULE, build, config, run, same, trained

from classroom.checks import store
from lessons_lib import data, evaluation, recipes, weights
from lessons_lib.cli import app
from lessons_lib.data import celeba, image_set, mnist
from lessons_lib.evaluation import quality
from lessons_lib.evaluation.task import read_rows
from lessons_lib.files import Locked, lock
from lessons_lib.pipeline import GenerationRequest, generate_images, generate_with
from lessons_lib.training import CHECKPOINT, TrainingError, train
from lessons_lib.weights import WeightsError, load_pretrained, read_card, save_pretrained

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"channel_mults": (1,), "num_classes": 3}


# -- what people do -------------------------------------------------------------------------------------
def test_a_finished_run_is_left_alone_and_an_older_checkpoint_goes_on(tmp_path):
    recipe = recipes.RECIPES["mnist", "denoiser"]
    recipe = dataclasses.replace(recipe, network=build(0.0).config, defaults={"steps": 2, "sampler": "ddim"})
    options = recipes.DiffusionOptions(timesteps=50, sample_every=0)
    x, y = (torch.rand(24, 1, 8, 8) * 255).to(torch.uint8), torch.arange(24) % 3

    def go(resume=True, images=x, augment=None):
        sets = dict.fromkeys(data.SPLITS, data.ImageSet(images, y, ("a", "b", "c"), "folder"))
        own, how = dataclasses.replace(recipe, augment=augment), config(epochs=1, output_dir=tmp_path)
        return list(recipes.run_recipe(own, lambda: sets, how, options, resume=resume))[-1]

    path = go(False).path
    weights.write_card(path, read_card(path) | {"metrics": {"fid": 1}, "notes": "mine"})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert not go().is_new
    for name, changed in {
        "images_sha256": {"images": 255 - x},
        "augment": {"augment": recipes.random_flip},
    }.items():
        with pytest.raises(TrainingError, match=name):
            go(**changed)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    content = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    del content["state"]["settings"]["images_sha256"], content["state"]["settings"]["augment"]
    torch.save(content, tmp_path / CHECKPOINT)
    path.unlink()  # killed between the two
    assert go().is_new and load_pretrained(path)


def test_numbers_that_are_not_finite(tmp_path):
    network, model = tiny_unet(**SMALL), build()
    model.unused = torch.nn.Parameter(torch.zeros(1))

    def loss(model, *given):
        model.unused.data.fill_(torch.inf)
        return LOSS(model, *given)

    with pytest.raises(TrainingError, match=r"weights are not finite at step 1: .*last good checkpoint"):
        run(model, loss, epochs=1, batch_size=24, output_dir=tmp_path)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]["step"] == 0
    next(network.parameters()).data[0] = torch.nan
    with pytest.raises(ValueError, match="no finite numbers any more at t = 49"):
        list(generate_with(network, SCHEDULE, GenerationRequest((1,))))
    with pytest.raises(ValueError, match="is not finite"):
        quality.predictions(tiny_reader(False), torch.full((2, 1, 8, 8), torch.nan))
    for wrong in ({"lr": torch.inf}, {"weight_decay": torch.nan}, {"seed": -1}):
        with pytest.raises(ValueError, match="must be"):
            config(**wrong)


def test_folders_as_people_leave_them(here, capsys):
    for k in range(24):
        path = here / "both" / ("Train" if k % 3 else "Testing") / f"{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), k).save(path)
    shutil.copytree(here / "both/Train", here / "alone/train")
    shutil.copytree(here / "both/Train", here / "none/test")
    assert len(data.load("folder:both", "test")) == 8
    assert data.load("folder:both").class_names == data.load("folder:alone").class_names == ("0", "1")
    with pytest.raises(data.DataError, match="holds test but no train"):
        data.load("folder:none")
    (here / "both/Train/0/deep").mkdir()
    for name in ("x.heic", "deep/y.png"):
        (here / "both/Train/0" / name).write_bytes(b"x")
    Image.new("L", (16, 16)).save(here / "both/Train/0/z.jfif", "JPEG")
    os.mkfifo(here / "both/Train/0/pipe.png") if hasattr(os, "mkfifo") else None
    data.notice.cache_clear()
    assert sum(len(data.load("folder:both", split)) for split in data.SPLITS) == 25
    err = capsys.readouterr().err
    assert "Left out of both" in err and "Train/0/x.heic" in err and "Train/0/deep/y.png" in err
    with pytest.raises(data.DataError, match=r"are not read, the first Train/0/deep/y\.png"):
        data.load("folder:both", strict=True)


@pytest.fixture
def small_mnist(here, monkeypatch):
    """A tiny data set whose checksums are the known ones; write(folder, change) puts it there."""
    shapes = {name: ((20, 28, 28) if "images" in name else (20,)) for name in mnist.SHAPES}
    heads = {name: struct.pack(f">{1 + len(s)}I", 0x800 + len(s), *s) for name, s in shapes.items()}
    files = {name: heads[name] + bytes(k % 10 for k in range(int(np.prod(s)))) for name, s in shapes.items()}
    monkeypatch.setattr(mnist, "SHAPES", shapes)
    monkeypatch.setattr(mnist, "CHECKSUMS", {n: hashlib.sha256(c).hexdigest() for n, c in files.items()})
    monkeypatch.setattr(mnist, "_read_idx", mnist._read_idx.__wrapped__)

    def write(folder, change=lambda name, content: (name, content)):
        folder.mkdir(parents=True)
        for name, content in itertools.starmap(change, files.items()):
            (folder / name).write_bytes(content)

    return write


def zipped(name, content):
    return f"{name}.gz", gzip.compress(content)


def test_mnist_as_people_keep_it_and_a_named_place_without_it(here, small_mnist, monkeypatch):
    dotted = ("raw", lambda name, content: (name.replace("-idx", ".idx"), content))
    for k, (folder, *change) in enumerate((["MNIST/raw"], [".", zipped], dotted)):
        small_mnist(here / f"{k}" / folder, *change)
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


def test_pictures_and_lists_as_tools_leave_them(tmp_path):
    (long := PngInfo()).add_text("comment", "x" * 3_000_000, zip=True)
    Image.new("L", (16, 16), 255).save(tmp_path / "a.png", pnginfo=long)
    Image.new("L", (16, 16), 255).save(tmp_path / "b.png", exif=b"Exif\0\0MM\0*junk")
    Image.fromarray(np.full((16, 16), 4095, np.uint16)).save(tmp_path / "c.png")  # twelve bits
    assert all((image_set.decode(tmp_path / f"{name}.png", 8, 1) == 255).all() for name in "abc")
    (turned := Image.Exif())[0x0112] = 6
    Image.new("RGB", (218, 178)).save(tmp_path / "d.jpg", exif=turned)
    assert data.read_face(tmp_path / "d.jpg").shape == (3, 64, 64)
    write_celeba_lists(tmp_path, [dict.fromkeys(range(40), 1)] * 3, [0, 1, 2], suffix=".csv")
    usual = celeba._read_lists(tmp_path)
    for file in tmp_path.glob("*.csv"):
        head, *rows = file.read_text().splitlines()
        lines = [
            f'"Unnamed: 0","{head.replace(",", chr(34) + "," + chr(34))}"',
            *(f"{k},{r}" for k, r in enumerate(rows)),
        ]
        file.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    assert str(celeba._read_lists(tmp_path)) == str(usual)
    file.write_text(file.read_text(encoding="utf-8") + "\n9," + rows[0][:-1] + "2", encoding="utf-8")
    with pytest.raises(data.DataError, match=r"two rows of 000000\.jpg"):
        celeba._read_list(tmp_path, file.stem, ["partition"], {"0", "1", "2"}, "")


def test_commands_as_people_type_them(run, here, tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    words = f"sample mnist --weights {tiny}/denoiser.safetensors --steps 1 --labels 1"
    good(run(f"{words} --out=~/x.png --individual pictures --num-per-label 2"))
    assert Path("x.png").exists() and not Path("~").exists()
    save(
        here / "runs/pets-denoiser/pets-denoiser.safetensors",
        tiny_unet(**SMALL),
        SCHEDULE,
        ["a,b", "c", "d"],
        steps=1,
    )
    path = here / "runs/pets-denoiser/pets-denoiser.safetensors"
    weights.write_card(path, read_card(path) | {"training": {"command": "train folder:pets"}})
    good(run("sample folder:pets --out z.png --labels", '"a,b",c'))
    for more, said in {
        f"{words} --out y.png --individual pictures": "holds other pictures: name an empty folder.",
        f"{words} --out y.png --num-per-label 1000000000": "GB of memory, and",
        f"{words} --out y.gif --num-per-label 2000": "at most 65,535 pixels a side",
        f"{words} --out {'y' * 300}.png": "File name too long",
        f"{words} --out y.png --guidance-scale 1e39": "must be below 1e30",
        f"evaluate mnist --weights cifar10-denoiser --evaluator-weights {tiny}/judge.safetensors": "but",
        "sample folder:/nowhere/pets --out y.png": "was trained on folder:pets, not on folder:/nowhere/pets",
    }.items():
        refused(run(more), said)
    for wrong in ({"steps": 2.5}, {"interval": (1, 2, 3)}, {"seed": "a"}, {"eta": -1}, {"weights": 5}):
        with pytest.raises(ValueError, match=r"must be|are a name"):
            GenerationRequest((1,), **wrong)
    with monkeypatch.context() as patch:
        patch.setattr("lessons_lib.cli.common.save_gif", lambda *_: 1 / 0)
        refused(run(f"{words} --out x.gif"), "the images are in x-kept.npz.")
        patch.setattr("lessons_lib.cli.common.generate", lambda part: os.kill(os.getpid(), signal.SIGTERM))
        assert run(f"{words} --out y.png")[0] == 143 and Path("x-kept.npz").exists()
    monkeypatch.setenv("WORLD_SIZE", "two")
    refused(run("sample mnist --out y.png"), "WORLD_SIZE must be a whole number")


# -- what is injected -----------------------------------------------------------------------------------
class Silent(Exception):
    """A wrong result without a word."""


class Lost(Exception):
    """What was reported saved is gone."""


class Broken(io.StringIO):
    """A stdout that fails as a closed pipe, a closed terminal, a full disk; or knows no Chinese letters."""

    encoding, error = "cp1252", 0

    def write(self, text):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return super().write(text.encode(self.encoding).decode(self.encoding))


ODD = (None, True, -1, 0, 1.5, 10**40, float("nan"), "", "ten", [], [1], {}, {"a": 1}, "\0", ["ddim"])
NUMBERS = {"mean": (np.nan, np.inf), "covariance": (np.nan, -1e9), "count": (0, 1, 7), "floor_count": (0, 99)}
NUMBERS |= {
    "floor": (0, -1, np.nan, np.inf),
    "spread": (-1, np.inf),
    "class_counts": (-5, 9),
    "extractor": (1,),
}


def flipped(raw, dice):
    place = dice.randrange(len(raw))
    return raw[:place] + bytes([raw[place] ^ 1 << dice.randrange(8)]) + raw[place + 1 :]


def cut(raw, dice):
    return raw[: dice.randrange(len(raw))]


def edited(raw, dice):
    card = place = json.loads(raw)
    while isinstance(place[key := dice.choice([*place])], dict) and place[key] and dice.random() < 0.7:
        place = place[key]
    place[key] = dice.choice(ODD)
    return json.dumps(card).encode()


def whole(raw, dice):
    return raw


def expect(holds, otherwise=Silent, what="survived"):
    if not holds:
        raise otherwise
    return what


COUNTS = {"card_edited": 60, "checkpoint_flipped": 25, "kill_in_overwriting_weights": 200}  # of others 15


class Faults:
    """Each public method injects one fault: (random numbers, an empty folder) -> what happened."""

    def __init__(self, root, small_mnist):
        self._root, self._trained, path = root, trained(), root / "good" / "net.safetensors"
        self._state = load_pretrained(save(path, tiny_unet(**SMALL), SCHEDULE, "abc", steps=2))[
            0
        ].state_dict()
        features, labels = evaluation.features(tiny_reader(False), Images(48).x), torch.arange(48) % 3
        reference = evaluation.Reference.of(features, labels, 3, extractor="a", source="mnist")
        reference.save(root / "good" / "net-reference.npz")
        run(output_dir=root / "run", stop_after=3, checkpoint_every=1)
        small_mnist(root / "mnist")
        small_mnist(root / "gz", zipped)
        (root / "pets").mkdir()
        for k in range(24):
            Image.new("L", (16, 16), 9 * k).save(root / "pets" / f"{k}.png")
        self._digits = mnist.read(root / "mnist", "train")
        self._pets = data.load(f"folder:{root / 'pets'}").images[:]

    def _changed(self, dice, folder, of, name, change):
        """A copy of a folder in which one file, or one that fits the name, is changed."""
        shutil.copytree(self._root / of, folder, dirs_exist_ok=True)
        path = dice.choice(sorted(folder.glob(name)))
        path.write_bytes(change(path.read_bytes(), dice))
        return folder / "net.safetensors"

    def _loads(self, path):
        plan = GenerationRequest((1,), weights=path).plan()
        is_same = same(load_pretrained(path)[0].state_dict(), self._state)
        return expect(is_same and torch.equal(plan.schedule.betas, SCHEDULE.betas))

    def _pair(self, dice, folder, name, change):
        return self._loads(self._changed(dice, folder, "good", name, change))

    weights_flipped = partialmethod(_pair, name="*.safetensors", change=flipped)
    weights_cut = partialmethod(_pair, name="*.safetensors", change=cut)
    card_flipped = partialmethod(_pair, name="*.json", change=flipped)
    card_cut = partialmethod(_pair, name="*.json", change=cut)
    card_edited = partialmethod(_pair, name="*.json", change=edited)

    def _reference(self, dice, folder, change):
        self._changed(dice, folder, "good", "*.npz", change)
        loaded = [
            evaluation.Reference.load(place / "net-reference.npz") for place in (folder, self._root / "good")
        ]
        one, two = ({**vars(each), **vars(each.statistics), "statistics": 0} for each in loaded)
        return expect(str(one) == str(two))

    reference_flipped = partialmethod(_reference, change=flipped)
    reference_cut = partialmethod(_reference, change=cut)

    def reference_with_other_content(self, dice, folder):
        with np.load(self._root / "good" / "net-reference.npz") as file:
            content = {name: file[name].copy() for name in file.files}
        name = dice.choice([*NUMBERS])
        number = dice.choice(NUMBERS[name])
        is_number = content[name].dtype.kind in "fi"
        content[name] = np.full_like(content[name], number) if is_number else np.array(number)
        np.savez(folder / "x.npz", **content)
        return expect(not evaluation.Reference.load(folder / "x.npz"))

    def _resumed(self, dice, folder, change=whole, otherwise=Silent):
        self._changed(dice, folder, "run", CHECKPOINT, change)
        return expect(same(self._trained, trained(output_dir=folder, resume=True)), otherwise)

    checkpoint_flipped = partialmethod(_resumed, change=flipped)
    checkpoint_cut = partialmethod(_resumed, change=cut)

    def _mnist(self, dice, folder, of, change):
        self._changed(dice, folder, of, "train*", change)
        found = mnist.read(folder, "train")
        is_same = torch.equal(found.images, self._digits.images)
        return expect(is_same and torch.equal(found.labels, self._digits.labels))

    mnist_flipped = partialmethod(_mnist, of="mnist", change=flipped)
    mnist_gz_flipped = partialmethod(_mnist, of="gz", change=flipped)
    mnist_gz_cut = partialmethod(_mnist, of="gz", change=cut)

    def decoded_pictures_flipped(self, dice, folder):
        (kept,) = self._root.rglob("pictures.npy")
        raw = kept.read_bytes()
        try:
            kept.write_bytes(flipped(raw, dice))
            return expect(torch.equal(data.load(f"folder:{self._root / 'pets'}").images[:], self._pets))
        finally:
            kept.write_bytes(raw)

    def progress_damaged(self, dice, folder):
        store.put("exercises", "1", "right")
        changes = cut, lambda raw, _: b"<<<<<<<\n" + raw, lambda *_: b"[]"
        raw = dice.choice(changes)(store.path().read_bytes(), dice)
        store.path().write_bytes(raw)
        store.put("exercises", "2", "right")
        copies = [path.read_bytes() for path in folder.glob("*.damaged*")]
        return expect(raw in copies or "1" in store.section("exercises"), Lost, "repaired")

    def progress_by_two_writers(self, dice, folder):
        def answer(who):
            for k in range(5):
                time.sleep(dice.random() / 1000)
                store.put("exercises", f"{who}.{k}", 1)

        threads = [threading.Thread(target=answer, args=(who,)) for who in range(2)]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        return expect(len(store.section("exercises")) == 10, Lost)

    def table_cut_or_contradictory(self, dice, folder):
        rows = [f"{k},c{k // dice.choice((1, 1, 2))},abc" for k in range(6)]
        text = "\ufeff" * dice.randrange(2) + "\n".join(["x,command,weights_sha256", *rows])
        (folder / "a.csv").write_text(text[: dice.randrange(40, len(text) + 1)], encoding="utf-8")
        found = read_rows(folder / "a.csv", ("x", "command", "weights_sha256"))
        return expect([",".join(row.values()) for row in found[:-1]] == rows[: len(found) - 1])

    def full_disk(self, dice, folder):
        path, calls, last = (
            self._changed(dice, folder, "good", "*.json", whole),
            itertools.count(),
            dice.randrange(3),
        )
        write = Path.write_bytes

        def fails(path, content):
            if next(calls) == last:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, content)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "write_bytes", fails)
            try:
                save_pretrained(path, tiny_unet(**SMALL), SCHEDULE, {})
            finally:
                self._loads(path)
        return "survived"

    def signal_in_a_training(self, dice, folder):
        number, at, steps = dice.choice((signal.SIGTERM, signal.SIGINT)), dice.randrange(6), itertools.count()

        def loss(*given):
            os.kill(os.getpid(), number if next(steps) == at else 0)
            return LOSS(*given)

        reason = "interrupted" if number == signal.SIGINT else "terminated"
        expect(run(loss_fn=loss, output_dir=folder)[-1].reason == reason, Lost)
        return expect(same(self._trained, trained(output_dir=folder, resume=True)), Lost)

    def output_that_cannot_be_written(self, dice, folder):
        path = self._root / "good" / "net.safetensors"
        words = f"sample mnist --weights {path} --labels 1 --steps 2 --out {folder}/字.png"
        (out := Broken()).error = dice.choice((0, errno.EPIPE, errno.EIO, errno.ENOSPC))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            status = app.main(words.split())
        said = out.error or "\\u5b57.png" in out.getvalue()
        return expect(said and status == (out.error == errno.ENOSPC) and (folder / "字.png").exists(), Lost)

    def two_trainings_in_one_folder(self, dice, folder):
        events = train(model := build(), LOSS, Images(), config(output_dir=folder))
        next(itertools.islice(events, dice.randrange(5), None))
        with pytest.raises(Locked, match="is being written by another process"):
            run(output_dir=folder, resume=dice.random() < 0.5)
        list(events)
        return expect(
            same(model.state_dict(), self._trained) and not (folder / ".lock").exists(), Lost, "refused"
        )

    def number_that_is_not_finite(self, dice, folder):
        path, network = self._changed(dice, folder, "good", "*.json", whole), tiny_unet(**SMALL)
        numbers = dice.choice([*network.parameters()]).data.view(-1)
        numbers[dice.randrange(len(numbers))] = dice.choice((torch.nan, torch.inf, -torch.inf, 1e5))
        try:
            return expect(not save_pretrained(path, network, SCHEDULE, {}))
        finally:
            self._loads(path)

    def guidance_beyond_all_bounds(self, dice, folder):
        scale, path = 10 ** dice.uniform(3, 60), self._root / "good" / "net.safetensors"
        images = generate_images(GenerationRequest((1, 2), weights=path, guidance_scale=scale))
        return expect(bool(images.isfinite().all()))

    def kill_in_overwriting_weights(self, dice, folder):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("most", [3, pytest.param(1000, marks=pytest.mark.slow)])
def test_injected_faults(here, small_mnist, monkeypatch, capsys, most):
    """Each kind of fault, in the fast tests three times; prints the table."""
    seed, faults, table = os.environ.get("FAULTS_SEED", "0"), Faults(here, small_mnist), defaultdict(Counter)
    for name in [name for name in vars(Faults) if name[0].islower()]:
        for n in range(min(most, COUNTS.get(name, 15))):
            (folder := here / "injected").mkdir()
            monkeypatch.setenv("LESSONS_PROGRESS", str(folder / "progress.json"))
            try:
                what = getattr(faults, name)(random.Random(f"{seed} {name} {n}"), folder)
            except Exception as error:
                named = {Silent: "silently wrong", Lost: "lost"}.get(type(error))
                what = named or ("refused" if app.explain(error) else f"traceback: {error!r}")
            table[name.replace("_", " ")][what] += 1
            shutil.rmtree(folder)
    columns = ("survived", "refused", "repaired", "lost", "silently wrong")
    with capsys.disabled():
        print(f"\n| seed {seed} | injected | {' | '.join(columns)} | traceback |\n|---|" + "---|" * 7)
        for name, found in table.items():
            others = ", ".join(what for what in found if what not in columns)
            print(
                f"| {name} | {found.total()} | {' | '.join(str(found[c]) for c in columns)} | {others or 0} |"
            )
    assert all(set(found) <= {*columns[:3]} for found in table.values())
    assert most < 1000 or (sum(found.total() for found in table.values()) >= 300 and len(table) >= 15)
