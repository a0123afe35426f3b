"""Several processes: the same images and the same training in any number of them; every error said once.

Run as a program, this file is one of the processes that a test launches.
"""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from command_tools import Images, copy_weights, noted, rows_of
from torch import nn

from lessons_lib.cli import app, common, processes
from lessons_lib.training import StepDone, TrainConfig, TrainState, train

ROOT = Path(__file__).resolve().parent.parent
# accelerate's --cpu starts one process unless there is MPI; its launcher for several GPUs starts them all.
LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no "
    "--main_process_port 0 --num_processes"
)
# In batches of 5, 5 and 2.
DRAW = "sample mnist --labels 0,1,2,3 --num-per-label 3 --batch-size 5 --steps 3 --device cpu --out"
MEASURE = "evaluate mnist --num-samples 12 --batch-size 10 --steps 3 --device cpu --json"
SWEEP = "sweep mnist --device cpu --methods cfg --scales 0,2 --num-samples 4 --step-counts 2 --batch-size 30"
COMMANDS = {
    "sample": f"{DRAW} {{count}}.npz",
    "film": f"{DRAW} {{count}}.gif",
    "evaluate": MEASURE,
    "sweep": f"{SWEEP} --out t.csv",
    "wrong label": "sample mnist --labels x --out x.png --device cpu",
    "no folder": "sample mnist --out file/x.png --device cpu",
}
HERE_ONLY = f"{DRAW} x.npz --weights w.safetensors"  # weights that the first process has, and no other
# One thread each: what a convolution rounds to depends on the number of threads.
MINE = {"PYTHONPATH": str(ROOT), "LESSONS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "LESSONS_DATA": os.devnull}


def launched(count, words, cwd):
    """What `accelerate launch` does with a program in so many processes."""
    command = [sys.executable, *LAUNCH.split(), str(count), *map(str, words)]
    how = {"cwd": cwd, "env": os.environ | MINE, "timeout": 600}
    return subprocess.run(command, capture_output=True, text=True, **how)


def together(count, folder, jobs):
    """Run jobs in so many processes of one launch: {job: what each process told of it}."""
    (folder / "file").write_text("in the way")
    (folder / "0").mkdir(exist_ok=True)
    copy_weights(ROOT / "assets/weights/mnist-denoiser", folder / "0/w")
    ports = []
    for _ in jobs:  # a meeting place for each job
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    done = launched(count, [__file__, folder, json.dumps(list(zip(jobs, ports, strict=True)))], folder)
    assert done.returncode == 0, done.stderr
    told = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]
    return {str(job): [one[k] for one in told] for k, job in enumerate(jobs)}


class Left(BaseException):
    """In place of the end of the process, so that the next job can begin."""


def leave(status):
    raise Left(status)


def work(folder, jobs):
    """One of the processes: each job is a command's words, or the settings of a small training."""
    import torch.distributed as dist
    from accelerate.state import AcceleratorState

    rank, told = os.environ["RANK"], []
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    processes.PATIENCE, processes.leave = 0, leave
    for job, port in jobs:
        os.environ["MASTER_PORT"], out, err = str(port), io.StringIO(), io.StringIO()
        if isinstance(job, dict):
            told.append(train_some(folder, **job))
            AcceleratorState._reset_state(True)
            dist.destroy_process_group()
            continue
        if job == HERE_ONLY:
            (folder / rank).mkdir(exist_ok=True)
            os.chdir(folder / rank)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = app.main(job.split())
            except Left as left:
                (status,) = left.args
        told.append((status, out.getvalue(), err.getvalue()))
    (folder / f"{rank}.json").write_text(json.dumps(told))
    os._exit(0)  # threads of a connection that broke may outlive Python


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process with one thread draws and measures: (folder, JSON)."""
    folder, threads = tmp_path_factory.mktemp("one"), torch.get_num_threads()
    torch.set_num_threads(1)
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        patch.setenv("LESSONS_DATA", os.devnull)
        for name in ("1.npz", "1.gif"):
            assert app.main(f"{DRAW} {name}".split()) == 0
        out.truncate(0), out.seek(0)
        assert app.main(MEASURE.split()) == 0
    torch.set_num_threads(threads)
    return folder, json.loads(out.getvalue())


TWO_STEPS = {"name": "two", "accumulation_steps": 2}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    commands = {name: words.format(count=2) for name, words in COMMANDS.items()}
    told = together(2, folder, [*commands.values(), TWO_STEPS, HERE_ONLY])
    return folder, dict(zip([*commands, "train", "here only"], told.values(), strict=True))


def check_images_and_measures(one, folder, count, told):
    one, expected = one
    for name in ("sample", "film"):
        first, *others = told[name]
        assert first[0] == 0 and f"with {count} processes" in first[1], first
        assert others == [[0, "", ""]] * (count - 1), "only the first process speaks"
    alone, several = (np.load(path) for path in (one / "1.npz", folder / f"{count}.npz"))
    assert np.array_equal(alone["images"], several["images"]) and len(alone["images"]) == 12
    assert alone["labels"].tolist() == several["labels"].tolist() and alone["images"].std() > 0.1
    assert (one / "1.gif").read_bytes() == (folder / f"{count}.gif").read_bytes(), "the steps of all"
    (status, out, err), *others = told["evaluate"]
    assert (status, others) == (0, [[0, "", ""]] * (count - 1)), err
    several = json.loads(out)
    alone = expected | {"processes": count, "seconds_per_image": several["seconds_per_image"]}
    assert several == alone and expected["processes"] == 1 and expected["seconds_per_image"] > 0


def test_two_processes_draw_and_measure_what_one_does(one, two):
    folder, told = two
    check_images_and_measures(one, folder, 2, told)
    first, second = told["sweep"]
    assert first[0] == 0 and "2 of 2: " in first[1] and second == [0, "", ""], first
    assert [row["cells"] for row in rows_of(folder / "t.csv")] == ["100", "100"], "written once"


def test_an_error_is_said_once_and_all_end_alike(two):
    folder, told = two
    for name, sentence in {
        "wrong label": "Unknown label 'x': choose from 0 to 9, or all.",
        "no folder": "file/x.png cannot be written: Not a directory.",
    }.items():
        assert told[name] == [[2, "", f"{sentence}\n"], [2, "", ""]]
    first, second = told["here only"]
    assert (first[0], second[0]) == (2, 2)
    assert second[2].startswith("Process 1: There are no weights") and second[2].count("\n") == 1
    assert first[2] == "The connection to another process broke: that process says above why it ended.\n"
    assert not list(folder.rglob("x.*")), "refused before the work"


@pytest.mark.slow
def test_three_processes_draw_and_measure_what_one_does(one, tmp_path):
    names = ("sample", "film", "evaluate")  # more processes than batches
    told = together(3, tmp_path, [COMMANDS[name].format(count=3) for name in names])
    told = dict(zip(names, told.values(), strict=True))
    check_images_and_measures(one, tmp_path, 3, told)


def test_one_process_is_not_asked_to_join(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(processes, "join", lambda: pytest.fail("there is nobody to meet"))
    assert app.main(["--help"]) == 0
    told = []
    assert processes.spread(lambda part, advance: advance(part) or -part, [3, 5], told.append) == [-3, -5]
    assert told == [3, 5]


def test_ctrl_c_is_said_in_a_word(monkeypatch, capsys):
    monkeypatch.setattr(common, "check_dataset", Mock(side_effect=KeyboardInterrupt))
    assert app.main(["sample", "mnist", "--out", "x.png"]) == 130
    assert capsys.readouterr().err == "Stopped.\n"


TRAIN = "-m lessons_lib train mnist --model evaluator --device cpu --output-dir run --batch-size"


@pytest.mark.slow
def test_the_launched_command_trains_with_accumulation_and_bfloat16_and_says_an_error_once(tmp_path):
    done = launched(2, f"{TRAIN} 31".split(), tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("The batch size 31 must be a multiple of 2.") == 1
    assert "lessons_lib/training" not in done.stderr, "no traceback of the program's own"
    more = "--accumulation-steps 2 --precision bf16 --max-seconds 3"
    done = launched(3, f"{TRAIN} 30 {more}".split(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("with 3 processes") == 1 and done.stdout.count("Stopped by the clock") == 1
    training = json.loads((tmp_path / "run/mnist-evaluator.json").read_text(encoding="utf-8"))["training"]
    assert (training["settings"]["accumulation_steps"], training["settings"]["precision"]) == (2, "bf16")
    assert training["ended"] == "time"


def loss(model, x_0, y, generator):
    return nn.functional.mse_loss(model(x_0.flatten(1)).float(), x_0.flatten(1).flip(1))


def train_some(folder, name, until=8, resume=False, accumulation_steps=1, precision="float32"):
    """Train to a step, with a checkpoint after each; which images this process saw, and the result."""
    torch.manual_seed(0)
    model, images, steps, losses = nn.Linear(16, 16), Images(48, 4), {}, []
    config = TrainConfig(
        epochs=2, batch_size=12, accumulation_steps=accumulation_steps, precision=precision, device="cpu",
        warmup_steps=1, checkpoint_every=1, output_dir=folder / name,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        saved = noted(patch, TrainState, "save", lambda *content: 1)
        for event in train(model, loss, images, config, resume=resume):
            if isinstance(event, StepDone):
                steps[str(event.step)], images.asked = [k for part in images.asked for k in part], []
                losses.append(event.loss)
                # The checkpoint of a step is written when the next one is asked for: the last one is lost.
                if event.step == until:
                    break
    return {"steps": steps, "losses": losses, "saved": len(saved), "weight": model.weight.tolist()}


def test_accumulation_in_two_processes_is_one_process(two, tmp_path):
    alone, (first, second) = train_some(tmp_path, "one"), two[1]["train"]
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert first["weight"] == second["weight"], "the processes keep the same weights"
    assert np.allclose(first["weight"], alone["weight"], atol=1e-5)
    assert first["saved"] > 0 and second["saved"] == 0, "one process writes the checkpoints"


@pytest.mark.slow
def test_with_bfloat16_too_up_to_its_rounding_and_on_in_another_number_of_processes(tmp_path):
    """Two processes, then one, then three: every step has the images of an uninterrupted training."""
    alone, plain = train_some(tmp_path, "one-bf16", precision="bf16"), train_some(tmp_path, "one")
    jobs = [{"name": "two-bf16", "accumulation_steps": 2, "precision": "bf16"}, {"name": "chain", "until": 3}]
    rounded, begun = together(2, tmp_path, jobs).values()
    assert alone["losses"] != plain["losses"], "the network does run in bfloat16"
    assert rounded[0]["losses"] == pytest.approx(alone["losses"], rel=0.01)
    assert rounded[0]["weight"] == rounded[1]["weight"]
    middle = train_some(tmp_path, "chain", until=6, resume=True)
    (ended,) = together(3, tmp_path, [{"name": "chain", "resume": True}]).values()
    for part, steps in ((begun, "123"), ([middle], "3456"), (ended, "678")):
        assert list(part[0]["steps"]) == list(steps)
        for step in steps:
            shares = [process["steps"][step] for process in part]
            assert len({len(share) for share in shares}) == 1, "equal shares"
            assert sorted(k for share in shares for k in share) == sorted(plain["steps"][step])
    assert ended[0]["losses"] == pytest.approx(plain["losses"][-3:], rel=1e-5)
    assert np.allclose(ended[0]["weight"], plain["weight"], atol=1e-5)


if __name__ == "__main__":
    work(Path(sys.argv[1]), json.loads(sys.argv[2]))
