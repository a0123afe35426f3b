"""The controls that panels are put together from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as w

from lessons_lib.flow_map import FlowMap
from lessons_lib.pipeline import Model
from lessons_lib.schedules import spaced_timesteps
from lessons_lib.weights import WeightsError, read_card

STEPS = (1, 2, 3, 4, 5, 8, 10, 15, 20, 25, 35, 50, 75, 100)
LARGEST_SEED = 2**31 - 1


def control(kind: type, description: str, value, live: bool = False, **settings) -> w.Widget:
    """A control in the panels' common shape; unless live, heard when it is let go, not while it moves."""
    if "continuous_update" in kind.class_trait_names():
        settings["continuous_update"] = live
    # Without a tooltip of its own a slider's label shows "null" when the mouse rests on it.
    settings = {
        "tooltip": description,
        "layout": {"width": "100%"},
        "style": {"description_width": "100%"},
    } | settings
    return kind(value=value, description=description, **settings)


def digit_slider(digit: int) -> w.IntSlider:
    """The target digit, 0 … 9."""
    return control(w.IntSlider, "Target digit", digit, min=0, max=9)


def scale_slider(scale: float, most: float = 8.0, step: float = 0.25) -> w.FloatSlider:
    """The guidance scale, 0 … most."""
    return control(w.FloatSlider, "Guidance scale", scale, min=0, max=max(most, scale), step=step)


def steps_slider(steps: int, num_timesteps: int, description: str = "Steps") -> w.SelectionSlider:
    """The number of steps; sensible values only."""
    options = sorted({n for n in STEPS if n <= num_timesteps} | {steps})
    return control(w.SelectionSlider, description, steps, options=options)


def dropdown(description: str, options: Sequence, value) -> w.Dropdown:
    """A choice of one of several; options are values, or (name, value)."""
    return control(w.Dropdown, description, value, options=options)


def toggle(description: str, options: Sequence, value) -> w.ToggleButtons:
    """A choice of two or three."""
    buttons = control(w.ToggleButtons, description, value, options=options)
    buttons.add_class("widget-inline-hbox")
    return buttons


def seed_box(seed: int) -> w.BoundedIntText:
    """The seed of all noise."""
    return control(w.BoundedIntText, "Seed", seed, min=0, max=LARGEST_SEED)


def button(description: str, tooltip: str, press, icon: str = "") -> w.Button:
    """A button that calls press()."""
    made = w.Button(description=description, tooltip=tooltip, icon=icon, layout={"width": "auto"})
    made.on_click(lambda _: press())
    return made


def new_seed_button(seed: w.BoundedIntText) -> w.Button:
    """A button that sets another seed."""
    return button(
        "Another noise",
        "Start from other noise",
        lambda: setattr(seed, "value", random.randint(0, 9999)),
        "random",
    )


def depth_slider(num_timesteps: int, num_steps: int) -> w.SelectionSlider:
    """How far back images are taken: tenths of the way on which there is a step to take, and the top."""
    top, lowest = num_timesteps - 1, int(spaced_timesteps(num_timesteps, num_steps)[-1])
    options = sorted({top, *(t for k in range(1, 10) if (t := round(num_timesteps * k / 10)) >= lowest)})
    return control(w.SelectionSlider, "Depth t₀", top, options=options)


def names_on(card: dict) -> tuple[str, ...]:
    """The names of what these weights draw or read; numbers where their card names nothing."""
    return tuple(card.get("class_names") or map(str, range(card["config"]["num_classes"])))


def names_of(weights: str | Path) -> tuple[str, ...]:
    """The names on the card of these weights; none without one: the first drawing will say so."""
    try:
        return names_on(read_card(weights))
    except WeightsError:
        return ()


def card_defaults(source: str | Path | Model) -> tuple[dict, int]:
    """Sampler (a flow map has none) and steps that suit these weights, and their T; else plain ones."""
    plain, flow_map = {"sampler": "ddim", "steps": 25}, {"sampler": None, "steps": 1}
    if isinstance(source, tuple):
        num_timesteps = source[1].num_timesteps
        own = flow_map if isinstance(source[0], FlowMap) else {"steps": min(25, num_timesteps)}
        return plain | own, num_timesteps
    try:
        card = read_card(source)
    except WeightsError:  # the first drawing will say so in the panel
        return plain, 1000
    own = card.get("defaults", {}) | (flow_map if card["architecture"] == "FlowMap" else {})
    return plain | own, (card["schedule"] or {}).get("num_timesteps", 1000)
