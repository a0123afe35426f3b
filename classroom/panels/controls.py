"""The controls that the panels of digits are put together from."""

from __future__ import annotations

import random
from pathlib import Path

import ipywidgets as w

from classroom.panels.panel import caption
from lessons_lib.pipeline import Model
from lessons_lib.weights import WeightsError, read_card

STEPS = (1, 2, 3, 4, 5, 8, 10, 15, 20, 25, 35, 50, 75, 100)
LARGEST_SEED = 2**31 - 1
WIDE, NARROW = {"width": "100%", "max_width": "440px"}, {"width": "230px"}
ROOM = {"margin": "8px 0 0 2px"}
STYLE = {"description_width": "110px"}


def control(kind: type, **settings) -> w.Widget:
    """A control in the panels' common shape; the model runs when a slider is let go, not while it moves."""
    if "continuous_update" in kind.class_trait_names():
        settings.setdefault("continuous_update", False)
    # Without a tooltip of its own a slider's label shows "null" when the mouse rests on it.
    settings.setdefault("tooltip", settings["description"])
    return kind(**{"layout": WIDE, "style": STYLE} | settings)


def common_controls(
    digit: int, guidance_scale: float, seed: int, max_scale: float = 8, scale_step: float = 0.25
) -> tuple[w.Widget, w.Widget, w.Widget]:
    """The sliders for digit and guidance scale, and the seed."""
    scale = {"value": guidance_scale, "min": 0, "max": max_scale, "step": scale_step}
    return (
        control(w.IntSlider, value=digit, min=0, max=9, description="Target digit"),
        control(w.FloatSlider, **scale, description="Guidance scale"),
        control(w.BoundedIntText, value=seed, min=0, max=LARGEST_SEED, description="Seed", layout=NARROW),
    )


def new_seed_button(seed: w.Widget) -> w.Button:
    """A button that sets another seed."""
    button = w.Button(description="New seed", tooltip="Other noise", layout={"width": "100px"})
    button.on_click(lambda _: setattr(seed, "value", random.randint(0, 9999)))
    return button


def steps_control(steps: int, num_timesteps: int) -> w.SelectionSlider:
    """The slider for the number of steps; sensible values only."""
    options = sorted({n for n in STEPS if n <= num_timesteps} | {steps})
    return control(w.SelectionSlider, options=options, value=steps, description="Steps")


def replay_slider() -> w.IntSlider:
    """The scrubber over the steps of a drawing; its range is set with the drawing."""
    layout, style = {"width": "300px", "margin": "2px 0"}, {"description_width": "50px"}
    return w.IntSlider(
        0, min=0, max=1, description="Replay", tooltip="Replay", readout=False, layout=layout, style=style
    )


def gif_controls(tooltip: str) -> tuple[w.Button, w.HTML, w.HTML]:
    """The button that saves a GIF, the line that says where it is, and the place where it is shown."""
    saved = caption("")
    saved.layout.margin = "0 0 0 8px"
    return w.Button(description="Save GIF", tooltip=tooltip), saved, w.HTML(layout={"display": "none"} | ROOM)


def card_defaults(source: str | Path | Model) -> tuple[dict, int]:
    """Sampler and steps that suit these weights, and their T; plain ones where no card says it."""
    plain = {"sampler": "ddim", "steps": 25}
    if isinstance(source, tuple):
        num_timesteps = source[1].num_timesteps
        return plain | {"steps": min(25, num_timesteps)}, num_timesteps
    try:
        card = read_card(source)
    except WeightsError:  # the first drawing will say so in the panel
        return plain, 1000
    return plain | card.get("defaults", {}), (card["schedule"] or {}).get("num_timesteps", 1000)
