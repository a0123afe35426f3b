"""The drawing of a U-Net with its shapes, for any config."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from classroom.figures.basics import PAGE, ink
from classroom.figures.curves import BLUE, GREEN, GREY, ORANGE, canvas

BOX_WIDTH, BOX_HEIGHT = 2.3, 0.66
LEFT, RIGHT = 1.55, 7.3  # where the way down and the way up stand at full resolution
STEP_Y = 1.15  # each level stands further down …
NARROWER = 1.1  # … and further in: the last one by so much


class Stage(NamedTuple):
    """A part of the U-Net and the shape of what it hands on.

    Args:
        side: "down", "middle" or "up".
        level: 0 is full resolution.
        blocks: residual blocks in it.
        attention: whether self-attention follows them.
        channels, size: of its output, before it is halved or doubled for the next level.
    """

    side: str
    level: int
    blocks: int
    attention: bool
    channels: int
    size: int


def unet_stages(config) -> list[Stage]:
    """The levels of the way down, the middle, the levels of the way up, in the order of the computation.

    Args:
        config: a UNetConfig.
    """
    widths = [config.base_channels * mult for mult in config.channel_mults]

    def stage(side: str, level: int) -> Stage:
        middle = side == "middle"
        blocks = 2 if middle else config.blocks_per_level
        attention = middle or level in config.attention_levels
        return Stage(side, level, blocks, attention, widths[level], config.image_size >> level)

    levels = range(len(widths))
    down = [stage("down", level) for level in levels]
    up = [stage("up", level) for level in reversed(levels)]
    return [*down, stage("middle", levels[-1]), *up]


def draw_unet(config, title: str = ""):
    """Draw a U-Net: its parts, the shapes C × H × W that they hand on, the skips, where t and y come in.

    Args:
        config: a UNetConfig.

    Returns:
        a matplotlib figure.
    """
    stages, levels = unet_stages(config), len(config.channel_mults)
    bottom = levels * STEP_Y
    fig = canvas(PAGE, 0.76 * (bottom + 2.1))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(-1.0, 10.6), ylim=(-bottom - 0.5, 1.75))
    ax.axis("off")
    ax.text(4.6, 1.55, title, ha="center", va="top", fontsize=11)
    step_x = NARROWER / max(levels - 1, 1)
    places = {(s.side, s.level): _place(s, step_x, bottom) for s in stages}
    for one in stages:
        _draw_stage(ax, one, places[one.side, one.level])
    for one, after in itertools.pairwise(stages):
        _draw_way(ax, places[one.side, one.level], places[after.side, after.level], one, after)
    for level in range(levels):
        down, up = places["down", level], places["up", level]
        ends = (down[0] + BOX_WIDTH / 2, down[1]), (up[0] - BOX_WIDTH / 2, up[1])
        _arrow(ax, *ends, GREY, dashed=True)
        word = "skip" if config.blocks_per_level == 1 else f"{config.blocks_per_level} skips"
        ax.text(sum(x for x, _ in ends) / 2, down[1] + 0.05, word, color=GREY, fontsize=7.5, ha="center")
    _draw_ends(ax, config, places)
    return fig


def _place(stage: Stage, step_x: float, bottom: float) -> tuple[float, float]:
    """The centre of a stage's box."""
    if stage.side == "middle":
        return (LEFT + RIGHT) / 2, -bottom
    x = LEFT + stage.level * step_x if stage.side == "down" else RIGHT - stage.level * step_x
    return x, -stage.level * STEP_Y


def _draw_stage(ax, stage: Stage, place: tuple[float, float]) -> None:
    if stage.side == "middle":
        words = "block, attention,\nblock"
    else:
        words = "residual block" if stage.blocks == 1 else f"{stage.blocks} residual blocks"
        words += ",\nattention" if stage.attention else ""
    shape = f"{stage.channels} × {stage.size} × {stage.size}"
    _box(ax, place, f"{words}\n{shape}", GREEN if stage.attention else BLUE)
    name = stage.side if stage.side == "middle" else f"{stage.side} {stage.level + 1}"
    outside = -1 if stage.side == "down" else 1
    side = place[0] + outside * (BOX_WIDTH / 2 + 0.08)
    _words(ax, side, place[1], name, ha="right" if outside < 0 else "left", color=GREY)
    # The embedding of t and y comes into every residual block.
    ax.plot(place[0] - BOX_WIDTH / 2 + 0.14, place[1] + BOX_HEIGHT / 2, "o", color=ORANGE, ms=6, zorder=3)


def _box(ax, place: tuple[float, float], text: str, colour: str, width: float = BOX_WIDTH) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = place[0] - width / 2, place[1] - BOX_HEIGHT / 2
    style = "round,pad=0,rounding_size=0.08"
    ax.add_patch(FancyBboxPatch(corner, width, BOX_HEIGHT, boxstyle=style, fc=colour + "22", ec=colour))
    ax.text(*place, text, ha="center", va="center", fontsize=8)


def _words(ax, x: float, y: float, text: str, **look) -> None:
    ax.text(x, y, text, **({"fontsize": 7.5, "va": "center"} | look))


def _arrow(ax, start, end, colour: str = "k", dashed: bool = False) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 1, "shrinkB": 1, "mutation_scale": 9}
    ax.annotate("", end, start, arrowprops=style | ({"linestyle": "--"} if dashed else {}))


def _draw_way(ax, here, there, one: Stage, after: Stage) -> None:
    """The arrow from one stage to the next, with what happens to the resolution."""
    if "middle" in (one.side, after.side):  # the same resolution: round the corner
        side = 1 if after.side == "middle" else -1
        middle, outer = (there, here) if after.side == "middle" else (here, there)
        start = (outer[0], outer[1] - BOX_HEIGHT / 2)
        end = (middle[0] - side * BOX_WIDTH / 2, middle[1])
        _arrow(ax, *((start, end) if after.side == "middle" else (end, start)))
        return
    word = "halve" if after.size < one.size else "double"
    start_y, end_y = (-1, 1) if word == "halve" else (1, -1)
    x = (here[0] + there[0]) / 2
    _arrow(ax, (x, here[1] + start_y * BOX_HEIGHT / 2), (x, there[1] + end_y * BOX_HEIGHT / 2))
    offset, side = (-0.1, "right") if word == "halve" else (0.1, "left")
    _words(ax, x + offset, (here[1] + there[1]) / 2, word, ha=side)


def _draw_ends(ax, config, places) -> None:
    """The input and the output, and the embedding of t and y."""
    shape = f"{config.in_channels} × {config.image_size} × {config.image_size}"
    (first_x, top), (last_x, _) = places["down", 0], places["up", 0]
    _box(ax, (0.0, 0.95), f"noisy image $x_t$\n{shape}", GREY, width=1.75)
    _box(ax, (RIGHT + 2.0, 0.95), f"guess $\\hat{{\\epsilon}}$\n{shape}", GREY, width=1.75)
    y = 0.95 - BOX_HEIGHT / 2
    _arrow(ax, (0.0, y), (first_x - 0.45, top + BOX_HEIGHT / 2))
    _words(ax, 0.1, 0.47, "3×3 conv", ha="right")
    _arrow(ax, (last_x + 0.45, top + BOX_HEIGHT / 2), (RIGHT + 2.0, y))
    _words(ax, RIGHT + 1.65, 0.47, "norm, 3×3 conv")
    told = "t and label y" if config.num_classes else "t"
    _box(ax, (4.45, 0.95), f"{told}  →  embedding\n{config.embedding_channels} numbers", ORANGE, width=3.3)
    ax.plot(4.45 - 2.5, 0.95, "o", color=ORANGE, ms=6)
    ax.annotate("", (4.45 - 1.65, 0.95), (4.45 - 2.45, 0.95), arrowprops={"arrowstyle": "-", "color": ORANGE})
    look = {"ha": "center", "va": "bottom", "color": ink(ORANGE)}
    _words(ax, 4.45 - 2.5, 1.13, "into every\nresidual block", **look)
