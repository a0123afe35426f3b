"""What the browser tests share: a server of their own, a page, its sliders, and screenshots that are kept.

The screenshots go to the folder that LESSONS_SCREENSHOTS names, or to test-artifacts in the repository.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
SECOND = 1000  # playwright counts milliseconds
PATIENCE = 120 * SECOND  # for a machine that is busy with other things
SCREENSHOTS = Path(os.environ.get("LESSONS_SCREENSHOTS") or ROOT / "test-artifacts")
MARKS = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on this machine"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")


# ---- the server ----


def course_folder(folder: Path) -> Path:
    """A folder to start a server in: the library and the weights of this one, and notebooks to be filled."""
    (folder / "notebooks").mkdir()
    for name in ("assets", "classroom", "lessons_lib"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def write_notebook(path: Path, cells: tuple[str, ...]) -> Path:
    """A notebook of code cells for the Python that runs the tests."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def environment(home: Path, theme: str = "JupyterLab Light") -> dict[str, str]:
    """Settings, workspaces and run-time files of Jupyter in a folder of their own, and no network."""
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "apputils-extension/themes": {"theme": theme},
        "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are there, too
    }
    for name, values in settings.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR")
    folders = {name: str(home / name.lower()) for name in names}
    folders["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
    folders["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    folders["JUPYTER_CONFIG_PATH"] = str(ROOT / "assets" / "jupyter")  # as lab.py sets it
    lessons = {"LESSONS_OFFLINE": "1", "LESSONS_PROGRESS": str(home / "progress.json"), "PYTHONPATH": path}
    return os.environ | folders | lessons


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(command: list[str], env: dict[str, str], folder: Path, probe: str) -> Iterator[str]:
    """Start a server on a free port in a folder and give its address once it answers at `probe`."""
    port, log = free_port(), Path(env["IPYTHONDIR"]).with_name("server.log")
    with open(log, "w") as file:
        server = subprocess.Popen([*command, f"--port={port}"], env=env, stdout=file, stderr=file, cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address + probe, server, log)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    """Wait until the server answers; fail with the end of its log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"The server did not answer within {seconds:.0f} s:\n{log.read_text()[-2000:]}")


# ---- the page ----


@contextmanager
def new_page(width: int, height: int, touch: bool = False) -> Iterator:
    """A page in a Chromium of its own."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": width, "height": height}, has_touch=touch)
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def screenshot(page, name: str) -> None:
    """Keep what the page shows."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def panel(page, words: str):
    """The panel in which these words stand."""
    return page.locator(".steering-panel").filter(has_text=words).first


def slider(part, name: str):
    """The handle of a panel's slider: what the Tab key reaches."""
    return part.locator(f".noUi-handle[aria-label='{name}']").first


def pixels(canvas) -> str:
    """What a picture shows, to be compared."""
    return canvas.evaluate("(canvas) => canvas.toDataURL()")


def expect_line(part, text) -> None:
    """Wait until a panel's line says that."""
    playwright.expect(part.locator(".strip-line")).to_contain_text(text, timeout=PATIENCE)


def errors(page) -> list[str]:
    """The errors and warnings that the page shows; that MNIST is not here is neither."""
    wrong = (
        '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
    )
    found = page.locator(f"{wrong}, .jupyter-widgets-error-widget").all_inner_texts()
    return [text for text in found if not text.startswith("MNIST is not here")]


# What no panel may have: a part that scrolls, or words that are cut off.
UNFIT = """() => [...document.querySelectorAll(".steering-panel, .steering-panel *")].filter((part) => {
  const style = getComputedStyle(part);
  if (["SELECT", "INPUT", "CANVAS", "svg"].includes(part.tagName) || part.closest("svg")) return false;
  const scrolls = ["auto", "scroll"].includes(style.overflowX) && part.scrollWidth > part.clientWidth + 1;
  const cut = part.matches(".strip-text, .strip-head, .strip-line, .widget-label, button")
    && (part.scrollWidth > part.clientWidth + 2 || part.scrollHeight > part.clientHeight + 4);
  const right = (element) => element.getBoundingClientRect().right;
  const out = right(part) > right(part.closest(".steering-panel")) + 1;
  return part.clientWidth && (scrolls || cut || out);
}).map((part) => `${part.className || part.tagName}: ${part.textContent.slice(0, 60)}`)"""

# Steps through a panel's replay: how far anything moved, in pixels.
JUMP = """(panel) => {
  const scrubber = panel.querySelector(".strip-player input[type=range]"), places = [];
  for (let k = 0; k <= +scrubber.max; k++) {
    scrubber.value = k;
    scrubber.dispatchEvent(new Event("input"));
    places.push(["canvas", ".strip-player", ".strip-line"].map((part) => panel.querySelector(part)
      .getBoundingClientRect()).flatMap((box) => [box.left, box.top, box.width]));
  }
  return Math.max(...places[0].map((_, i) => {
    const column = places.map((place) => place[i]);
    return Math.max(...column) - Math.min(...column);
  }));
}"""


def modules_or_skip() -> Path:
    """What the book's pages run, from npm; a machine that cannot fetch it skips by name."""
    from book.build import fetched_modules

    try:
        return fetched_modules()
    except SystemExit as refused:
        pytest.skip(str(refused))
