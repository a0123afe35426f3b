"""The playground as a person finds it: `lab.py playground` in a real browser, by mouse and by keyboard."""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import imageio.v3 as iio
import pytest
from browser_tools import (
    MARKS,
    PATIENCE,
    ROOT,
    course_folder,
    environment,
    errors,
    new_page,
    playwright,
    screenshot,
    serving,
    write_notebook,
)

pytestmark = MARKS

GENERATOR, STEERING, WHAT_IF, OWN = "New seed", "Replay shows", "Replay target", "Drawn as"
PANELS = ("Draw a digit", "Two ways to steer", "What if it were an 8?", "Your own digit")
START = "import sys, lab, pathlib; lab.playground(pathlib.Path(sys.prefix), sys.argv[1:])"
OFTEN, ROW_LIMIT_S, PROGRESS_LIMIT_S, STALL_LIMIT_S = (
    50,
    12,
    4,
    1,
)  # the bars are 3 and 0.5 s, on an idle machine
EMPTY = "Draw a digit with the mouse or a finger."

# Times in the page itself, in milliseconds: the end of the stroke, the first sign of work, the row.
WATCH = """(panel) => {
  const times = (window.times = {});
  panel.addEventListener("mouseup", () => (times.end = performance.now()), { capture: true, once: true });
  const look = () => {
    if (!times.end || times.row) return;
    const bar = panel.querySelector(".widget-progress, .jupyter-widget-progress, .progress");
    const words = panel.querySelector("[role=status]").textContent;
    const busy = getComputedStyle(bar).visibility === "visible" || words.includes("on their way");
    if (busy && !times.progress) times.progress = performance.now();
    if (words.includes("mean L1")) times.row = performance.now();
  };
  new MutationObserver(look).observe(panel, {
    attributes: true, characterData: true, childList: true, subtree: true,
  });
}"""
HEARTBEAT = """() => {
  let last = performance.now();
  window.stall = 0;
  window.heart = setInterval(() => {
    const now = performance.now();
    window.stall = Math.max(window.stall, now - last);
    last = now;
  }, 20);
}"""


# The pictures beyond the right edge of a part that does not scroll.
CUT_OFF = """() => [...document.querySelectorAll(".celltag_widget img")].filter((image) => {
  const right = image.getBoundingClientRect().right;
  for (let part = image.parentElement; part.id !== "rendered_cells"; part = part.parentElement) {
    const style = getComputedStyle(part);
    if (["auto", "scroll"].includes(style.overflowX) && part.scrollWidth > part.clientWidth) return false;
    if (style.overflowX === "hidden" && right > part.getBoundingClientRect().right + 1) return true;
  }
  return right > innerWidth;
}).map((image) => image.alt)"""


@contextmanager
def served(home: Path, course: Path) -> Iterator[str]:
    """What `lab.py playground` serves in a copy of the course."""
    shutil.copy(ROOT / "lab.py", course)
    command = [sys.executable, "-c", START, "--no-browser", "--Voila.ip=127.0.0.1", "--Voila.port_retries=0"]
    with serving(command, environment(home), course, "/voila/static/voila.js") as address:
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of the playground, and the folder of its notebook."""
    home, course = tmp_path_factory.mktemp("home"), course_folder(tmp_path_factory.mktemp("course"))
    shutil.copy(ROOT / "notebooks/playground.ipynb", course / "notebooks")
    with served(home, course) as address:
        yield address, course / "notebooks"


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """Every address that the page has asked for."""
    return []


@pytest.fixture(scope="module")
def browser():
    """A Chromium for all of these tests."""
    with new_page(1100, 1000) as page:
        yield page.context.browser


@pytest.fixture(scope="module")
def page(browser, server, asked):
    """The playground with all of its panels drawn."""
    page, begun = browser.contexts[0].pages[0], time.monotonic()
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.goto(server[0], wait_until="commit")
    for k, name in enumerate(PANELS):
        playwright.expect(page.get_by_role("heading", name=name)).to_be_visible(timeout=PATIENCE)
        if k == 0:
            screenshot(page, "playground-opening")
        playwright.expect(page.get_by_role("status").nth(k)).to_be_visible(timeout=PATIENCE)
        print(f"\n{name!r} is there after {time.monotonic() - begun:.1f} s", end="")
    for k in range(len(PANELS)):
        drawn = re.compile(r"\d m?s\.$")
        playwright.expect(page.get_by_role("status").nth(k)).to_contain_text(drawn, timeout=PATIENCE)
    return page


def panel(page, words: str):
    """The panel in which these words stand."""
    return page.locator(".celltag_widget").filter(has_text=words)


def handle(part, description: str):
    """The handle of a panel's slider."""
    name = re.compile(rf"^\s*{re.escape(description)}(?![a-z ])")
    return part.locator(".widget-inline-hbox").filter(has_text=name).locator(".noUi-handle")


def expect_text(locator, text) -> None:
    playwright.expect(locator).to_contain_text(text, timeout=PATIENCE)


def expect_other(locator, attribute: str, value: str) -> None:
    playwright.expect(locator).not_to_have_attribute(attribute, value, timeout=PATIENCE)


def test_opens_whole_and_from_this_machine_alone(page, asked):
    assert page.title() == "Steering Diffusion: the playground"
    assert errors(page) == []
    hosts = {urlsplit(address).hostname for address in asked if not address.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}, sorted(asked)
    assert page.locator(".jp-CodeMirrorEditor, .cm-editor, .jp-InputPrompt").count() == 0, "no code is shown"
    for picture in page.locator("img").all():
        assert picture.get_attribute("alt"), "a picture without words"


@pytest.mark.parametrize("width", [1100, 400])
def test_fits_a_desktop_and_a_phone(page, width):
    page.set_viewport_size({"width": width, "height": 1000})
    column = page.locator("#rendered_cells")
    inside, outside = column.evaluate("(e) => [e.scrollWidth, e.clientWidth]")
    cut = page.evaluate(CUT_OFF)
    for name in PANELS:
        page.get_by_role("heading", name=name).evaluate("(e) => e.scrollIntoView()")
        screenshot(page, f"playground-{width}-{PANELS.index(name) + 1}")
    page.set_viewport_size({"width": 1100, "height": 1000})
    assert inside <= outside, "the page must not scroll sideways"
    assert cut == [], "a picture sticks out and cannot be scrolled to"


def test_pick_a_digit_scrub_and_save(page, server):
    part = panel(page, GENERATOR).first
    image, state = part.locator("img[alt^='The drawn image']"), part.locator("img[alt^='The state']")
    for description in ("Target digit", "Guidance scale"):
        before = image.get_attribute("src")
        handle(part, description).press("ArrowRight")
        expect_other(image, "src", before)
    expect_text(part.get_by_role("status"), "The evaluator reads 8")
    screenshot(page, "playground-picked")
    noise = state.get_attribute("src")
    handle(part, "Replay").press("End")
    playwright.expect(state).to_have_attribute("alt", "The state, after the last step", timeout=PATIENCE)
    assert state.get_attribute("src") != noise
    screenshot(page, "playground-scrubbed")
    part.get_by_role("button", name="Save GIF").click()
    playwright.expect(part.get_by_text("Saved as")).to_be_visible(timeout=PATIENCE)
    (file,) = server[1].glob("digit-8-*.gif")
    assert len(iio.imread(file)) > 1
    shown = part.locator("img[src^='data:image/gif']")
    assert shown.evaluate("(e) => e.complete && e.naturalWidth > 0")
    shown.scroll_into_view_if_needed()
    screenshot(page, "playground-saved")


def draw(page, canvas, points) -> None:
    """A stroke with the mouse, through points in parts of the canvas's side."""
    box = canvas.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def test_draw_a_stroke_and_get_a_row_of_ten_and_nothing_drawn_is_a_sentence(page):
    part = panel(page, OWN)
    part.get_by_role("button", name="Clear").click()
    expect_text(part.get_by_role("status"), EMPTY)
    part.locator("canvas").scroll_into_view_if_needed()
    screenshot(page, "playground-pad-empty")
    part.evaluate(WATCH)
    draw(page, part.locator("canvas"), [(0.3, 0.2), (0.7, 0.2), (0.55, 0.5), (0.42, 0.85)])
    page.wait_for_function("window.times.progress", timeout=PATIENCE)
    screenshot(page, "playground-pad-drawn")
    page.wait_for_function("window.times.row", timeout=PATIENCE)
    screenshot(page, "playground-pad-row")
    times = page.evaluate("window.times")
    progress, row = ((times[name] - times["end"]) / 1000 for name in ("progress", "row"))
    print(
        f"\nfrom the end of the stroke: first progress {progress:.2f} s, the row of ten {row:.2f} s", end=""
    )
    assert part.locator("img[alt^='Counterfactual']").count() == 10
    expect_text(part.get_by_role("status"), "Read as 7")
    busy = max(1, os.getloadavg()[0])  # processes that want a core
    assert progress <= PROGRESS_LIMIT_S * busy and row <= ROW_LIMIT_S * busy
    part = panel(page, OWN)
    part.get_by_role("button", name="Clear").click()
    expect_text(part.get_by_role("status"), EMPTY)
    part.get_by_role("button", name="Save GIF").click()
    expect_text(part.get_by_role("alert"), "There is nothing to save yet.")
    assert errors(page) == []


def test_fifty_moves_in_a_second_end_with_the_last(page):
    part, other = panel(page, GENERATOR).first, panel(page, STEERING).first
    image, scale = part.locator("img[alt^='The drawn image']"), handle(part, "Guidance scale")
    scale.scroll_into_view_if_needed()
    scale.press("Home")
    playwright.expect(image).to_have_attribute("alt", re.compile("scale 0 "), timeout=PATIENCE)
    page.evaluate(HEARTBEAT)
    begun = time.monotonic()
    for k in range(OFTEN):  # the slider has the focus
        page.keyboard.press("ArrowRight" if k < OFTEN - 20 else "ArrowLeft")
    fired = time.monotonic() - begun
    handle(other, "Replay").press("Home")  # another panel answers meanwhile
    expect_text(other, "step 1 of 10")
    answered = time.monotonic() - begun - fired
    screenshot(page, "playground-fifty-moves")
    expect_text(part, re.compile(r"Guidance scale\s*2\.50"))
    page.wait_for_function("(bar) => getComputedStyle(bar).visibility === 'hidden'", arg=bar_of(part))
    last = settled(image)
    stall = page.evaluate("clearInterval(window.heart), window.stall / 1000")
    print(f"\n{OFTEN} moves in {fired:.2f} s; another panel answered {answered:.2f} s after them;", end="")
    print(f" the page's longest pause: {stall:.2f} s", end="")
    scale.press("ArrowRight")
    expect_other(image, "src", last)
    scale.press("ArrowLeft")
    playwright.expect(image).to_have_attribute("src", last, timeout=PATIENCE)
    assert stall <= STALL_LIMIT_S


def bar_of(part):
    """The element of a panel's progress bar."""
    return part.locator(".widget-progress, .jupyter-widget-progress, .progress").first.element_handle()


def settled(image, seconds: float = 3.0) -> str:
    """The picture, once it has stayed the same for some seconds."""
    deadline = time.monotonic() + PATIENCE / 1000
    source, since = image.get_attribute("src"), time.monotonic()
    while time.monotonic() - since < seconds:
        assert time.monotonic() < deadline, "the picture does not come to rest"
        image.page.wait_for_timeout(200)
        if (now := image.get_attribute("src")) != source:
            source, since = now, time.monotonic()
    return source


def tab_to(page, target, most: int = 120) -> None:
    """Press Tab until that element has the focus."""
    element = target.element_handle()
    for _ in range(most):
        page.keyboard.press("Tab")
        if element.evaluate("(e) => e === document.activeElement"):
            return
    pytest.fail(f"{most} times Tab do not lead to it")


def test_by_keyboard_alone(page):
    page.evaluate("document.activeElement.blur(), getSelection().removeAllRanges()")
    page.locator("h1").first.click()  # where a page begins that was just opened
    part, own = panel(page, GENERATOR).first, panel(page, OWN)
    image = part.locator("img[alt^='The drawn image']")
    tab_to(page, handle(part, "Target digit"))
    before = image.get_attribute("src")
    page.keyboard.press("ArrowLeft")
    expect_other(image, "src", before)
    screenshot(page, "playground-keyboard-digit")
    seed = part.get_by_label("Seed").input_value()
    tab_to(page, part.get_by_role("button", name="New seed"))
    page.keyboard.press("Space")
    playwright.expect(part.get_by_label("Seed")).not_to_have_value(seed, timeout=PATIENCE)
    said = own.locator("[role=status], [role=alert]")
    tab_to(page, own.get_by_role("button", name="Example"))
    page.keyboard.press("Enter")
    expect_text(said, "mean L1")
    screenshot(page, "playground-keyboard-example")
    assert errors(page) == []


def test_a_cell_that_fails_is_a_sentence_and_the_next_one_runs(browser, tmp_path_factory):
    home, course = tmp_path_factory.mktemp("home"), course_folder(tmp_path_factory.mktemp("course"))
    cells = ("raise RuntimeError('the innermost secret')", "import ipywidgets\nipywidgets.HTML('still here')")
    write_notebook(course / "notebooks" / "playground.ipynb", cells)
    with served(home, course) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address, wait_until="commit")
        playwright.expect(page.get_by_text("still here")).to_be_visible(timeout=PATIENCE)
        playwright.expect(page.get_by_text("This part of the page could not start")).to_be_visible()
        screenshot(page, "playground-failed-cell")
        text = page.locator("body").inner_text()
        assert "Traceback" not in text and "RuntimeError" not in text and "secret" not in text
