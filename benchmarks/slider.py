"""How fast does the picture follow the slider of lesson 01, and does it end where the slider ends?

    python -m benchmarks.slider [--threads 2] [--json]
    python -m benchmarks.slider --browser

One move at a time, from the new value to the new picture; then 100 moves in two seconds, as a hand makes
them, and how long after the last move its picture is there. Without the way to the browser and back.
With --browser: the panels of the flow map, dragged in a Chromium, as the test of that name does it.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks import ROOT, parser, prepare, show, summary

MOVES, SECONDS = 100, 2.0


def single_moves(panel, count: int = 200) -> list[float]:
    """Seconds from setting the slider to the picture, one move after the other."""
    took = []
    for k in range(count):
        begun = time.perf_counter()
        panel.t.value = (137 * k) % 1000
        panel.wait()
        took.append(time.perf_counter() - begun)
    return took


def burst(panel) -> tuple[bool, float]:
    """Whether 100 moves in two seconds end with the last one's picture, and how many seconds after it."""
    for k in range(MOVES):
        panel.t.value = 10 * k + 5
        time.sleep(SECONDS / MOVES)
    ended = time.perf_counter()
    panel.wait()
    return panel.film.line.startswith(f"t = {panel.t.value}:"), time.perf_counter() - ended


WATCH = """(panel) => {
  const stage = panel.querySelector(".strip-stage"), moment = panel.querySelector(".strip-moment");
  const told = window.told = { values: [], pictures: [], played: 0 };
  const readout = [...panel.querySelectorAll(".widget-slider")]
    .find((slider) => slider.textContent.includes("Guidance scale")).querySelector(".widget-readout");
  new MutationObserver(() => {
    const value = +readout.textContent;
    if (told.values.at(-1)?.[1] === value) return; // the kernel says what it heard
    told.values.push([performance.now(), value]);
    told.played = 0;
  }).observe(readout, { childList: true, characterData: true, subtree: true });
  let before = "";
  (function look() {
    const title = stage.getAttribute("aria-label"), canvas = [...stage.querySelectorAll("canvas")].at(-1);
    if (title !== before) {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const grey = [...data].filter((_, i) => i % 4 === 0);
      told.pictures.push([performance.now(), +title.split(" ").at(-1), grey]);
    }
    before = title;
    requestAnimationFrame(look);
  })();
  new MutationObserver(() => {
    if (moment.textContent !== "the finished picture") told.played ||= performance.now();
  }).observe(moment, { childList: true, characterData: true, subtree: true });
}"""


def drag(page, panel, handle, moves: int = 120) -> tuple[dict, list]:
    """Drag a slider over all of its range: (figures, [milliseconds, value, pixels] of each picture shown).

    From an event to its pixel: until a picture is painted of the value that was set, or of a newer one.
    """
    left, right, y = handle.evaluate("""(handle) => {
      const box = handle.closest(".noUi-target").getBoundingClientRect();
      return [box.left, box.right, box.top + box.height / 2];
    }""")
    handle.hover()
    page.mouse.down()
    page.mouse.move(left, y)
    page.wait_for_timeout(3000)  # and its way has come
    panel.evaluate(WATCH)
    page.wait_for_timeout(100)
    begun = time.perf_counter()
    page.mouse.move(right, y, steps=moves)
    took = time.perf_counter() - begun
    page.wait_for_function("told.played")
    told = page.evaluate("told")
    values, (_, *pictures) = told["values"], told["pictures"]
    page.mouse.up()
    set_at = {value: at for at, value in reversed(values)}
    waits = [min(p[0] - at for p in pictures if set_at[round(p[1], 2)] >= at) for at, _ in values]
    return {
        "moves_per_second": round(moves / took, 1),
        "distinct_per_second": round(len({str(p[1:]) for p in pictures}) / took, 1),
        "event_to_pixel_ms": round(sorted(waits)[len(waits) // 2]),
        "event_to_pixel_95_ms": round(sorted(waits)[int(0.95 * len(waits))]),
        "rest_to_play_ms": round(told["played"] - values[-1][0]),
    }, pictures


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--browser", action="store_true", help="drag sliders in a Chromium")
    arguments = options.parse_args()
    if arguments.browser:
        test = ["tests/test_browser.py", "-k", "moving_slider", "-m", "slow", "-qs"]
        raise SystemExit(subprocess.call([sys.executable, "-m", "pytest", *test], cwd=ROOT))
    machine = prepare(arguments.threads)
    from classroom.panels import NoiseExplorer

    panel = NoiseExplorer()
    panel.wait()
    single_moves(panel, 20)  # a warm-up
    moves = summary(single_moves(panel))
    is_last, after = burst(panel)
    result = {
        "move": moves,
        "burst_ends_with_last": is_last,
        "burst_after_ms": 1000 * after,
        "machine": machine,
    }
    rows = [
        ("one move", "{median_ms} ms ({low_ms} to {high_ms})".format(**moves)),
        (f"{MOVES} moves in {SECONDS:g} s", f"end with the last: {is_last}, {1000 * after:.0f} ms after it"),
    ]
    show(result, rows, arguments.json)


if __name__ == "__main__":
    main()
