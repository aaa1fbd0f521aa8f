"""Draw each module's selectivity beside its controls, with its verdict."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

import pandas as pd

from tl_modules.modules.module import Module
from tl_modules.plots.style import COLOURS, MARGINS, graph_objects, names_of, readable, wrapped
from tl_modules.runtime.arguments import checked
from tl_modules.tables.effects_frame import SIGNIFICANT, effect_unit, split_runs
from tl_modules.tables.verdicts import Verdict, verdicts

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_GREY = COLOURS[-1]
_PIXELS_PER_MODULE = 34
_LOOKS = dict(
    zip(
        get_args(Verdict),
        zip(COLOURS, ("diamond", "square", "circle-open", "triangle-up-open", "x"), strict=False),
        strict=True,
    )
)
"""Each verdict's colour and mark."""


@checked
def plot_selectivity(
    effects: pd.DataFrame,
    *,
    modules: Iterable[Module] | None = None,
    level: float = SIGNIFICANT,
) -> "Figure":
    """Draw how selective each module is, beside its controls, and what that amounts to.

    A mark is the module's selectivity, with its 95 % interval over prompts. Colour and shape are
    the module's verdict (see ``tlm.verdicts``). The grey bar is the mean of the controls'
    selectivity and two standard deviations to either side; the grey tick is the largest. The title
    says the verdict on all modules.

    Args:
        effects: What ``module_effects`` returned.
        modules: The modules, which name the rows.
        level: The largest corrected p-value of a selective module.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed, or as in ``tlm.verdicts``.

    Example::

        effects = tlm.module_effects(model, modules, prompts)
        tlm.plots.plot_selectivity(effects, modules=modules)
    """
    plotly = graph_objects()
    table = verdicts(effects, level=level)
    sentence = str(table.attrs["sentence"])
    table = table.dropna(subset=["selectivity"])
    names = names_of(table["module"].tolist(), modules)
    table = table.assign(name=names)
    figure = plotly.Figure()
    controls = table.dropna(subset=["control_mean"])
    if len(controls):
        figure.add_scatter(
            x=controls["control_mean"].tolist(),
            y=controls["name"].tolist(),
            error_x={
                "type": "data",
                "array": (2 * controls["control_std"]).fillna(0).tolist(),
                "thickness": 9,
                "width": 0,
                "color": "rgba(128, 128, 128, 0.35)",
            },
            mode="markers",
            marker={"color": _GREY, "size": 5},
            name="controls (± 2 standard deviations)",
        )
        tick = {"symbol": "line-ns", "size": 14, "line": {"color": _GREY, "width": 2}}
        figure.add_scatter(
            x=controls["control_max"].tolist(),
            y=controls["name"].tolist(),
            mode="markers",
            marker=tick,
            name="largest control",
        )
    for verdict, rows in table.groupby("verdict", sort=False):
        colour, symbol = _LOOKS[str(verdict)]
        figure.add_scatter(
            x=rows["selectivity"].tolist(),
            y=rows["name"].tolist(),
            error_x={
                "type": "data",
                "array": (rows["ci_high"] - rows["selectivity"]).fillna(0).tolist(),
                "arrayminus": (rows["selectivity"] - rows["ci_low"]).fillna(0).tolist(),
                "thickness": 1.5,
                "width": 4,
                "color": colour,
            },
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 12, "line": {"width": 2}},
            name=str(verdict),
            hovertext=[wrapped(line) for line in rows["line"]],
            hoverinfo="text",
        )
    figure.add_vline(x=0, line={"color": _GREY, "width": 1, "dash": "dot"})
    unit = effect_unit(split_runs(effects)[0][0])
    figure.update_xaxes(title_text=f"selectivity ({unit})")
    figure.update_yaxes(
        categoryorder="array", categoryarray=names, autorange="reversed", type="category"
    )
    title = wrapped(sentence, width=90)
    height = MARGINS + _PIXELS_PER_MODULE * max(len(names), 3)
    return readable(figure).update_layout(title_text=title, width=900, height=height)
