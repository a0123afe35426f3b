"""The panels in a real browser: JupyterLab with a notebook, its sliders moved by keyboard."""

import re
import sys
import time
from pathlib import Path

import nbformat
import pytest
from browser_tools import (
    MARKS,
    PATIENCE,
    ROOT,
    SECOND,
    course_folder,
    environment,
    errors,
    new_page,
    playwright,
    press,
    screenshot,
    serving,
    slider,
    status,
    write_notebook,
)

START, NOISE, UNET, GRIDS, LESSON_11, LESSON_12 = (
    ROOT / "notebooks" / f"{name}.ipynb"
    for name in (
        "00_start_here",
        "01_forward_process",
        "02_unet",
        "08_counterfactual_grids",
        "11_colour",
        "12_faces",
    )
)
pytestmark = MARKS

PANELS = (
    "from classroom.panels import DigitGenerator\npanel = DigitGenerator()\npanel",
    "simple = DigitGenerator(simple=True, digit=3)\nsimple",
    "from classroom.panels import ModelComparison\n"
    'ModelComparison({"10 seconds": "mnist-denoiser", "shipped": "mnist-denoiser"}, steps=5)',
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves a temporary folder, and the folder."""
    home, folder = tmp_path_factory.mktemp("home"), course_folder(tmp_path_factory.mktemp("course"))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.news_url="]
    command += ["--ServerApp.ip=127.0.0.1"]
    with serving(command, environment(home), folder, "/api/status") as address:
        yield address, folder


@pytest.fixture(scope="module")
def page():
    """A page of half a screen's width."""
    with new_page(1000, 1300) as page:
        yield page


def run_all(page, address: str, name: str) -> None:
    """Open a notebook by its name, run all of its cells and wait until they are done."""
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt")
    question = page.locator(".jp-Dialog .jp-mod-accept")
    deadline, asked = time.monotonic() + PATIENCE / SECOND, 0.0
    while (texts := prompts.all_text_contents()) and not all(map(re.compile(r"\d").search, texts)):
        assert not errors(page)
        assert time.monotonic() < deadline, f"the cells of {name} did not finish: {texts}"
        if question.count():  # a browser that is quicker than the kernel is asked which kernel to use
            question.first.click()
        elif not any("*" in text for text in texts) and time.monotonic() > asked + 5:
            page.locator(".lm-MenuBar-item", has_text=re.compile("^Run$")).click()
            page.locator(".lm-Menu-item", has_text=re.compile("^Run All Cells")).first.click()
            asked = time.monotonic()  # and again in 5 s, if the question above has eaten it
        time.sleep(0.3)


@pytest.fixture(scope="module")
def opened(lab, page):
    """A notebook with the panels, run, and its folder."""
    address, folder = lab
    write_notebook(folder / "panels.ipynb", PANELS)
    run_all(page, address, "panels.ipynb")
    playwright.expect(page.locator("[role=status]")).to_have_count(len(PANELS), timeout=PATIENCE)
    return page, folder


def test_panels_are_live_move_replay_and_save_by_keyboard(opened):
    page, folder = opened
    screenshot(page, "lab-panels")
    assert errors(page) == []
    playwright.expect(page.locator("img[alt^='The drawn image']")).to_have_count(2)
    # JupyterLab shows the live panel, not the still picture that stands beside it in the notebook file.
    assert page.locator(".jp-RenderedImage").count() == 0
    button = page.get_by_role("button", name="Save GIF").first
    before = button.bounding_box()
    picture = page.locator("img[alt^='The drawn image']").first
    seven = picture.get_attribute("src")
    said = press(page, "Target digit", "ArrowRight")
    assert said.startswith("The evaluator reads") and picture.get_attribute("src") != seven
    press(page, "Guidance scale", "ArrowRight")
    press(page, "Steps", "ArrowLeft")
    screenshot(page, "lab-moved")
    assert button.bounding_box() == before, "the panel must not jump when its picture changes"
    assert errors(page) == []
    state = page.locator("img[alt^='The state']")
    noise = state.get_attribute("src")
    slider(page, "Replay").press("End")
    playwright.expect(state).to_have_attribute("alt", "The state, after the last step")
    assert state.get_attribute("src") != noise
    page.get_by_role("button", name="Save GIF").nth(1).press("Enter")
    playwright.expect(page.get_by_text("Saved as")).to_be_visible(timeout=PATIENCE)
    assert page.locator("img[src^='data:image/gif']").count() == 1
    assert (folder / "digit-3-w2.0-seed0.gif").stat().st_size > 1000
    screenshot(page, "lab-saved")


def run_lesson(lab, page, path: Path) -> None:
    """Open a copy of a lesson, for JupyterLab saves what it opens, and run all of it."""
    address, folder = lab
    copy = folder / "notebooks" / path.name
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # committed outputs would look as if the cells had run
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    nbformat.write(notebook, copy)
    run_all(page, address, f"notebooks/{path.name}")


@pytest.mark.parametrize(
    ("path", "target", "picture"),
    [
        (START, "Target digit", "img[alt^='The drawn image']"),
        (GRIDS, "Replay target", "img[alt^='The estimate,'][alt*=' to ']"),
        (LESSON_11, "Class", "img[alt^='Picture 1 of class']"),
        (LESSON_12, "Guidance scale", "img[alt^='Face 1 after']"),
    ],
    ids=["00", "08", "11", "12"],
)
def test_the_target_slider_of_a_lesson_shows_another_digit(lab, page, path, target, picture):
    if not path.exists():
        pytest.skip(f"{path.name} is not written yet")
    run_lesson(lab, page, path)
    drawn = page.locator(picture).first
    drawn.scroll_into_view_if_needed()
    screenshot(page, f"lab-{path.stem}-run")
    before = drawn.get_attribute("src")
    slider(page, target).press("ArrowLeft")
    playwright.expect(drawn).not_to_have_attribute("src", before, timeout=PATIENCE)
    screenshot(page, f"lab-{path.stem}-moved")
    assert errors(page) == []


def test_slide_until_it_cannot_be_read(lab, page):
    run_lesson(lab, page, NOISE)
    playwright.expect(status(page, 0)).to_contain_text("t = 300:", timeout=PATIENCE)
    picture = page.locator("img[alt*='under the noise of t =']").first
    clear = picture.get_attribute("src")
    handle = slider(page, "Timestep t")
    for _ in range(50):  # the picture follows while the slider moves
        handle.press("ArrowRight")
    playwright.expect(status(page, 0)).to_contain_text("t = 350:", timeout=PATIENCE)
    assert picture.get_attribute("src") != clear and "t = 350" in picture.get_attribute("alt")
    page.get_by_label("Image").first.select_option("a handwritten 4")
    playwright.expect(picture).to_have_attribute("alt", re.compile("a handwritten 4"), timeout=PATIENCE)
    page.get_by_role("button", name="I can no longer read it").first.press("Enter")
    playwright.expect(status(page, 0)).to_contain_text("Kept: with the linear schedule", timeout=PATIENCE)
    screenshot(page, "lab-noise")
    assert errors(page) == []
