"""Draw modules, cores, heads, MLP layers and the residual stream on one axis."""

from typing import TYPE_CHECKING

import pandas as pd

from tl_modules.errors import ModulesError, check_at_least
from tl_modules.plots.style import (
    COLOURS,
    GREY,
    MARGINS,
    FigureTemplate,
    graph_objects,
    interval,
    plotly_text,
    styled,
)
from tl_modules.runtime.arguments import checked
from tl_modules.tables.effects_frame import effect_unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_PIXELS_PER_PART = 22
_KINDS = ("module", "core", "head", "mlp", "resid")
_TITLES = ("modules", "cores", "heads", "MLP layers", "residual stream")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")
_VALUES = ("effect", "ci_low", "ci_high", "control_mean", "control_std")
_COLUMNS = ("kind", "label", "category", "n_units", *_VALUES)


@checked
@styled
def plot_components(
    table: pd.DataFrame,
    *,
    category: str | None = None,
    per_unit: bool = False,
    n_shown: int = 8,
    template: FigureTemplate = None,
) -> "Figure":
    """Draw what modules, cores, heads, MLP layers and the residual stream do, on one axis.

    A mark is the effect of ablating or patching one part, with its 95 % interval over prompts. The
    grey bar is the mean of the part's controls and two standard deviations to either side. The
    residual stream has no controls.

    Args:
        table: What ``with_components`` returned.
        category: The category of prompts; by default the table's first.
        per_unit: Divide effects by the numbers per token that the part changes: by its neurons, or
            its dimensions. A part of few neurons then stands beside one of thousands. Effects are
            not additive, so that large parts do less per unit than their units would alone.
        n_shown: The parts of each kind to draw, those with the largest effects.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, the table lacks columns or
            the category, or ``n_shown`` is below 1.

    Example::

        table = tlm.with_components(model, modules, prompts)
        tlm.plots.plot_components(table, category="math", per_unit=True)
    """
    plotly = graph_objects()
    check_at_least("n_shown", n_shown, 1)
    rows, category = _of_category(table, category)
    if per_unit:
        # A module without units has no effect either.
        units = rows["n_units"].astype(float).clip(lower=1)
        rows = rows.assign(**{name: rows[name] / units for name in _VALUES})
    rows = rows.sort_values("effect", ascending=False, kind="stable")
    shown = [rows[rows["kind"] == kind].head(n_shown) for kind in _KINDS]
    parts = pd.concat(shown)
    parts = parts.assign(name=[plotly_text(label) for label in parts["label"]])
    figure = plotly.Figure()
    held = parts.dropna(subset=["control_mean"])
    if len(held):
        figure.add_scatter(
            x=held["control_mean"].tolist(),
            y=held["name"].tolist(),
            error_x={
                "type": "data",
                "array": (2 * held["control_std"]).fillna(0).tolist(),
                "thickness": 3,
                "width": 0,
                "color": GREY,
            },
            mode="markers",
            marker={"color": GREY, "size": 8},
            name="controls (± 2 standard deviations)",
        )
    for kind, title, symbol, colour in zip(_KINDS, _TITLES, _SYMBOLS, COLOURS, strict=False):
        of_kind = parts.loc[parts["kind"] == kind]
        if not len(of_kind):
            continue
        figure.add_scatter(
            x=of_kind["effect"].tolist(),
            y=of_kind["name"].tolist(),
            error_x=interval(of_kind, "effect", "ci_low", "ci_high", width=3, color=colour),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            name=f"{title} ({len(of_kind)} of {(rows['kind'] == kind).sum()})",
            hovertemplate="%{y}: %{x:.3g}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dot"})
    metric = str(rows["metric"].iloc[0]) if "metric" in rows else "loss"
    unit = effect_unit({"metric": metric})
    figure.update_xaxes(title_text=f"effect ({unit}{', per unit changed' if per_unit else ''})")
    names = parts["name"].tolist()
    figure.update_yaxes(
        categoryorder="array", categoryarray=names, autorange="reversed", type="category"
    )
    title = f"Effects on {plotly_text(category)}: the largest of each kind"
    height = MARGINS + _PIXELS_PER_PART * max(len(names), 6)
    return figure.update_layout(title_text=title, width=900, height=height)


def _of_category(table: pd.DataFrame, category: str | None) -> tuple[pd.DataFrame, str]:
    """The rows of a category, and its name."""
    remedy = "Pass what with_components(model, modules, prompts) returned."
    missing = [name for name in _COLUMNS if name not in table]
    if missing or not len(table):
        raise ModulesError(
            f"table should have rows, and the columns {', '.join(_COLUMNS)}; it has {len(table)} "
            f"rows and lacks {missing}. {remedy}"
        )
    strange = sorted(set(table["kind"].map(str)) - set(_KINDS))
    if strange:
        raise ModulesError(f"kind should be one of {', '.join(_KINDS)}; got {strange}. {remedy}")
    categories = list(dict.fromkeys(table["category"].map(str)))
    chosen = categories[0] if category is None else category
    rows = table.loc[table["category"].map(str) == chosen]
    if not len(rows):
        known = ", ".join(map(repr, categories[:9]))
        raise ModulesError(
            f"category should be one of the table's, {known}; got {chosen!r}. Choose one of them."
        )
    if rows["label"].duplicated().any():
        raise ModulesError(
            f"table should hold each label once a category; this repeats some. {remedy}"
        )
    return rows, chosen
