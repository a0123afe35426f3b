"""Lesson 14's ground: what is handed out and withheld, a training in the background, the learner's dots."""

import builtins
import sys
import time

import pytest
import torch
from blank_answers import cfg_two_calls, guided_by_grad, sample_steps, sample_yields

from classroom import blank_page
from classroom.panels import MovingWorld, Training

STEPS = 20


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """Runs the text of a notebook's cell; what it defines stays."""
    monkeypatch.setattr(builtins, "__import__", builtins.__import__)
    monkeypatch.setattr("linecache.cache", dict(sys.modules["linecache"].cache))
    space = {"__name__": "__main__"}

    def run(text):
        path = tmp_path / f"cell_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text, encoding="utf-8")
        exec(compile(text, str(path), "exec"), space)
        return space

    return run


def test_the_library_is_closed_to_cells_and_open_to_its_own_files(cell):
    space = cell(
        "from classroom import blank_page\nimages, labels, UNet, UNetConfig, judge = blank_page.begin()"
    )
    assert space["images"].shape[1:] == (1, 28, 28) and space["images"].min() == -1
    assert (space["judge"](space["images"][:50]) == space["labels"][:50]).float().mean() > 0.9
    for text in ("import lessons_lib", "from lessons_lib.samplers import sample_ddim"):
        with pytest.raises(ImportError, match="A blank page: the library is closed here"):
            cell(text)
    cell("import math, torch\nfrom classroom import blank_page\nblank_page.begin()")  # once more does no harm
    import lessons_lib.files  # noqa: F401  a file that imports is no cell


def test_the_worlds_two_guidances_agree_and_move_its_dots():
    world, wish = blank_page.World(), torch.ones(60, dtype=torch.int64)
    ways = {
        "cfg": cfg_two_calls(world, wish, 2.0),
        "classifier": guided_by_grad(world, world.classifier, wish, 2.0, world.alphas_cumprod),
    }
    panel = world.moved(sample_steps, ways, dots=60)
    assert isinstance(panel, MovingWorld) and panel.names == ["cfg", "classifier"]
    (one, kinds), (other, _) = panel.ways()
    torch.testing.assert_close(one[-1], other[-1], rtol=0, atol=1e-3)
    assert (kinds == 1).float().mean() > 0.95 and len(panel._repr_mimebundle_()[0]["image/png"]) > 1000
    with pytest.raises(ValueError, match="return or yield all states"):
        world.moved(lambda *given: list(sample_yields(*given))[-1], ways, dots=60)


def trained(losses, **options):
    training = Training("test", losses, STEPS, **options)
    assert training.wait(20)
    return training


def test_a_training_tells_how_far_it_is_and_what_one_noise_becomes(monkeypatch):
    training = trained(lambda steps: iter([0.5] * steps), draw=lambda: torch.zeros(10, 1, 28, 28))
    assert (
        training.strip.said.startswith("test: 20 of 20 steps") and "loss 0.500; done" in training.strip.said
    )
    assert [row.name for row in training.film.rows] == ["step 1", "step 20"]
    monkeypatch.setenv("LESSONS_MOST_STEPS", "3")
    assert "3 of 3 steps" in trained(lambda steps: iter([0.5] * steps)).strip.said
    assert "not trained yet" in trained(lambda steps: None).strip.said


def test_a_training_stops_and_the_next_of_its_name_stops_it_too():
    def slow(steps):
        while True:
            time.sleep(0.01)
            yield 1.0

    first = Training("test", slow, 10**6)
    second = Training("test", slow, 10**6)
    assert first.wait(10) and "; stopped." in first.strip.said
    next(
        one for one in second.children[0].children[0].children[0].children if one.description == "Stop"
    ).click()
    assert second.wait(10) and "; stopped." in second.strip.said


def test_a_failed_training_is_one_sentence_with_the_learners_line(cell):
    space = cell("def fails(steps):\n    yield 0.3\n    None.backward()  # here\n")
    line = (
        "test failed: AttributeError, 'NoneType' object has no attribute 'backward' (line 3: None.backward()"
    )
    training = trained(space["fails"])
    assert line in training.strip.said and training.strip.wrong
    assert "the loss is nan" in trained(lambda steps: iter([float("nan")] * steps)).strip.said


def test_lines_are_counted_without_blanks_docstrings_and_checks(cell):
    helper = 'import torch\n\n\ndef helper(x):\n    """Twice."""\n\n    return 2 * x\n\n\n'
    text = helper + "@torch.no_grad()\ndef f(x):\n    return helper(x)  # so\n\n\nf(1)\n"
    assert blank_page.lines_of(cell(text)["f"]) == 5


def test_the_gif_is_kept_in_one_place(tmp_path):
    for words in ("90 lines", "80 lines"):
        path = blank_page.keep_gif([(w, torch.zeros(10, 1, 28, 28)) for w in (0, 1.5)], words, tmp_path)
    assert [path] == list((tmp_path / "my_work").iterdir()) and path.read_bytes()[:3] == b"GIF"
