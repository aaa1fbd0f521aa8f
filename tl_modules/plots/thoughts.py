"""Chains of thought as lines in the plane, between the choices that they could end at."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from tl_modules.errors import ModulesError, check_choice, check_seed
from tl_modules.interpret.landscape import PROJECTIONS, Projection, in_plane
from tl_modules.modules.module_set import Module
from tl_modules.plots.landscape import axis_title
from tl_modules.plots.style import COLOURS, graph_objects, names_of, readable, text, wrapped
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
"""Of modules whose colour is another's, too."""
_SHARES = {
    "share_correct": "nearest to the answer",
    "share_consistent": "nearest to the choice at the chain's end",
}


@checked
def plot_thoughts(
    thoughts: Thoughts,
    *,
    by: Coordinates = "distances",
    projection: Projection = "pca",
    modules: Iterable[Module] | None = None,
    seed: int = 0,
) -> "Figure":
    """Chains of thought as lines, from the question alone to the last thought.

    On the left the states in the plane: as vectors of their distances to the choices, with the
    choices themselves as landmarks (a star is the correct one), or of the modules' activations,
    which no choice has. On the right what happens over the steps: without modules
    the share of chains nearest to the answer, the share already nearest to the choice that they end
    at, and the uncertainty over that of equal distances; with modules how active each is, in chains
    that end nearest to the answer (lines) and elsewhere (dots). Later steps are of fewer chains:
    those that have so many thoughts.

    Args:
        thoughts: What ``thought_states`` returned.
        by: ``"distances"`` or ``"modules"``: what a state's vector is made of.
        projection: ``"pca"``: the two directions of most variance, their share of it on the axes;
            ``"tsne"``: neighbourhoods (the paper's), distances between which mean nothing.
        modules: The modules that the states were read with: draws them on the right.
        seed: Seeds t-SNE.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed, there is no such vector or projection, the states
            were read with fewer than two modules to make vectors of, or ``modules`` are not theirs.
    """
    plotly = graph_objects()
    check_choice("by", by, tuple(_BY))
    check_choice("projection", projection, PROJECTIONS)
    check_seed(seed)
    named = None if modules is None else list(modules)
    if named is not None and len(named) != thoughts.n_modules:
        raise ModulesError(
            f"modules should be the {thoughts.n_modules} that the states were read with; got "
            f"{len(named)}. Pass what thought_states was given."
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
    readable(figure).update_layout(
        title_text=f"{n_chains:,} chains of thought by {_BY[by]}",
        xaxis={"domain": [0.0, 0.56], "title_text": axis_title(explained, 0)},
        yaxis={"title_text": axis_title(explained, 1)},
        legend={"orientation": "h", "y": -0.18},
        width=1100,
        height=620,
    )
    right = {"gridcolor": "rgba(128, 128, 128, 0.25)", "automargin": True}
    return figure.update_layout(
        xaxis2={**right, "domain": [0.66, 1.0], "title_text": "thoughts so far", "anchor": "y2"},
        yaxis2={**right, "title_text": y_title, "anchor": "x2"},
    )


def _vectors(thoughts: Thoughts, by: Coordinates) -> Float[np.ndarray, "places features"]:
    """The states, then the choices where they are of a kind."""
    if by == "distances":
        return np.concatenate([thoughts.features, thoughts.landmarks])
    if thoughts.n_modules < 2:
        raise ModulesError(
            f"by='modules' needs states that were read with at least two modules; these were with "
            f"{thoughts.n_modules}. Call thought_states with modules=..., or use by='distances'."
        )
    return thoughts.states[names_of_columns("module", thoughts.n_modules)].to_numpy()


def _add_chains(figure: Any, states: pd.DataFrame, name: str, colour: str) -> None:
    """Chains that end alike: one trace, the lines of which are apart."""
    x: list[float | None] = []
    y: list[float | None] = []
    symbols: list[str] = []
    said: list[str] = []
    for _, own in states.groupby(np.cumsum(states["step"].to_numpy() == 0)):
        x += [*own["x"], None]
        y += [*own["y"], None]
        between = ["circle"] * max(len(own) - 2, 0)
        symbols += ["circle-open", *between, *["square"] * (len(own) > 1), "circle"]
        said += [*map(_hover, own.itertuples()), ""]
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 1},
        marker={"color": colour, "symbol": symbols, "size": 7},
        opacity=0.7,
        text=said,
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(state: Any) -> str:
    where = f"{text(str(state.id))}, chain {state.chain}, step {state.step}"
    return f"{wrapped(str(state.thought))}<br>{where}<br>nearest: {text(str(state.nearest))}"


def _add_landmarks(figure: Any, places: Float[np.ndarray, "choices 2"]) -> None:
    """The choices, the correct one first."""
    for chosen, name, symbol in (
        (places[:1], "the correct choice", "star"),
        (places[1:], "a wrong choice", "x"),
    ):
        figure.add_scatter(
            x=chosen[:, 0],
            y=chosen[:, 1],
            mode="markers",
            name=name,
            marker={"color": "#808080", "symbol": symbol, "size": 14},
            hovertemplate=f"{name}<extra></extra>",
        )


def _add_measures(figure: Any, thoughts: Thoughts) -> str:
    steps = thoughts.steps()
    most = float(np.log(thoughts.n_choices))
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
        said, dash = _ENDINGS[correct]
        groups = states.loc[ending == correct].groupby("step")
        counts = groups.size()
        for number, name in enumerate(names):
            values = groups[f"module_{number}"].mean()
            again, at = divmod(number, len(COLOURS))
            full = f"{name}, {said}"
            _add_line(figure, counts.index, values, counts, full, COLOURS[at], dash)
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
