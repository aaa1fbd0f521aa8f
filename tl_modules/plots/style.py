"""What the figures share: names, ticks that fit, text that reads on white and on black."""

import html
import textwrap
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_modules.errors import ModulesError
from tl_modules.modules.module_set import Module, as_list
from tl_modules.tables.text import isolated, shortened, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Contrast of 3.9:1 on white and 5.3:1 on black.
_GREY = "#808080"
_FAINT = "rgba(128, 128, 128, 0.25)"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
"""Of groups: readable on white and on black, and by colour-blind readers (Okabe & Ito 2008)."""

DIVERGING = [[0.0, "#2166ac"], [0.5, "#f7f7f7"], [1.0, "#b2182b"]]
"""Blue, white, red: told apart by colour-blind readers, and light enough for black marks."""

SEQUENTIAL = [[0.0, "#f7f7f7"], [1.0, "#2166ac"]]
"""White to blue."""

MARGINS = 180
"""Pixels that plotly leaves above and below an axis, together."""

_PIXELS_A_NAME = 14
_LONGEST_NAME = 32


def graph_objects() -> ModuleType:
    """``plotly.graph_objects``: an extra, and slow to import.

    Raises:
        ModulesError: If plotly is not installed.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise ModulesError("Figures need plotly. Run: pip install plotly") from error
    return graph_objects


def readable(figure: "Figure") -> "Figure":
    """The figure with no background of its own and grey text, for light and dark pages."""
    axes = {"gridcolor": _FAINT, "zerolinecolor": _FAINT, "linecolor": _GREY, "automargin": True}
    figure.update_xaxes(axes).update_yaxes(axes)
    return figure.update_layout(
        paper_bgcolor="rgba(0, 0, 0, 0)", plot_bgcolor="rgba(0, 0, 0, 0)", font={"color": _GREY}
    )


def rooted_scale() -> list[list[Any]]:
    """``DIVERGING`` with strength as the root of the value: one large cell leaves others colour."""
    graph_objects()
    from plotly.colors import sample_colorscale

    steps = np.linspace(-1, 1, 21)
    colours = sample_colorscale(DIVERGING, (0.5 + 0.5 * steps).tolist())
    places = 0.5 + 0.5 * steps * np.abs(steps)
    return [list(stop) for stop in zip(places.tolist(), colours, strict=True)]


def module_name(module: Module) -> str:
    """A module's number and its topic's label, or else its category."""
    said = module_title(module)
    return str(module.label) if said is None else f"{module.label}: {text(said)}"


def names_of(labels: Sequence[int | str], modules: Iterable[Module] | None) -> list[str]:
    """What the modules and other targets of a table are called.

    Raises:
        ModulesError: If a module of the table is not among ``modules``.
    """
    named = [] if modules is None else as_list(modules)
    known: dict[int | str, str] = {module.label: module_name(module) for module in named}
    numbers = [label for label in labels if not isinstance(label, str)]
    missing = [] if modules is None else [label for label in numbers if label not in known]
    if missing:
        raise ModulesError(
            f"modules should hold those of the table; {missing} are missing. Pass the set that "
            "module_effects was given."
        )
    return [known.get(label, text(str(label))) for label in labels]


def module_title(module: Module) -> str | None:
    """What a module is called beside its number: its topic's label, or else its category."""
    return module.category_title if module.topic is None else module.topic.label


def text(said: str) -> str:
    """A name from outside for plotly, which reads some HTML: shortened, and only text."""
    return isolated(html.escape(shortened(visible(said), _LONGEST_NAME)))


def wrapped(said: str, width: int = 60, n_lines: int = 4) -> str:
    """A text from outside for a figure's hover box: some lines of it, and only text."""
    said = visible(said[: 2 * width * n_lines])
    lines = textwrap.wrap(said, width, max_lines=n_lines, placeholder=" …")
    return "<br>".join(map(html.escape, lines))


def height_for(n_rows: int) -> int:
    """How many pixels so many rows get."""
    return min(max(24 * n_rows, 240), 1100)


def ticks(
    names: Sequence[str],
    places: Sequence[int] | Sequence[float],
    length: float | int,
    pixels: int,
) -> dict[str, Any]:
    """An axis' ticks: the names that do not overlap the last one shown.

    Args:
        names: What to show.
        places: Where, rising.
        length: The axis' length in the places' unit.
        pixels: The same in pixels.

    >>> ticks(["a", "b", "c", "d"], [0, 1, 2, 3], length=4, pixels=30)
    {'tickvals': [0, 2], 'ticktext': ['a', 'c']}
    """
    room = _PIXELS_A_NAME * length / pixels
    kept: list[int] = []
    for number, place in enumerate(places):
        if not kept or place - places[kept[-1]] >= room:
            kept.append(number)
    return {"tickvals": [places[k] for k in kept], "ticktext": [names[k] for k in kept]}
