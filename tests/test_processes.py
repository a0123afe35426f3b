"""Several processes: the same images and the same training in any number of them; every error said once."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lessons_lib.cli import app, common, processes
from lessons_lib.training import StepDone, TrainConfig, TrainState, train

ROOT = Path(__file__).resolve().parent.parent
# accelerate's --cpu starts one process unless there is MPI; its launcher for several GPUs starts them all.
LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no "
    "--main_process_port 0 --num_processes"
)
SAMPLE = "sample mnist --labels 0,1,2,3 --num-per-label 3 --batch-size 5 --steps 3 --device cpu"
LONGEST = 600  # seconds
# PATIENCE is for a launcher, which the processes of `started` do not have.
PROGRAM = "import sys; from lessons_lib.cli import app; app.processes.PATIENCE = 1; sys.exit(app.main())"


def environment(**more):
    # One thread each: what a convolution rounds to depends on the number of threads.
    mine = {
        "PYTHONPATH": str(ROOT),
        "LESSONS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "LESSONS_DATA": "nowhere",
    }
    return os.environ | mine | more


def launched(count, words, cwd):
    """What `accelerate launch` does with a program in so many processes."""
    command = [sys.executable, *LAUNCH.split(), str(count), *words]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=LONGEST
    )


def started(count, words, *folders):
    """(exit status, stdout, stderr) of each process of a command, without a launcher that ends the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = []
    for k in range(count):
        where = {"RANK": str(k), "LOCAL_RANK": str(k), "WORLD_SIZE": str(count)}
        together.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *words.split()], cwd=folders[k % len(folders)], text=True,
                env=environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **where),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    try:
        ended = [process.communicate(timeout=LONGEST) for process in together]
    finally:  # processes that wait for each other would wait for ever
        for process in together:
            process.kill()
    return [(process.returncode, *said) for process, said in zip(together, ended, strict=True)]


@pytest.fixture
def one_process(monkeypatch, tmp_path):
    """Run a command in this process, with one thread."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(words):
        assert app.main(words.split()) == 0

    yield run
    torch.set_num_threads(threads)


# ---- sample and evaluate ----


def test_the_images_are_the_same_bit_for_bit_in_one_two_and_three_processes(one_process, tmp_path):
    one_process(f"{SAMPLE} --out 1.npz")  # batches of 5, 5 and 2
    done = launched(2, ["-m", "lessons_lib", *f"{SAMPLE} --out 2.npz".split()], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("12 images in 2.npz") == 1 and "with 2 processes" in done.stdout
    first, *others = started(3, f"{SAMPLE} --out 3.npz", tmp_path)
    assert first[0] == 0 and "with 3 processes" in first[1], first
    assert others == [(0, "", "")] * 2, "only the first process speaks"
    one, two, three = (np.load(f"{k}.npz") for k in (1, 2, 3))
    for several in (two, three):
        assert np.array_equal(one["images"], several["images"])
        assert one["labels"].tolist() == several["labels"].tolist()
    assert len(one["images"]) == 12 and one["images"].std() > 0.1


def test_a_film_has_the_steps_of_all_processes(one_process, tmp_path):
    one_process(f"{SAMPLE} --out 1.gif")
    assert [status for status, *_ in started(2, f"{SAMPLE} --out 2.gif", tmp_path)] == [0, 0]
    assert Path("1.gif").read_bytes() == Path("2.gif").read_bytes()


def test_a_measurement_is_the_same_with_more_processes_than_batches(one_process, tmp_path, capsys):
    words = "evaluate mnist --num-samples 12 --batch-size 10 --steps 3 --device cpu --json"
    one_process(words)
    one = json.loads(capsys.readouterr().out)
    done = launched(3, ["-m", "lessons_lib", *words.split()], tmp_path)
    assert done.returncode == 0, done.stderr
    three = json.loads(done.stdout)
    assert (one.pop("processes"), three.pop("processes")) == (1, 3)
    assert one.pop("seconds_per_image") > 0 and three.pop("seconds_per_image") > 0
    assert one == three


def test_a_sweep_is_written_once(tmp_path):
    words = "--methods cfg --scales 0,2 --num-samples 4 --step-counts 2 --batch-size 30 --out t.csv"
    first, second = started(2, f"sweep mnist --device cpu {words}", tmp_path)
    assert first[0] == 0 and "2 of 2: " in first[1], first
    assert second == (0, "", "")
    with open(tmp_path / "t.csv", encoding="utf-8") as file:
        assert [row["cells"] for row in csv.DictReader(file)] == ["100", "100"]


# ---- errors ----


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("sample mnist --labels x --out x.png", "Unknown label 'x': choose from 0 to 9, or all."),
        ("sample mnist --out file/x.png", "file/x.png cannot be written: Not a directory."),
    ],
    ids=["wrong label", "no folder"],
)
def test_a_users_error_is_said_once_and_all_end_alike(tmp_path, words, sentence):
    (tmp_path / "file").write_text("in the way")
    first, second = started(2, f"{words} --device cpu", tmp_path)
    assert first == (2, "", f"{sentence}\n")
    assert second == (2, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_weights_that_one_process_does_not_have_are_refused_before_the_work(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"a/w{suffix}").write_bytes(
            (ROOT / f"assets/weights/mnist-denoiser{suffix}").read_bytes()
        )
    words = f"{SAMPLE} --weights w.safetensors --out x.npz"
    first, second = started(2, words, tmp_path / "a", tmp_path / "b")
    assert (first[0], second[0]) == (2, 2)
    assert second[2].startswith("Process 1: There are no weights") and second[2].count("\n") == 1
    assert first[2] == "The connection to another process broke: that process says above why it ended.\n"
    assert not (tmp_path / "a/x.npz").exists()


def test_one_process_is_not_asked_to_join(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(processes, "join", lambda: pytest.fail("there is nobody to meet"))
    assert app.main(["--help"]) == 0
    told = []
    assert processes.spread(lambda part, advance: advance(part) or -part, [3, 5], told.append) == [-3, -5]
    assert told == [3, 5]


def test_ctrl_c_is_said_in_a_word(monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(common, "check_dataset", stop)
    assert app.main(["sample", "mnist", "--out", "x.png"]) == 130
    assert capsys.readouterr().err == "Stopped.\n"


def test_an_error_of_a_training_is_said_once(tmp_path):
    words = "-m lessons_lib train mnist --model evaluator --device cpu --batch-size 31 --output-dir run"
    done = launched(2, words.split(), tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("The batch size 31 must be a multiple of 2.") == 1
    assert "lessons_lib/training" not in done.stderr, "no traceback of the program's own"


# ---- training ----


def test_three_processes_train_with_accumulation_and_bfloat16(tmp_path):
    words = (
        "-m lessons_lib train mnist --model evaluator --device cpu --batch-size 30 --accumulation-steps 2 "
        "--precision bf16 --max-seconds 3 --output-dir run"
    )
    done = launched(3, words.split(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("with 3 processes") == 1 and done.stdout.count("Stopped by the clock") == 1
    card = json.loads((tmp_path / "run/mnist-evaluator.json").read_text(encoding="utf-8"))
    settings = card["training"]["settings"]
    assert (settings["accumulation_steps"], settings["precision"]) == (2, "bf16")


class Images:
    """48 pictures of noise, which remember who was asked for."""

    def __init__(self):
        self.x = torch.randn(48, 1, 4, 4, generator=torch.Generator().manual_seed(1))
        self.asked = []

    def __len__(self):
        return len(self.x)

    def batch(self, indices):
        self.asked += indices.tolist()
        return self.x[indices], indices


def loss(model, x_0, y, generator):
    return nn.functional.mse_loss(model(x_0.flatten(1)).float(), x_0.flatten(1).flip(1))


def train_some(folder, name, until=8, resume=False, accumulation_steps=1, precision="float32"):
    """Train to a step, with a checkpoint after each; writes which images this process saw, and the result."""
    rank = int(os.environ.get("RANK", "0"))
    torch.manual_seed(0)
    model, images, steps, saved = nn.Linear(16, 16), Images(), {}, []
    original = TrainState.save
    TrainState.save = lambda *content: saved.append(rank) or original(*content)
    config = TrainConfig(
        epochs=2, batch_size=12, accumulation_steps=accumulation_steps, precision=precision, device="cpu",
        warmup_steps=1, checkpoint_every=1, output_dir=folder / name,
    )  # fmt: skip
    losses = []
    for event in train(model, loss, images, config, resume=resume):
        if isinstance(event, StepDone):
            steps[event.step], images.asked = images.asked, []
            losses.append(event.loss)
            # The checkpoint of a step is written when the next one is asked for: the last one here is lost.
            if event.step == until:
                break
    TrainState.save = original
    result = {"steps": steps, "losses": losses, "saved": len(saved), "weight": model.weight.tolist()}
    (folder / f"{name}-{until}-{rank}.json").write_text(json.dumps(result))


def results(folder, name, until, count):
    return [json.loads((folder / f"{name}-{until}-{rank}.json").read_text()) for rank in range(count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The same training in one process and shared; "chain" goes on in another number of processes twice."""
    folder = tmp_path_factory.mktemp("trained")
    bf16 = {"precision": "bf16"}
    train_some(folder, "one")
    train_some(folder, "one-bf16", **bf16)
    jobs = [
        {"name": "two", "accumulation_steps": 2},
        {"name": "two-bf16", "accumulation_steps": 2, **bf16},
        {"name": "chain", "until": 3},
    ]
    for count, todo in ((2, jobs), (3, [{"name": "chain", "resume": True}])):
        if count == 3:
            train_some(folder, "chain", until=6, resume=True)
        done = launched(count, [__file__, str(folder), json.dumps(todo)], folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_accumulation_in_two_processes_is_one_process(trained):
    (one,), two = results(trained, "one", 8, 1), results(trained, "two", 8, 2)
    assert two[0]["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two[0]["weight"] == two[1]["weight"], "the processes keep the same weights"
    assert np.allclose(two[0]["weight"], one["weight"], atol=1e-5)


def test_with_bfloat16_too_up_to_its_rounding(trained):
    (one,), (plain,), two = (
        results(trained, name, 8, n) for name, n in (("one-bf16", 1), ("one", 1), ("two-bf16", 2))
    )
    assert one["losses"] != plain["losses"], "the network does run in bfloat16"
    assert two[0]["losses"] == pytest.approx(one["losses"], rel=0.01)
    assert two[0]["weight"] == two[1]["weight"]


def test_one_process_writes_the_checkpoints(trained):
    first, second = results(trained, "two", 8, 2)
    assert first["saved"] > 0 and second["saved"] == 0


def test_a_training_goes_on_in_another_number_of_processes(trained):
    """Two processes, then one, then three: every step has the images of an uninterrupted training."""
    (one,) = results(trained, "one", 8, 1)
    parts = [results(trained, "chain", until, count) for until, count in ((3, 2), (6, 1), (8, 3))]
    assert [list(part[0]["steps"]) for part in parts] == [
        ["1", "2", "3"],
        ["3", "4", "5", "6"],
        ["6", "7", "8"],
    ]
    for part in parts:
        for step in part[0]["steps"]:
            shares = [each["steps"][step] for each in part]
            assert len({len(share) for share in shares}) == 1, "equal shares"
            assert sorted(k for share in shares for k in share) == sorted(one["steps"][step])
    last = parts[-1][0]
    assert last["losses"] == pytest.approx(one["losses"][-3:], rel=1e-5)
    assert np.allclose(last["weight"], one["weight"], atol=1e-5)


if __name__ == "__main__":  # one of the processes that `trained` launches
    for job in json.loads(sys.argv[2]):
        train_some(Path(sys.argv[1]), **job)
