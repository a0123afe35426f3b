"""The panels in a real browser: JupyterLab with a notebook, its sliders moved by keyboard."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
SECOND = 1000  # playwright counts milliseconds
PATIENCE = 300 * SECOND  # for a machine that is busy with other things
START, NOISE, UNET = (
    ROOT / "notebooks" / f"{name}.ipynb" for name in ("00_start_here", "01_forward_process", "02_unet")
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on this machine"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

PANELS = (
    "from lessons_lib.widgets import DigitGenerator\npanel = DigitGenerator()\npanel",
    "simple = DigitGenerator(simple=True, digit=3)\nsimple",
    "from lessons_lib.widgets import ModelComparison\n"
    'ModelComparison({"10 seconds": "mnist-denoiser", "shipped": "mnist-denoiser"}, steps=5)',
)


def write_notebook(path: Path, cells: tuple[str, ...]) -> Path:
    """A notebook of code cells for the Python that runs the tests."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def lab_environment(home: Path) -> dict[str, str]:
    """Settings, workspaces and run-time files of JupyterLab in a folder of their own, and no network."""
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are there, too
    }
    for name, values in settings.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR")
    folders = {name: str(home / name.lower()) for name in names}
    folders["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
    folders["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    lessons = {"LESSONS_OFFLINE": "1", "LESSONS_PROGRESS": str(home / "progress.json"), "PYTHONPATH": path}
    return os.environ | folders | lessons


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves a temporary folder, and the folder."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("notebooks")
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.news_url="]
    command += ["--ServerApp.ip=127.0.0.1"]
    with open(home / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=lab_environment(home), stdout=log, stderr=log, cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(f"{address}/api/status", server, home / "lab.log")
            yield address, folder
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not answer within {seconds:.0f} s:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def page():
    """A page of half a screen's width."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1000, "height": 1300})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


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


def status(page, k: int):
    """The status line of the page's k-th panel."""
    return page.locator("[role=status], [role=alert]").nth(k)


def slider(page, description: str):
    """The handle of the first slider with that description: what the Tab key reaches."""
    return page.locator(".widget-inline-hbox").filter(has_text=description).locator(".noUi-handle").first


def errors(page) -> list[str]:
    wrong = (
        '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
    )
    return page.locator(f"{wrong}, .jupyter-widgets-error-widget").all_inner_texts()


def press(page, description: str, key: str, k: int = 0) -> str:
    """Press a key on a slider and wait until the k-th panel says something new; returns that."""
    before = status(page, k).inner_text()
    slider(page, description).press(key)
    playwright.expect(status(page, k)).not_to_have_text(before, timeout=PATIENCE)
    return status(page, k).inner_text()


@pytest.fixture(scope="module")
def opened(lab, page):
    """A notebook with the panels, run, and its folder."""
    address, folder = lab
    write_notebook(folder / "panels.ipynb", PANELS)
    run_all(page, address, "panels.ipynb")
    playwright.expect(page.locator("[role=status]")).to_have_count(len(PANELS), timeout=PATIENCE)
    return page, folder


def test_panels_are_live_and_drawn_at_once(opened, tmp_path):
    page, _ = opened
    page.screenshot(path=tmp_path / "panels.png")
    assert errors(page) == []
    playwright.expect(page.locator("img[alt^='The drawn image']")).to_have_count(2)
    # JupyterLab shows the live panel, not the still picture that stands beside it in the notebook file.
    assert page.locator(".jp-RenderedImage").count() == 0


def test_sliders_by_keyboard(opened, tmp_path):
    page, _ = opened
    button = page.get_by_role("button", name="Save GIF").first
    before = button.bounding_box()
    picture = page.locator("img[alt^='The drawn image']").first
    seven = picture.get_attribute("src")
    said = press(page, "Target digit", "ArrowRight")
    assert said.startswith("The evaluator reads") and picture.get_attribute("src") != seven
    press(page, "Guidance scale", "ArrowRight")
    press(page, "Steps", "ArrowLeft")
    page.screenshot(path=tmp_path / "moved.png")
    assert button.bounding_box() == before, "the panel must not jump when its picture changes"
    assert errors(page) == []


def test_replay_by_keyboard(opened):
    page, _ = opened
    state = page.locator("img[alt^='The state']")
    noise = state.get_attribute("src")
    slider(page, "Replay").press("End")
    playwright.expect(state).to_have_attribute("alt", "The state, after the last step")
    assert state.get_attribute("src") != noise


def test_other_controls(opened):
    page, _ = opened
    for act in (
        lambda: page.get_by_role("button", name="New seed").press("Enter"),
        lambda: page.get_by_label("Sampler").first.select_option("DDPM"),
    ):
        before = status(page, 0).inner_text()
        act()
        playwright.expect(status(page, 0)).not_to_have_text(before, timeout=PATIENCE)
    assert errors(page) == []


def test_save_gif(opened, tmp_path):
    page, folder = opened
    page.get_by_role("button", name="Save GIF").nth(1).press("Enter")
    playwright.expect(page.get_by_text("Saved as")).to_be_visible(timeout=PATIENCE)
    assert page.locator("img[src^='data:image/gif']").count() == 1
    assert (folder / "digit-3-w2.0-seed0.gif").stat().st_size > 1000
    page.screenshot(path=tmp_path / "saved.png")


def run_lesson(lab, page, path: Path) -> None:
    """Open a copy of a lesson, for JupyterLab saves what it opens, and run all of it."""
    address, folder = lab
    copy = folder / "notebooks" / path.name
    copy.parent.mkdir(exist_ok=True)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # committed outputs would look as if the cells had run
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    nbformat.write(notebook, copy)
    for name in ("assets", "lessons_lib"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    run_all(page, address, f"notebooks/{path.name}")


def test_first_notebook(lab, page, tmp_path):
    run_lesson(lab, page, START)
    playwright.expect(status(page, 0)).to_contain_text("The evaluator reads", timeout=PATIENCE)
    press(page, "Target digit", "ArrowLeft")
    page.screenshot(path=tmp_path / "first.png")
    assert errors(page) == []


def test_slide_until_it_cannot_be_read(lab, page, tmp_path):
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
    page.screenshot(path=tmp_path / "noise.png")
    assert errors(page) == []


def test_feature_maps_by_keyboard(lab, page, tmp_path):
    run_lesson(lab, page, UNET)
    said = page.get_by_role("status").filter(has_text="Layer up 1")
    playwright.expect(said).to_be_visible(timeout=PATIENCE)
    slider(page, "Network told").press("ArrowLeft")
    playwright.expect(said).to_contain_text("Told t = 799 in place of 300", timeout=PATIENCE)
    page.get_by_role("button", name="Tell the truth").press("Enter")
    playwright.expect(said).to_contain_text("moves by 0%", timeout=PATIENCE)
    page.screenshot(path=tmp_path / "features.png")
    assert errors(page) == []


STEERING = (
    "from lessons_lib import widgets\n"
    'ways = {"noise-aware": {"guidance": "classifier"}, "classifier-free": {"guidance": "cfg"}}\n'
    'widgets.MethodComparison(ways, digit=6, samples=3, spacing="logsnr", interval=True)',
    "widgets.GradientOverlay(digit=3)",
    "widgets.SamplerRace(digit=8, guidance_scale=1.0)",
)


def test_steering_panels_by_keyboard(lab, page, tmp_path):
    address, folder = lab
    write_notebook(folder / "steering.ipynb", STEERING)
    run_all(page, address, "steering.ipynb")
    playwright.expect(page.locator("[role=status]")).to_have_count(3, timeout=PATIENCE)
    playwright.expect(page.get_by_text(re.compile("of 3 read as 6")).first).to_be_visible(timeout=PATIENCE)
    press(page, "Guidance scale", "ArrowRight")
    slider(page, "Replay").press("ArrowLeft")
    playwright.expect(page.get_by_text(re.compile(r"step \d+ of 10: the estimate")).first).to_be_visible()
    page.screenshot(path=tmp_path / "comparison.png")
    page.get_by_label("classifier-free").first.press("Space")
    playwright.expect(page.locator("b", has_text="classifier-free")).not_to_be_visible(timeout=PATIENCE)
    step = page.locator(".widget-inline-hbox").filter(has_text=re.compile(r"^Step\d"))
    step.locator(".noUi-handle").press("End")
    playwright.expect(page.get_by_text("t = 0: the clean classifier")).to_be_visible(timeout=PATIENCE)
    page.screenshot(path=tmp_path / "pull.png")
    page.get_by_role("button", name="Race").scroll_into_view_if_needed()
    playwright.expect(page.get_by_text("1st:").first).to_be_visible(timeout=PATIENCE)
    page.screenshot(path=tmp_path / "race.png")
    assert errors(page) == []
