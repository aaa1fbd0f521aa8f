"""Draw how active modules are along a long text."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import ModulesError
from tl_modules.modules.module import Module
from tl_modules.plots.style import (
    DIVERGING,
    INK,
    MARGINS,
    FigureTemplate,
    graph_objects,
    height_for,
    plotly_text,
    styled,
    ticks,
    wrapped,
)
from tl_modules.plots.tokens import names_shown
from tl_modules.runtime.arguments import checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_WIDEST = 3
"""The largest power of two that may have a colour: 8 times a module's average, or an 8th."""


@checked
@styled
def plot_along_text(
    values: pd.DataFrame,
    modules: Module | Iterable[Module] | None = None,
    *,
    sections: Mapping[str, int] | None = None,
    prompt: int = 0,
    template: FigureTemplate = None,
) -> "Figure":
    """Draw how active modules are along a text, one row per module.

    Red is above the module's average activity, blue below it, on a scale of doublings. The scale
    ends at 2, 4 or 8 times the average, as far as the values need it. Special tokens and the text's
    first token, outliers in every text, are left out. Pointing at a place shows its value and text.

    Args:
        values: The table that ``token_values`` returned. With ``aggregate_over=`` a column is a
            window of tokens, as a text of thousands of tokens needs.
        modules: The modules to show with their names: a ``ModuleSet``, several modules, or one
            module. Without it, all modules of the table are shown with their numbers.
        sections: The position at which each section of the text begins, by the section's name, to
            draw borders.
        prompt: The number of the prompt to draw.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, the table has another index,
            or lacks the prompt or a module, or a section begins outside of the text.
    """
    plotly = graph_objects()
    names = names_shown(values, modules)
    rows = _rows_of(values, prompt)
    starts = rows.index.to_numpy()
    width = int(np.diff(starts).max()) if len(starts) > 1 else 1
    # Special tokens are outliers in every text.
    is_special = rows["special"].to_numpy(dtype=bool)
    activity = np.where(is_special, np.nan, rows[list(names)].to_numpy(dtype=float).T)
    doublings = _doublings(activity)
    reach = max(1, int(np.ceil(np.nan_to_num(np.abs(doublings)).max())))
    texts = [wrapped(text) for text in rows["token"]]
    figure = plotly.Figure(
        plotly.Heatmap(
            z=doublings,
            x=[*starts.tolist(), int(starts[-1]) + width],  # the edges of the windows
            y=list(range(len(names))),
            zmin=-reach,
            zmax=reach,
            colorscale=DIVERGING,
            customdata=[
                [[value, text] for value, text in zip(line, texts, strict=True)]
                for line in activity.tolist()
            ],
            hovertemplate=(
                "%{customdata[0]:.2f} times its average<br>%{customdata[1]}<extra></extra>"
            ),
            colorbar={
                "title": {"text": "times the<br>average"},
                "tickvals": list(range(-reach, reach + 1)),
                "ticktext": [*(f"1/{2**n}" for n in range(reach, 0, -1)), "1"]
                + [str(2**n) for n in range(1, reach + 1)],
            },
        )
    )
    _add_sections(figure, sections or {}, int(starts[0]), int(starts[-1]) + width)
    height = height_for(len(names))
    at = ", at each token" if width == 1 else f", at windows of {width:,} tokens"
    figure.update_xaxes(title_text="position in the text (tokens)", showgrid=False)
    figure.update_yaxes(
        title_text="module",
        autorange="reversed",
        showgrid=False,
        **ticks(list(names.values()), list(range(len(names))), len(names), height),
    )
    return figure.update_layout(
        # The width of a single window is not in the table.
        title_text=f"Activity of modules along a text{at if len(starts) > 1 else ''}",
        width=1000,
        height=height + MARGINS,
    )


def _rows_of(values: pd.DataFrame, prompt: int) -> pd.DataFrame:
    """The rows of one prompt.

    Raises:
        ModulesError: If the table lacks the prompt.
    """
    prompts = values.index.get_level_values("prompt").unique().tolist()
    if prompt not in prompts:
        raise ModulesError(
            f"prompt should be one of the table's {len(prompts)} prompts, from 0; got {prompt}. "
            "values.index lists them."
        )
    return values.xs(prompt, level="prompt")


def _doublings(
    activity: Float[np.ndarray, "modules windows"],
) -> Float[np.ndarray, "modules windows"]:
    """The power of two of each value, as far as the colours reach; NaN where there is none."""
    most = 2.0**_WIDEST
    return np.log2(np.clip(activity, 1 / most, most))


def _add_sections(figure: "Figure", sections: Mapping[str, int], first: int, end: int) -> None:
    """Draw where sections begin, with their names above.

    Raises:
        ModulesError: If a section begins outside of the text.
    """
    for name, start in sections.items():
        if not first <= start < end:
            raise ModulesError(
                f"sections should begin inside the text, from position {first} to {end - 1}; "
                f"{name!r} begins at {start}. Count the tokens of the text before it."
            )
        figure.add_vline(x=start, line={"color": INK, "width": 1})  # pyright: ignore
        figure.add_annotation(
            x=start,
            y=1,
            yref="paper",
            yanchor="bottom",
            xanchor="left",
            text=plotly_text(name),
            textangle=-30,
            showarrow=False,
        )
