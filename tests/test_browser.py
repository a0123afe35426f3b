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
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
SECOND = 1000  # playwright counts milliseconds
PATIENCE = 60 * SECOND  # for a machine that is busy with other things
START = ROOT / "notebooks" / "00_start_here.ipynb"

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
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR")
    folders = {name: str(home / name.lower()) for name in names}
    folders["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
    folders["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | folders | {"LESSONS_OFFLINE": "1", "PYTHONPATH": path}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves a temporary folder, and the folder."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("notebooks")
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.news_url=", "--ServerApp.ip=127.0.0.1"]
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
        page = browser.new_page(viewport={"width": 1000, "height": 1000})
        page.set_default_timeout(PATIENCE)
        # A click on "Run" before the kernel is there makes JupyterLab ask which one.
        page.add_locator_handler(page.locator(".jp-Dialog .jp-mod-accept"), lambda button: button.first.click())
        yield page
        browser.close()


def run_all(page, address: str, name: str) -> None:
    """Open a notebook by its name and run all of its cells."""
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    page.locator(".lm-MenuBar-item", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-item", has_text=re.compile("^Run All Cells")).first.click()


def slider(panel, description: str):
    """The handle of the slider with that description: what the Tab key reaches."""
    label = panel.get_by_text(description, exact=True)
    return panel.locator(".widget-inline-hbox").filter(has=label).locator(".noUi-handle")


def status(panel):
    return panel.locator("[role=status], [role=alert]").first


def wait_until_changed(locator, before: str) -> str:
    """The text of a locator, once it is another than before."""
    playwright.expect(locator).not_to_have_text(before, timeout=PATIENCE)
    return locator.inner_text()


def errors(page) -> list[str]:
    wrong = '.jp-OutputArea [data-mime-type="application/vnd.jupyter.error"], .jupyter-widgets-error-widget'
    return page.locator(wrong).all_inner_texts()


@pytest.fixture(scope="module")
def opened(lab, page):
    """A notebook with the panels, run."""
    address, folder = lab
    write_notebook(folder / "panels.ipynb", PANELS)
    run_all(page, address, "panels.ipynb")
    playwright.expect(page.locator("[role=status], [role=alert]")).to_have_count(len(PANELS), timeout=PATIENCE)
    return page, folder


def panel_of(page, k: int):
    return page.locator(".jp-OutputArea-child .jupyter-widgets.widget-vbox").filter(
        has=page.locator("[role=status]")).nth(k)


def test_look(opened, tmp_path):
    page, _ = opened
    page.screenshot(path="/tmp/shot.png", full_page=True)
    print(page.locator("[role=status]").all_inner_texts(), errors(page))
    print(page.content()[:100])
    open("/tmp/page.html", "w").write(page.content())
