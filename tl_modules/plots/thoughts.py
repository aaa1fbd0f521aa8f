"""Draw chains of thought as lines in the plane, between the choices that they could end at."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from tl_modules.errors import ModulesError, check_seed
from tl_modules.interpret.landscape import Projection, in_plane
from tl_modules.modules.module import Module
from tl_modules.plots.landscape import axis_title
from tl_modules.plots.style import (
    COLOURS,
    GREY,
    FigureTemplate,
    graph_objects,
    names_of,
    plotly_text,
    styled,
    wrapped,
)
from tl_modules.runtime.arguments import checked
from tl_modules.thoughts.thoughts import Thoughts, names_of_columns

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_ENDINGS = {True: ("ends nearest to the answer", "solid"), False: ("ends elsewhere", "dot")}
Coordinates = Literal["distances", "modules"]
_BY: dict[Coordinates, str] = {
    "distances": "their distance from each choice",
    "modules": "how active each module is in each thought",
}
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up")
"""Symbols of modules, to tell modules of the same colour apart."""
_SHARES = {
    "share_correct": "nearest to the answer",
    "share_consistent": "nearest to the choice at the chain's end",
}


@checked
@styled
def plot_thoughts(
    thoughts: Thoughts,
    *,
    by: Coordinates = "distances",
    projection: Projection = "pca",
    modules: Iterable[Module] | None = None,
    seed: int = 0,
    template: FigureTemplate = None,
) -> "Figure":
    """Draw chains of thought as lines, to see when chains decide and which modules are active.

    The left panel shows the states in the plane, from the question alone to the last thought. A
    state's vector holds its distances to the choices, or the modules' activations. With distances,
    the panel also shows the choices (a star is the correct one).

    The right panel shows means over the steps. Without ``modules`` it shows the share of chains
    nearest to the answer, the share already nearest to their final choice, and the uncertainty
    divided by its value for equal distances. With ``modules`` it shows each module's activation:
    lines for chains that end nearest to the answer, dots for the others. Later steps average over
    fewer chains, because not all chains have as many thoughts.

    Args:
        thoughts: The states that ``thought_states`` returned.
        by: The content of a state's vector: ``"distances"`` to the choices, or activations of
            ``"modules"``.
        projection: ``"pca"`` takes the two directions of most variance and writes their shares of
            the variance on the axes. ``"tsne"`` (the paper's) keeps neighbourhoods; distances
            between them mean nothing.
        modules: The modules that the states were read with, to draw on the right.
        seed: Seeds t-SNE.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, ``by`` or ``projection`` is
            unknown, ``by`` is ``"modules"`` and the states were read with fewer than two modules,
            or the number of ``modules`` differs from that of the states.
    """
    plotly = graph_objects()
    check_seed(seed)
    named = None if modules is None else list(modules)
    if named is not None and len(named) != thoughts.n_modules:
        raise ModulesError(
            f"modules should be the {thoughts.n_modules} modules that the states were read with; "
            f"got {len(named)}. Pass the modules that thought_states got."
        )
    places, explained = in_plane(_vectors(thoughts, by), projection, seed)
    n_states = len(thoughts.states)
    states = thoughts.states.assign(x=places[:n_states, 0], y=places[:n_states, 1])
    ending = thoughts.chains()["is_correct"].to_numpy()[thoughts.of_chain]
    figure = plotly.Figure()
    for correct, colour in ((True, COLOURS[0]), (False, COLOURS[1])):
        _add_chains(figure, states.loc[ending == correct], _ENDINGS[correct][0], colour)
    if by == "distances":
        _add_landmarks(figure, places[n_states:])
    if named is None:
        y_title = _add_measures(figure, thoughts)
    else:
        labels = [module.label for module in named]
        y_title = _add_modules(figure, states, ending, names_of(labels, named))
    n_chains = len(thoughts.chains())
    figure.update_layout(
        title_text=f"{n_chains:,} chains of thought by {_BY[by]}",
        xaxis={"domain": [0.0, 0.56], "title_text": axis_title(explained, 0)},
        yaxis={"title_text": axis_title(explained, 1)},
        legend={"orientation": "h", "y": -0.18},
        width=1100,
        height=620,
    )
    return figure.update_layout(
        xaxis2={"domain": [0.66, 1.0], "title_text": "thoughts so far", "anchor": "y2"},
        yaxis2={"title_text": y_title, "anchor": "x2"},
    )


def _vectors(thoughts: Thoughts, by: Coordinates) -> Float[np.ndarray, "places features"]:
    """Return the states' vectors, followed by the choices' vectors if ``by`` is distances."""
    if by == "distances":
        return np.concatenate([thoughts.features, thoughts.landmarks])
    if thoughts.n_modules < 2:
        raise ModulesError(
            f"by='modules' needs states that were read with at least two modules; these were read "
            f"with {thoughts.n_modules}. Call thought_states with modules=..., or use "
            "by='distances'."
        )
    return thoughts.states[names_of_columns("module", thoughts.n_modules)].to_numpy()


def _add_chains(figure: Any, states: pd.DataFrame, name: str, colour: str) -> None:
    """Draw chains as one trace; None between two chains separates their lines."""
    x: list[float | None] = []
    y: list[float | None] = []
    symbols: list[str] = []
    hover_texts: list[str] = []
    # A chain starts at step 0, so a running count of zeros numbers the chains.
    for _, chain in states.groupby(np.cumsum(states["step"].to_numpy() == 0)):
        x += [*chain["x"], None]
        y += [*chain["y"], None]
        between = ["circle"] * max(len(chain) - 2, 0)
        symbols += ["circle-open", *between, *["square"] * (len(chain) > 1), "circle"]
        hover_texts += [*map(_hover, chain.itertuples()), ""]
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 1},
        marker={"color": colour, "symbol": symbols, "size": 7},
        text=hover_texts,
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(state: Any) -> str:
    place = f"{plotly_text(str(state.id))}, chain {state.chain}, step {state.step}"
    nearest = plotly_text(str(state.nearest))
    return f"{wrapped(str(state.thought))}<br>{place}<br>nearest: {nearest}"


def _add_landmarks(figure: Any, places: Float[np.ndarray, "choices 2"]) -> None:
    """Draw the choices; the first place is the correct choice."""
    for points, name, symbol in (
        (places[:1], "the correct choice", "star"),
        (places[1:], "a wrong choice", "x"),
    ):
        figure.add_scatter(
            x=points[:, 0],
            y=points[:, 1],
            mode="markers",
            name=name,
            marker={"color": GREY, "symbol": symbol, "size": 14},
            hovertemplate=f"{name}<extra></extra>",
        )


def _add_measures(figure: Any, thoughts: Thoughts) -> str:
    steps = thoughts.steps()
    most = float(np.log(thoughts.n_choices))  # the entropy of equal distances
    lines = [(steps[column], name) for column, name in _SHARES.items()]
    lines.append((steps["uncertainty"] / most, "uncertainty / its largest"))
    for (values, name), colour in zip(lines, COLOURS[2:], strict=False):
        _add_line(figure, steps["step"], values, steps["n_chains"], name, colour, "solid")
    return "mean over chains"


def _add_modules(
    figure: Any, states: pd.DataFrame, ending: Bool[np.ndarray, " states"], names: list[str]
) -> str:
    present = [correct for correct in _ENDINGS if (ending == correct).any()]
    for correct in present:
        ending_name, dash = _ENDINGS[correct]
        groups = states.loc[ending == correct].groupby("step")
        counts = groups.size()
        for number, name in enumerate(names):
            values = groups[f"module_{number}"].mean()
            again, colour = divmod(number, len(COLOURS))
            full = f"{name}, {ending_name}"
            _add_line(figure, counts.index, values, counts, full, COLOURS[colour], dash)
            figure.data[-1].update(
                showlegend=correct == present[0],
                legendgroup=name,
                name=name,
                marker_symbol=_SYMBOLS[again % len(_SYMBOLS)],
            )
    return "|activation| / its mean (dotted: chains that end elsewhere)"


def _add_line(figure: Any, x: Any, y: Any, counts: Any, name: str, colour: str, dash: str) -> None:
    figure.add_scatter(
        x=np.asarray(x),
        y=np.asarray(y, dtype=float),
        mode="lines+markers",
        name=name,
        line={"color": colour, "dash": dash},
        customdata=np.asarray(counts),
        hovertemplate=f"{name}<br>%{{y:.3g}} at step %{{x}}, %{{customdata}} chains<extra></extra>",
        xaxis="x2",
        yaxis="y2",
    )
