"""Shared parts of the figures: their template, colours, names and ticks that fit."""

import functools
import html
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError, shown
from tl_modules.modules.module import Module, as_list
from tl_modules.modules.shared_set import SHARED
from tl_modules.runtime.arguments import Elsewhere
from tl_modules.tables.text import isolated, shortened, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_Parameters = ParamSpec("_Parameters")

FigureTemplate = Annotated[Any, Elsewhere("the name of a plotly template, or a template")]
"""The type of each figure's ``template``; None is the package's own template."""

INK = "#1b1f24"
"""The colour of text, with a contrast of 16:1 on the white background."""

GREY = "#808080"
"""The colour of marks and lines of reference, visible on white and on black."""

_FAINT = "rgba(128, 128, 128, 0.25)"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#C2629A", "#A87700", "#3A94CF", GREY)
"""Colours of groups: those of Okabe & Ito (2008), which colour-blind readers can distinguish. Pink,
orange and light blue are darker, because marks need a contrast of 3:1 on white and on black."""

DIVERGING = [[0.0, "#2166ac"], [0.5, "#f7f7f7"], [1.0, "#b2182b"]]
"""Blue, white, red: colour-blind readers can distinguish them, and black marks stay visible."""

SEQUENTIAL = [[0.0, "#f7f7f7"], [1.0, "#2166ac"]]
"""A scale from white to blue."""

MARGINS = 180
"""The pixels that plotly leaves above and below an axis, together."""

_PIXELS_PER_NAME = 14
_LONGEST_NAME = 40  # characters


def graph_objects() -> ModuleType:
    """Import ``plotly.graph_objects``, which is an optional dependency and slow to import.

    Raises:
        ModulesError: If plotly is not installed.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise ModulesError("Figures need plotly. Run: pip install plotly") from error
    return graph_objects


def styled(function: "Callable[_Parameters, Figure]") -> "Callable[_Parameters, Figure]":
    """Decorate a function that draws, so that its figure has the template that its caller named.

    The function has a keyword ``template``, which it does not read itself. Text, backgrounds and
    lines of axes are the template's, so that another template replaces them. Colours that mean
    something, sizes and axes that make room for names stay.

    Args:
        function: The function.

    Returns:
        A function that raises ModulesError, before it draws, if plotly is not installed or has no
        such template.
    """

    @functools.wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> "Figure":
        template = _template(kwargs.get("template"))
        figure = function(*args, **kwargs)
        figure.update_xaxes(automargin=True).update_yaxes(automargin=True)
        return figure.update_layout(template=template)

    return call


def _template(chosen: object) -> Any:
    """Return the template that a caller named, or the package's own one.

    Raises:
        ModulesError: If plotly is not installed, or does not know the template.
    """
    if chosen is None:
        return _own_template()
    try:
        return graph_objects().Layout(template=chosen).template
    except ValueError as error:
        raise ModulesError(
            f"template should be the name of a plotly template, or a template; got {shown(chosen)}."
            " print(plotly.io.templates) lists the names: 'simple_white' is one."
        ) from error


def _own_template() -> Any:
    """Return dark text on white, which stays readable in print and on dark pages."""
    own = graph_objects().Layout(template="plotly_white").template
    own.data = {}  # looks of traces that no figure has, ten kilobytes in each
    axes = {"gridcolor": _FAINT, "zerolinecolor": _FAINT, "linecolor": GREY}
    return own.update(
        layout={
            "paper_bgcolor": "#ffffff",
            "plot_bgcolor": "#ffffff",
            "font": {"color": INK},
            "colorway": COLOURS,
            "xaxis": axes,
            "yaxis": axes,
        }
    )


def text_on(colours: Sequence[str]) -> list[str]:
    """Return black or white for text on each colour, whichever has more contrast: at least 4.58:1.

    >>> text_on(["rgb(255, 255, 255)", "rgb(178, 24, 43)"])
    ['#000000', '#ffffff']
    """
    from plotly.colors import unlabel_rgb

    shares = np.array([unlabel_rgb(colour) for colour in colours]).reshape(-1, 3) / 255
    # Relative luminance as the Web Content Accessibility Guidelines define it.
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    # The contrast with black and with white are equal where (L + 0.05)^2 = 1.05 * 0.05.
    return ["#000000" if each > 0.1791 else "#ffffff" for each in luminance]


def band(
    x: Iterable[int | float], low: Iterable[int | float], high: Iterable[int | float]
) -> dict[str, Any]:
    """Return the options of a grey band with an edge, which says where random sets lie.

    Args:
        x: Where the band is, from left to right.
        low: Its lower edge there.
        high: Its upper edge there.
    """
    places = list(x)
    return {
        "x": places + places[::-1],
        "y": [*high, *list(low)[::-1]],
        "fill": "toself",
        "fillcolor": _FAINT,
        "line": {"color": GREY, "width": 1},
        "mode": "lines",
        "showlegend": False,
        "hoverinfo": "skip",
    }


def interval(
    rows: pd.DataFrame, value: str, low: str, high: str, **look: str | int
) -> dict[str, Any]:
    """Return the options of lines from points to the ends of their intervals; none where missing.

    Args:
        rows: One row per point.
        value: The column of the points.
        low: The column of the intervals' lower ends.
        high: The column of the intervals' upper ends.
        **look: How the lines look, such as ``color`` and ``width`` (of the strokes at the ends).
    """
    points, lower, upper = (rows[name].to_numpy(dtype=float) for name in (value, low, high))
    below, above = (np.where(np.isnan(each), 0, each) for each in (points - lower, upper - points))
    lines = {"array": above.tolist(), "arrayminus": below.tolist()}
    return {"type": "data", **lines, "thickness": 1.5, **look}


def rooted_scale() -> list[list[Any]]:
    """Return ``DIVERGING`` over the root of the value, so that small values stay visible."""
    graph_objects()
    from plotly.colors import sample_colorscale

    steps = np.linspace(-1, 1, 21)
    colours = sample_colorscale(DIVERGING, (0.5 + 0.5 * steps).tolist())
    places = 0.5 + 0.5 * steps * np.abs(steps)  # the inverse of the signed root
    return [list(stop) for stop in zip(places.tolist(), colours, strict=True)]


def module_name(module: Module) -> str:
    """Return a module's number followed by its title."""
    title = module.title
    return str(module.label) if title is None else f"{module.label}: {plotly_text(title)}"


def names_of(
    labels: Sequence[int | str],
    modules: Iterable[Module] | None,
    shared: Collection[int | str] = (),
) -> list[str]:
    """Return the names of the modules and other targets of a table.

    Args:
        labels: The modules' numbers, and the names of other targets.
        modules: The modules, if they are known.
        shared: The labels of modules that are shared by all, which is then their name if no user
            gave them one.

    Raises:
        ModulesError: If a module of the table is not among ``modules``.
    """
    named = [] if modules is None else as_list(modules)
    known: dict[int | str, str] = {module.label: module_name(module) for module in named}
    numbers = [label for label in labels if not isinstance(label, str)]
    missing = [] if modules is None else [label for label in numbers if label not in known]
    if missing:
        raise ModulesError(
            f"modules should hold the table's modules; {missing} are missing. Pass the module set "
            "that module_effects got."
        )
    given = {module.label for module in named if module.given_name is not None}
    known |= {
        label: f"{label}: {SHARED}"
        for label in shared
        if not isinstance(label, str) and label not in given
    }
    return [known.get(label, plotly_text(str(label))) for label in labels]


def plotly_text(untrusted: str) -> str:
    """Shorten and escape a name from outside, because plotly interprets some HTML."""
    return isolated(html.escape(shortened(visible(untrusted), _LONGEST_NAME)))


def wrapped(untrusted: str, width: int = 60, n_lines: int = 4) -> str:
    """Wrap, cut and escape a text from outside for a figure's hover box."""
    # Twice as many characters as fit bounds the work on a huge prompt.
    start = visible(untrusted[: 2 * width * n_lines])
    lines = textwrap.wrap(start, width, max_lines=n_lines, placeholder=" …")
    return "<br>".join(map(html.escape, lines))


def height_for(n_rows: int) -> int:
    """Return the height in pixels for a number of rows."""
    return min(max(24 * n_rows, 240), 1100)


def ticks(
    names: Sequence[str],
    places: Sequence[int] | Sequence[float],
    length: float | int,
    pixels: int,
) -> dict[str, Any]:
    """Choose an axis' ticks: each name that does not overlap the previous one.

    Args:
        names: The names to show.
        places: The position of each name, in ascending order.
        length: The axis' length in the unit of ``places``.
        pixels: The axis' length in pixels.

    >>> ticks(["a", "b", "c", "d"], [0, 1, 2, 3], length=4, pixels=30)
    {'tickvals': [0, 2], 'ticktext': ['a', 'c']}
    """
    room = _PIXELS_PER_NAME * length / pixels
    kept: list[int] = []
    for number, place in enumerate(places):
        if not kept or place - places[kept[-1]] >= room:
            kept.append(number)
    return {"tickvals": [places[k] for k in kept], "ticktext": [names[k] for k in kept]}
