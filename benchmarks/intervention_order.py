"""Edges right against interventions spent: random order, information, a good and a bad guess.

``python -m benchmarks.intervention_order`` plants graphs of 20 and 100 modules, in NumPy alone;
``--demo`` adds the modules of the demo model. A good guess names the fifth of the modules with most
edges, a misleading one the fifth with fewest; both know the truth, as no one does. The demo model
itself is asked for a guess as well.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import tl_modules as tlm
from benchmarks.neighbours import draw
from tl_modules.activations.reading import Reading
from tl_modules.causal.edge_planner import EdgePlanner
from tl_modules.causal.graph_runs import PairOfRuns, nodes_of_graph, rows_of_runs
from tl_modules.causal.patch_runs import PatchRuns
from tl_modules.causal.target_guesses import parsed_guess, question_about
from tl_modules.data import load_demo_model, load_prompts
from tl_modules.interpret.token_texts import text_of
from tl_modules.models.generation import continued, text_end
from tl_modules.thoughts.chains import question_tokens

LEAST = 0.1
N_PROMPTS = 4
ORDERS = ("random", "information", "good guess", "misleading guess")
OWN = "the model's guess"
COLOURS = dict(
    zip((*ORDERS, OWN), ("#888888", "#1f77b4", "#2ca02c", "#d62728", "#9467bd"), strict=True)
)


class World(Protocol):
    """Modules whose edges are known."""

    truth: np.ndarray
    """Whether each ordered pair is an edge."""

    def left(self) -> np.ndarray:
        """The modules that can be patched on more prompts."""
        ...

    def patched(self, source: int) -> tuple[np.ndarray, np.ndarray]:
        """How far each module moved on some prompts, and could have moved."""
        ...


class Planted:
    """A graph in which a fifth of the modules drive half of all later ones, the rest a twentieth.

    An edge is a share of 0.15 to 0.6. The standard deviation over prompts is the source's, from
    0.05 to 0.5.
    """

    def __init__(self, count: int, seed: int) -> None:
        """Plant the graph."""
        self._generator = np.random.default_rng(seed)
        hubs = self._generator.permutation(count) < count / 5
        later = np.triu(np.ones((count, count), dtype=bool), 1)
        drawn = self._generator.random((count, count)) < np.where(hubs, 0.5, 0.05)[:, None]
        self.truth = drawn & later
        self._shares = np.where(self.truth, self._generator.uniform(0.15, 0.6, drawn.shape), 0.0)
        self._noise = 0.05 * 10 ** self._generator.random(count)

    def left(self) -> np.ndarray:
        """All of them: prompts do not run out."""
        return np.ones(len(self.truth), dtype=bool)

    def patched(self, source: int) -> tuple[np.ndarray, np.ndarray]:
        """Four prompts."""
        noise = self._generator.normal(0, self._noise[source], (N_PROMPTS, len(self.truth)))
        return self._shares[source] + noise, np.ones_like(noise)


@dataclass(frozen=True, eq=False)
class Recorded:
    """Every module of a model patched on every pair; the truth is the excess over all pairs."""

    parts: np.ndarray
    """How far more each module moved than under random units, ``[sources, prompts, modules]``."""

    wholes: np.ndarray
    """How far each could have moved, ``[prompts, modules]``."""

    def world(self, seed: int) -> "Replayed":
        """The pairs in a random order per module."""
        return Replayed(self, np.random.default_rng(seed))


class Replayed:
    """Recorded patches, a few pairs at a time."""

    def __init__(self, recorded: Recorded, generator: np.random.Generator) -> None:
        """Shuffle the pairs."""
        self._recorded = recorded
        count, n_pairs, _ = recorded.parts.shape
        self._queues = [
            np.split(generator.permutation(n_pairs), range(N_PROMPTS, n_pairs, N_PROMPTS))
            for _ in range(count)
        ]
        self.truth = recorded.parts.sum(1) / recorded.wholes.sum(0) >= LEAST
        self.truth &= ~np.eye(count, dtype=bool)

    def left(self) -> np.ndarray:
        """Modules with pairs that they were not patched on."""
        return np.array([bool(queue) for queue in self._queues])

    def patched(self, source: int) -> tuple[np.ndarray, np.ndarray]:
        """The next pairs."""
        pairs = self._queues[source].pop(0)
        return self._recorded.parts[source][pairs], self._recorded.wholes[pairs]


def guessed(truth: np.ndarray, order: str, own: Sequence[int] = ()) -> list[int]:
    """The modules that a guess names; ``own`` are those that the model named."""
    if order == OWN:
        return list(own)
    by_edges = np.argsort(-truth.sum(1), kind="stable")
    n_named = max(len(truth) // 5, 1)
    named = {"good guess": by_edges[:n_named], "misleading guess": by_edges[::-1][:n_named]}
    return named.get(order, by_edges[:0]).tolist()


class Score(NamedTuple):
    """What is right after some interventions."""

    f1: float
    """F1 of the pairs called edges (probability at least 0.5) among patched sources."""
    settled: float
    """Share of all ordered pairs called rightly with a probability of at least 0.95."""
    wrong: float
    """Share of all ordered pairs called wrongly with such a probability."""


def score(planner: EdgePlanner, truth: np.ndarray) -> Score:
    """Compare what the planner believes with the truth."""
    pairs = ~np.eye(len(truth), dtype=bool)
    probability, truth = planner.probabilities()[pairs], truth[pairs]
    seen = np.repeat(planner.n_prompts > 1, len(planner.n_prompts) - 1)
    called = (probability >= 0.5) & seen
    both = called.sum() + truth.sum()
    f1 = 2 * (called & truth).sum() / both if both else 1.0
    yes, no = probability >= 0.95, probability <= 0.05
    settled = (yes & truth) | (no & ~truth)
    return Score(float(f1), float(settled.mean()), float(((yes | no) & ~settled).mean()))


def trace(
    world: World, order: str, marks: list[int], seed: int, own: Sequence[int] = ()
) -> list[Score]:
    """The scores after each number of interventions in ``marks``."""
    planner = EdgePlanner(
        len(world.truth),
        n_prompts=N_PROMPTS,
        least_effect=LEAST,
        strategy="random" if order == "random" else "information",
        guess=guessed(world.truth, order, own),
        seed=seed,
    )
    scores = []
    for step in range(1, marks[-1] + 1):
        source = planner.next_source(world.left()).source
        planner.observe(source, *world.patched(source))
        if step in marks:
            scores.append(score(planner, world.truth))
    return scores


def traces(
    name: str,
    worlds: dict[int, World],
    order: str,
    marks: list[int],
    own: Sequence[int] = (),
) -> pd.DataFrame:
    """The mean over worlds and its 95 % interval (1.96 standard errors), one row per mark."""
    values = np.array([trace(world, order, marks, seed, own) for seed, world in worlds.items()])
    means, errors = values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))
    table = pd.DataFrame({"graph": name, "order": order, "interventions": marks})
    for column, what in enumerate(Score._fields):
        table[what] = means[:, column]
        table[f"{what}_error"] = 1.96 * errors[:, column]
    return table


def recorded_demo(
    model: tlm.HookedModel, n_modules: int, per_category: int, max_tokens: int
) -> tuple[Recorded, list[tlm.Module]]:
    """Patch every module of a model on every pair: prompts against those of another category."""
    frame = load_prompts()
    seen = frame.groupby("category").head(per_category)
    acts = tlm.collect(model, seen, max_tokens=max_tokens, progress=False)
    modules = tlm.discover(acts, n_modules=n_modules, progress=False)
    rest = frame.drop(seen.index)
    runs = []
    for row in range(2):
        texts = rest.groupby("category").nth(row)["prompt"]
        runs.append([model.to_tokens(text)[0, :max_tokens] for text in texts])
    length = min(len(tokens) for texts in runs for tokens in texts)
    clean = np.array([tokens[:length].tolist() for texts in runs for tokens in texts])
    corrupted = np.roll(clean, 1, axis=0)
    listed = nodes_of_graph(model, modules)
    rows = rows_of_runs(model, clean, corrupted, None, "auto")
    patches = PatchRuns(listed, rows[1], PairOfRuns.between(listed, *rows))
    parts = []
    for source in range(len(listed)):
        own, controls, wholes = patches.patched(source, np.arange(len(clean)), 1, [0, source])
        parts.append(own - controls)
    return Recorded(np.array(parts), wholes), listed


def answered(model: tlm.HookedModel, question: str, n_new_tokens: int = 24) -> str:
    """What a model replies, in its chat template if it has one."""
    chat = getattr(getattr(model, "tokenizer", None), "chat_template", None) is not None
    (start,) = question_tokens(model, [question], Reading(chat=chat))
    tokens = continued(model, start, n_new_tokens, remedy="Ask another model.")
    return text_of(model, tokens[len(start) : text_end(model, tokens, len(start))].tolist())


def numbers_in(answer: str, labels: Sequence[int]) -> str:
    """The modules that an answer names anywhere, each once, in the form that ``propose`` returns.

    >>> numbers_in("I would start with Module 7, then 0 and 7 again. 12?", [0, 7])
    '7, 0'
    """
    named = dict.fromkeys(int(number) for number in re.findall(r"[0-9]{1,9}", answer))
    return ", ".join(str(label) for label in named if label in labels)


def own_guess(model: tlm.HookedModel, modules: Sequence[tlm.Module]) -> list[int]:
    """The places of the modules that the model names, also where its answer is no list."""
    question, labels = question_about(modules), [module.label for module in modules]
    answer = answered(model, question)
    print(f"{question}\n\nThe model answers: {answer!r}")
    try:
        parsed_guess(answer, labels)
    except tlm.ModulesError as error:
        print(f"Refused as it is: {error}")
    kept = numbers_in(answer, labels)
    print(f"Its module numbers alone: {kept!r}")
    return [labels.index(label) for label in parsed_guess(kept, labels)] if kept else []


def drawn(table: pd.DataFrame) -> go.Figure:
    """F1 above, pairs settled below, one column per graph."""
    graphs = list(table["graph"].unique())
    rows = {"f1": "F1 of edges", "settled": "pairs settled rightly"}
    figure = make_subplots(len(rows), len(graphs), column_titles=graphs, vertical_spacing=0.09)
    named: set[str] = set()
    for (graph, order), some in table.groupby(["graph", "order"], sort=False):
        for row, (what, title) in enumerate(rows.items(), 1):
            place = {"row": row, "col": graphs.index(graph) + 1}
            ends = [some[what] + sign * some[f"{what}_error"] for sign in (1, -1)]
            band = {"x": [*some["interventions"], *some["interventions"][::-1]]}
            band |= {"y": [*ends[0], *ends[1][::-1]], "fill": "toself", "hoverinfo": "skip"}
            look = {"legendgroup": order, "line_color": COLOURS[order]}
            figure.add_scatter(
                **band, **look, opacity=0.25, line_width=0, showlegend=False, **place
            )
            first = row == 1 and order not in named
            named |= {order} if first else set()
            line = {"x": some["interventions"], "y": some[what], "mode": "lines", "name": order}
            figure.add_scatter(**line, **look, showlegend=first, **place)
            if place["col"] == 1:
                figure.update_yaxes(title=title, row=row, col=1)
            if row == len(rows):
                figure.update_xaxes(title="interventions", **place)
    figure.update_yaxes(range=[0, 1.02])
    return figure.update_layout(
        template="plotly_white",
        legend={"orientation": "h", "y": -0.12},
        width=350 * len(graphs),
        height=620,
        margin={"l": 60, "r": 20, "t": 40, "b": 60},
    )


def main() -> None:
    """Print a table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[20, 100])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--demo", action="store_true", help="the demo model's modules as well")
    parser.add_argument("--modules", type=int, default=10, help="of the demo model")
    parser.add_argument("--per-category", type=int, default=8, help="prompts for these")
    parser.add_argument("--max-tokens", type=int, default=12)
    parser.add_argument("--tables", type=Path, nargs="*", default=[], help="of earlier runs")
    parser.add_argument("--out", type=Path, help="the table, as CSV")
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    tables = [pd.read_csv(path) for path in given.tables]
    for count in given.sizes:
        marks = sorted({max(round(count * step / 10), 1) for step in range(1, 41)})
        for order in ORDERS:
            worlds: dict[int, World] = {seed: Planted(count, seed) for seed in range(given.seeds)}
            tables.append(traces(f"{count} planted modules", worlds, order, marks))
    if given.demo:
        sizes = (given.modules, given.per_category, given.max_tokens)
        model = load_demo_model()
        found, listed = recorded_demo(model, *sizes)
        own = own_guess(model, listed)
        count, n_pairs, _ = found.parts.shape
        print(f"demo: {count} modules, {n_pairs} pairs, edges {int(found.world(0).truth.sum())}")
        for order in (*ORDERS, OWN) if own else ORDERS:
            replays: dict[int, World] = {seed: found.world(seed) for seed in range(given.seeds)}
            marks = list(range(1, count * -(-n_pairs // N_PROMPTS) + 1))
            tables.append(traces(f"{count} modules of the demo model", replays, order, marks, own))
    table = pd.concat(tables, ignore_index=True)
    if given.out is not None:
        table.to_csv(given.out, index=False)
    if given.figure is not None:
        draw(drawn(table), given.figure)
    for graph, some in table.groupby("graph", sort=False):
        marks = some["interventions"].unique()
        shown = marks[np.array([1, 2, 4, 8]) * len(marks) // 8 - 1]
        print(some[some["interventions"].isin(shown)].round(3).to_string(index=False), graph)


if __name__ == "__main__":
    main()
