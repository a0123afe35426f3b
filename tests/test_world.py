"""The moving world: the page's numbers are the library's, it moves by itself; elsewhere a film shows it."""

import base64
import io
import itertools
import time

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from browser_tools import CHROMIUM, MARKS, SECOND, playwright
from PIL import Image, ImageSequence

from classroom.panels import MovingWorld
from classroom.panels.world import FRAMES, SCENES
from lessons_lib.samplers import ddim_invert, sample_ddim
from lessons_lib.schedules import spaced_timesteps
from lessons_lib.toy import GaussianMixture

BYTES = "means", "abar", "ways_of"  # and below
PAGE = """async ([module, style, given, bytes]) => {
  document.body.innerHTML = `<main><style>${style}</style></main>`;
  for (const name of ["means", "abar", "ways_of"])
    given[name] = new DataView(Uint8Array.from(atob(bytes[name]), (c) => c.charCodeAt(0)).buffer);
  const model = { get: (k) => given[k], set: (k, v) => (given[k] = v), save_changes() {}, on() {}, off() {} };
  const { default: widget } = await import("data:text/javascript;base64," + module);
  widget.render({ model, el: document.querySelector("main") });
  window.world = document.querySelector(".world").world;
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM)
        yield launched
        launched.close()


def shown(browser, scene: str, motion: str = "reduce", **options):
    """The world alone on a page, and the widget whose state it has."""
    widget = MovingWorld(scene, **options)
    given = {name: getattr(widget, name) for name in widget.keys if not name.startswith("_")}
    data = {name: base64.b64encode(given.pop(name)).decode() for name in BYTES}
    given = {name: value for name, value in given.items() if isinstance(value, int | float | str | list)}
    page = browser.new_page(viewport={"width": 900, "height": 700}, reduced_motion=motion)
    page.goto("data:text/html,<!doctype html><html lang=en><title>world</title><body></body></html>")
    module = base64.b64encode((widget.here / "world.js").read_bytes()).decode()
    page.evaluate(PAGE, [module, (widget.here / "strip.css").read_text(), given, data])
    return page, widget


def states(page, which: int) -> torch.Tensor:
    """[steps + 1, N, 2] float64 of one picture."""
    found = page.evaluate(f"world.times({which}).map((_, k) => world.state({which}, k))")
    return torch.tensor(found, dtype=torch.float64).view(len(found), -1, 2)


def expected(widget, which: int, found: torch.Tensor) -> torch.Tensor:
    """The library's last states from the same first ones, and of the inversion those where it turns."""
    mixture = GaussianMixture(widget.mixture.means.double(), widget.std, widget.mixture.classes)
    schedule, count = widget.schedule, found.shape[1]
    free, wish = mixture.eps_fn(schedule), torch.full((count,), widget.target)
    told = mixture.eps_fn(schedule, wish)
    guided = lambda x, t: torch.lerp(free(x, t), told(x, t), widget.guidance_scale)  # noqa: E731
    times, start, eps_fn = spaced_timesteps(1000, 60), found[0], free
    if widget.scene == "steps" and which:
        times = spaced_timesteps(1000, widget.steps)
    if widget.scene == "guide" and which:
        eps_fn = guided
    if widget.scene == "invert":
        own = mixture.classes[torch.cdist(start, mixture.means).argmin(dim=1)]
        *_, top = ddim_invert(mixture.eps_fn(schedule, own), schedule, start, times)
        torch.testing.assert_close(found[60], top.x_t, rtol=0, atol=1e-3)
        start, eps_fn = top.x_t, guided
    *_, last = sample_ddim(eps_fn, schedule, start, times, clip_x0=False)
    return last.x_t


def browser_test(test):
    for mark in MARKS:
        test = mark(test)
    return test


@browser_test
@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene not in ("noise", "yours")])
def test_the_pages_dots_are_where_the_library_has_them(browser, scene):
    page, widget = shown(browser, scene, guidance_scale=2.5, target=1)
    for which in range(len(SCENES[scene]) if scene not in ("samplers", "invert") else 1):
        found = states(page, which)
        torch.testing.assert_close(found[-1], expected(widget, which, found), rtol=0, atol=1e-3)
    page.close()


@browser_test
def test_it_plays_by_itself_obeys_the_keyboard_and_holds_still_if_that_is_wished(browser):
    page, _ = shown(browser, "guide", "no-preference", guidance_scale=2.0)
    page.wait_for_timeout(SECOND)
    drawn, began = page.evaluate("world.drawn"), time.perf_counter()
    page.wait_for_timeout(SECOND)
    rate = (page.evaluate("world.drawn") - drawn) / (time.perf_counter() - began)
    print(f"{rate:.0f} pictures of {2 * 500} dots a second")
    assert rate > 10  # on a busy machine; 30 on two idle cores
    page.get_by_role("button", name="Pause").click()
    scale = page.get_by_label("Guidance scale w")
    scale.focus()
    before = states(page, 1)[-1]
    scale.press("ArrowRight")
    assert not torch.equal(states(page, 1)[-1], before), "the arrow key moves the scale"
    assert page.get_by_label("Time").input_value() != "0"
    serious = [
        one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")
    ]
    assert not serious, [one["id"] for one in serious]
    page.close()
    page, _ = shown(browser, "flow")
    page.wait_for_timeout(300)
    assert (
        page.get_by_role("button", name="Play").is_visible()
        and page.get_by_label("Time").input_value() == "1000"
    )
    page.close()


@browser_test
def test_a_cloud_of_ones_own_takes_the_place_of_the_digits(browser):
    page, _ = shown(browser, "flow")
    page.get_by_role("button", name="Draw a cloud of your own").click()
    box = page.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 200, steps=20)
    page.mouse.up()
    last = states(page, 0)[-1]
    assert last[:, 1].std() < 0.06 and last[:, 0].std() > 0.1, "all dots end on the one level stroke"
    page.close()


@browser_test
def test_recorded_dots_are_shown_where_they_are(browser):
    ways = {name: torch.rand(3, 40, 2, dtype=torch.float64) for name in ("one", "other")}
    page, _ = shown(browser, "yours", ways=ways, times=[999, 500, -1])
    for which, (name, recorded) in enumerate(ways.items()):
        torch.testing.assert_close(states(page, which), recorded)
        assert page.get_by_text(name, exact=True).is_visible()
    assert page.get_by_role("button").all_inner_texts() == ["Play"]
    page.close()


@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene != "yours"])
def test_pages_without_a_kernel_show_a_film_that_ends_where_it_begins(scene):
    widget = MovingWorld(scene, guidance_scale=3.0)
    data, metadata = widget._repr_mimebundle_()
    assert data["image/png"] and "along a 7 and a 3" in data["text/plain"] == metadata["image/png"]["alt"]
    film = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    pictures = [np.asarray(frame.convert("RGB"), dtype=float) for frame in ImageSequence.Iterator(film)]
    assert len(pictures) == FRAMES + 1 and np.array_equal(pictures[0], pictures[-1]), (
        "what does not move shows the end"
    )
    assert all(abs(a - b).mean() > 0.5 for a, b in itertools.pairwise(pictures)), "every picture moves on"
    for way, classes in widget.ways():
        assert set(classes.tolist()) <= {0, 1} and all(x.shape == (len(classes), 2) for _, x in way)
    if scene == "guide":
        assert (classes == 0).float().mean() > 0.95, "the wish is a 7"


def test_an_unknown_scene_is_one_sentence():
    with pytest.raises(ValueError, match="Unknown scene 'x': choose one of noise, flow"):
        MovingWorld("x")
