"""sweep: a row a combination, written at once; what is there is not measured again."""

import pytest
from command_tools import copy_weights, noted, rows_of, save, tiny_reader

from classroom.figures.curves import named_lines
from lessons_lib.cli import app
from lessons_lib.evaluation.task import Classes
from lessons_lib.schedules import NoiseSchedule


@pytest.fixture
def here(tiny, here):
    for name in ("denoiser", "judge", "guide"):
        copy_weights(tiny / name, here / name)
    (here / "judge-reference.npz").write_bytes((tiny / "judge-reference.npz").read_bytes())
    return here


@pytest.fixture
def sweep(run, here):
    fixed = "--weights ./denoiser.safetensors --evaluator-weights ./judge.safetensors --num-samples 12"
    return lambda words, names="--classifier ./guide.safetensors": run(f"sweep mnist {fixed} {names} {words}")


@pytest.fixture
def measured(monkeypatch):
    """The settings that were measured, (guidance, scale, sampler, steps)."""
    names = "guidance", "guidance_scale", "sampler", "steps"
    return noted(
        monkeypatch, Classes, "measure", lambda _, plan: tuple(getattr(plan.asked, n) for n in names)
    )


def test_one_row_a_combination_and_a_picture(sweep, measured, capsys):
    status, out, err = sweep("--scales 0,2.5 --samplers ddim,dpmpp_2m --step-counts 2 --out sweep.csv")
    assert status == 0, err
    rows = rows_of("sweep.csv")
    assert tuple(rows[0]) == (*Classes.COLUMNS, "command", "weights_sha256")
    assert len(rows) == 8 == len(measured)
    first, last = rows[0], rows[-1]
    assert (first["method"], first["classifier"], first["guidance_scale"]) == ("cfg", "", "0.0")
    assert (last["method"], last["classifier"]) == ("classifier", "./guide.safetensors")
    assert (last["sampler"], last["spacing"], last["steps"]) == ("dpmpp_2m", "logsnr", "2")
    for row in rows:
        assert float(row["accuracy_low"]) <= float(row["accuracy"]) <= float(row["accuracy_high"])
        assert min(float(row[name]) for name in ("fid", "fid_floor", "diversity", "seconds_per_image")) > 0
        assert (row["num_samples"], row["seed"], row["interval"]) == ("12", "0", "")
        assert 0 <= int(row["cells_right"]) <= int(row["cells"]) == 100
    assert "8 of 8: ./denoiser.safetensors, classifier ./guide.safetensors, s=2.5, dpmpp_2m" in out

    assert app.main(last["command"].split()[3:]) == 0, "each row says how to measure it again"
    assert f"read right   {100 * float(last['accuracy']):.1f}%" in capsys.readouterr().out


def test_the_same_command_again_measures_nothing_and_another_only_what_is_new(sweep, measured, here):
    words = "--methods cfg --scales 1,2 --out sweep.csv"
    assert sweep(words, "")[0] == 0
    before = (here / "sweep.csv").read_bytes()
    status, out, _ = sweep(words, "")
    assert status == 0 and "2 of 2 combinations are in sweep.csv already." in out and len(measured) == 2
    assert (here / "sweep.csv").read_bytes() == before
    assert sweep("--methods cfg --scales 2,3,1.0,3 --out sweep.csv", "")[0] == 0
    assert measured == [("cfg", scale, "ddim", None) for scale in (1.0, 2.0, 3.0)]
    assert [row["guidance_scale"] for row in rows_of("sweep.csv")] == ["1.0", "2.0", "3.0"]
    assert {(row["sampler"], row["steps"]) for row in rows_of("sweep.csv")} == {("ddim", "3")}, "the card's"


def test_a_stopped_sweep_loses_nothing(sweep, measured, monkeypatch):
    counting = Classes.measure

    def stops(*arguments):
        if len(measured) == 2:
            raise KeyboardInterrupt
        return counting(*arguments)

    words = "--methods cfg --scales 0,1,2,3 --out sweep.csv"
    with monkeypatch.context() as patch:
        patch.setattr(Classes, "measure", stops)
        status, out, _ = sweep(words, "")
    assert status == 130
    assert "Stopped by Ctrl-C: 2 rows are in sweep.csv, and the same command goes on." in out
    scales = [row["guidance_scale"] for row in rows_of("sweep.csv")]
    assert sweep(words, "")[0] == 0 and len(measured) == 4
    scales += [row["guidance_scale"] for row in rows_of("sweep.csv")]
    assert scales == ["0.0", "1.0", "0.0", "1.0", "2.0", "3.0"]


def test_rows_of_weights_that_changed_are_measured_again(sweep, measured, here):
    words = "--methods cfg,classifier --scales 1 --out sweep.csv"
    assert sweep(words)[0] == 0
    old = rows_of("sweep.csv")
    guide = tiny_reader(image_size=28, num_classes=10, widths=(32, 64))
    save(here / "guide.safetensors", guide, NoiseSchedule.linear(40))
    status, out, _ = sweep(words)
    assert status == 0 and "1 of 2 combinations" in out and len(measured) == 3
    assert rows_of("sweep.csv")[0] == old[0]
    assert rows_of("sweep.csv")[1]["command"] == old[1]["command"]
    assert rows_of("sweep.csv")[1]["weights_sha256"] != old[1]["weights_sha256"]


def test_a_line_is_named_by_what_tells_it_from_the_others():
    def named(*changes):
        usual = {"method": "cfg", "steps": 10.0, "seed": 0.0, "guidance_scale": 1.0}
        return named_lines([usual | change for change in changes], ("method", "steps", "seed"))

    found = named(*({"steps": n, "guidance_scale": s} for n in (10.0, 25.0) for s in (2.0, 1.0, 10.0)))
    assert list(found) == ["cfg, 10 steps", "cfg, 25 steps"]
    assert [row["guidance_scale"] for row in found["cfg, 10 steps"]] == [1, 2, 10]
    assert list(named({}, {"method": "classifier", "steps": 5.0})) == ["cfg", "classifier"]
    assert list(named({}, {"seed": 1.0})) == ["cfg, seed 0", "cfg, seed 1"]
