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

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_tools import (
    MARKS,
    PATIENCE,
    ROOT,
    UNFIT,
    course_folder,
    environment,
    errors,
    expect_line,
    new_page,
    panel,
    playwright,
    screenshot,
    serving,
    slider,
    write_notebook,
)

pytestmark = MARKS

OWN, GENERATOR, STEERING = "Undo stroke", "Target digit", "a reader pushes it"
PANELS = ("Your own digit", "Draw a digit", "Two ways to steer", "What if it were an 8?")
START = "import sys, lab, pathlib; lab.playground(pathlib.Path(sys.prefix), sys.argv[1:])"
OFTEN, ROW_LIMIT_S, STALL_LIMIT_S = 50, 12, 1  # the bars are 3 and 0.5 s, on an idle machine
EMPTY = "Draw a digit with the mouse or a finger."


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
        playwright.expect(page.locator(".strip-line").nth(k)).to_be_visible(timeout=PATIENCE)
        print(f"\n{name!r} is there after {time.monotonic() - begun:.1f} s", end="")
    for k in range(len(PANELS)):
        drawn = re.compile(r"Drawn.* \d+\.\d+ s")
        playwright.expect(page.locator(".strip-line").nth(k)).to_contain_text(drawn, timeout=PATIENCE)
    return page


def test_opens_whole_and_from_this_machine_alone(page, asked):
    assert page.title() == "Steering Diffusion: the playground"
    assert errors(page) == []
    hosts = {urlsplit(address).hostname for address in asked if not address.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}, sorted(asked)
    assert page.locator(".jp-CodeMirrorEditor, .cm-editor, .jp-InputPrompt").count() == 0, "no code is shown"


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_fits_every_page_and_names_everything(page, width):
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_timeout(500)
    inside, outside = page.locator("#rendered_cells").evaluate("(e) => [e.scrollWidth, e.clientWidth]")
    unfit, found = page.evaluate(UNFIT), Axe().run(page, context=".steering-panel").response["violations"]
    for name in PANELS:
        page.get_by_role("heading", name=name).evaluate("(e) => e.scrollIntoView()")
        screenshot(page, f"playground-{width}-{PANELS.index(name) + 1}")
    page.set_viewport_size({"width": 1100, "height": 1000})
    assert inside <= outside, "the page must not scroll sideways"
    assert unfit == []
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def draw(page, canvas, points) -> None:
    """A stroke with the mouse, through points in parts of the canvas's side."""
    box = canvas.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def test_draw_a_stroke_and_get_a_row_of_ten_and_a_click_enlarges_one(page):
    part = panel(page, OWN)
    part.get_by_role("button", name="Clear").click()
    expect_line(part, EMPTY)
    pad = part.locator("canvas.pad")
    pad.scroll_into_view_if_needed()
    screenshot(page, "playground-pad-empty")
    draw(page, pad, [(0.3, 0.2), (0.7, 0.2), (0.55, 0.5), (0.42, 0.85)])
    began = time.monotonic()
    expect_line(part, "Read as 7")
    screenshot(page, "playground-pad-drawn")
    expect_line(part, "mean L1")
    took = time.monotonic() - began
    print(f"\nfrom the end of the stroke to the row of ten: {took:.2f} s", end="")
    assert part.locator("canvas[aria-label^='7 to ']:not([aria-label*='enlarged'])").count() == 10
    assert took <= ROW_LIMIT_S * max(1, os.getloadavg()[0])
    part.get_by_role("button", name="Enlarge 7 to 8").click()
    playwright.expect(part.locator("canvas[aria-label*='enlarged']").first).to_have_attribute(
        "aria-label", re.compile("^7 to 8")
    )
    page.keyboard.press("ArrowRight")
    playwright.expect(part.locator(".strip-frame.chosen")).to_have_attribute(
        "aria-label", re.compile("7 to 9")
    )
    screenshot(page, "playground-pad-row")
    pad.press("Backspace")
    expect_line(part, EMPTY)
    assert errors(page) == []


def tab_to(page, target, most: int = 150) -> None:
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
    own, part = panel(page, OWN), panel(page, GENERATOR)
    tab_to(page, own.get_by_role("button", name="Example"))
    page.keyboard.press("Enter")
    expect_line(own, "mean L1")
    tab_to(page, slider(part, "Target digit"))
    page.keyboard.press("ArrowLeft")
    expect_line(part, "Drawn in")
    tab_to(page, part.get_by_role("button", name="More"))
    page.keyboard.press("Space")
    seed = part.get_by_label("Seed")
    playwright.expect(seed).to_be_visible(timeout=PATIENCE)
    before = seed.input_value()
    tab_to(page, part.get_by_role("button", name="Another noise"))
    page.keyboard.press("Space")
    playwright.expect(seed).not_to_have_value(before, timeout=PATIENCE)
    screenshot(page, "playground-keyboard")
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
