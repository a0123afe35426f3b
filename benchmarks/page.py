"""The page that draws, in a Chromium: how soon, how fast, how right.

    python -m benchmarks.page [--digits 1000] [--json]

builds the page (npm fetches its runtime) and serves it from this machine. Seconds until the first digit at
10 Mbit/s and a fourth of the processor; milliseconds a digit, alone and as the slider's row is drawn; the
share of digits at w = 2 that the page's own worker draws and its evaluator reads right; seconds from the end
of a stroke to one's own digit as all ten.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks import parser, prepare, show

CHROMIUM, SLOW_MBIT, SLOWDOWN = "/usr/bin/chromium", 10, 4
# Draws rows of other noises with the page's own worker; [seed, milliseconds of a picture, read right] each.
ROWS = """async ([rows, scale]) => {
  const { worker } = await import("./play.js"), found = [];
  for (let seed = 1000; seed < 1000 + rows; seed++) {
    found.push(await new Promise((done) => {
      const times = [];
      const heard = ({ data }) => {
        if (data.kind === "picture" && data.seed === seed) times.push(data.took);
        if (data.kind !== "read" || data.seed !== seed) return;
        worker.removeEventListener("message", heard);
        done([seed, times, data.readings.filter(({ label }, k) => label === k).length]);
      };
      worker.addEventListener("message", heard);
      worker.postMessage({ kind: "noise", seed, scale });
    }));
  }
  return found;
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder's files are served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/index.html"
    finally:
        server.shutdown()
        server.server_close()


def built(folder: Path) -> Path:
    """The page, built into a folder."""
    from book.build import fetched_modules
    from book.play_page import build

    build(folder / "play", fetched_modules())
    return folder / "play"


def first_digit(browser, address: str) -> dict:
    """Seconds until something moves, and until the first digit, on a slow line and a slow processor."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    devtools = page.context.new_cdp_session(page)
    line = {"offline": False, "latency": 40, "uploadThroughput": -1}
    devtools.send("Network.emulateNetworkConditions", line | {"downloadThroughput": SLOW_MBIT * 1e6 / 8})
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
    started = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function("document.querySelector('#film')?.naturalWidth")
    moves = time.perf_counter() - started
    page.wait_for_function("document.body.dataset.seconds", timeout=120_000)
    digit = time.perf_counter() - started
    page.close()
    return {"seconds_until_it_moves": round(moves, 2), "seconds_until_the_first_digit": round(digit, 2)}


def drawn(page, digits: int) -> dict:
    """How many of so many digits are read right, and milliseconds a digit, of two at a time."""
    rows = page.evaluate(ROWS, [digits // 10, 2.0])
    times = [took for _, row, _ in rows for took in row]
    right = sum(count for *_, count in rows)
    return {
        "read_right": right,
        "digits": 10 * len(rows),
        "ms_a_digit": round(statistics.median(times), 1),
    }


def own_digit(page) -> dict:
    """Draw a 7 with the mouse; seconds until the row is that 7 as all ten, the second network being here."""
    seconds = []
    for _ in range(2):
        page.locator("#clear").click()
        box = page.locator("#pad canvas").bounding_box()
        place = lambda x, y, box=box: (box["x"] + x * box["width"], box["y"] + y * box["height"])  # noqa: E731
        page.mouse.move(*place(0.3, 0.25))
        page.mouse.down()
        for corner in ((0.7, 0.25), (0.6, 0.5), (0.45, 0.8)):
            page.mouse.move(*place(*corner), steps=8)
        page.mouse.up()
        started = time.perf_counter()
        page.wait_for_function(
            "/all ten/.test(document.querySelector('#heard').textContent)", timeout=120_000
        )
        page.wait_for_function("/of 10/.test(document.querySelector('#line').textContent)", timeout=120_000)
        seconds.append(time.perf_counter() - started)
    right = int(page.locator("#line").text_content().split()[0])
    return {"seconds_of_an_own_digit": round(seconds[-1], 2), "of_ten_read_as_asked": right}


def main() -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    options = parser(__doc__)
    options.add_argument("--digits", type=int, default=1000)
    arguments = options.parse_args()
    machine = prepare(arguments.threads)
    with (
        tempfile.TemporaryDirectory() as folder,
        served(built(Path(folder))) as address,
        sync_playwright() as p,
    ):
        browser = p.chromium.launch(executable_path=CHROMIUM)
        found = first_digit(browser, address)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(600_000)
        page.goto(address)
        page.wait_for_function("/of 10/.test(document.querySelector('#line').textContent)")
        found |= drawn(page, arguments.digits) | own_digit(page)
        browser.close()
    rows = [(name.replace("_", " "), str(value)) for name, value in found.items()]
    show(found | {"machine": machine}, rows, arguments.json)


if __name__ == "__main__":
    main()
