"""How fast does the picture follow the slider of lesson 01, and does it end where the slider ends?

    python -m benchmarks.slider [--threads 2] [--json]

One move at a time, from the new value to the new picture; then 100 moves in two seconds, as a hand makes
them, and how long after the last move its picture is there. Without the way to the browser and back.
"""

from __future__ import annotations

import time

from benchmarks import parser, prepare, show, summary

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


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__).parse_args()
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
