"""Which modules serve a language, and what ablating them does to it, beside LAPE neurons.

Half of the meanings of the parallel prompts find modules and neurons; the other half measures them.

    python -m benchmarks.languages --model gemma-3-270m --figure docs/images/languages.png
    python -m benchmarks.languages --model gemma-3-270m --match magnitude
    python -m benchmarks.languages --languages english german chinese --meanings 4 --controls 3
"""

import argparse
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw
from tl_modules.causal.controls import ControlKind
from tl_modules.data import load_prompts
from tl_modules.data.models import MODEL_DTYPES, load_model
from tl_modules.interpret import LanguageConsistency, language_neurons
from tl_modules.plots.style import COLOURS, GREY

SHOWN = ("number", "n_units", "similarity", "similarity_shuffled", "retrieved", "language_share")
SHOWN += ("language_null", "meaning_share", "meaning_null", "serves", "language")


def halves(languages: list[str] | None, n_meanings: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Prompts that find, and prompts that measure: other meanings in the same languages."""
    prompts = load_prompts("parallel")
    if languages is not None:
        prompts = prompts[prompts["category"].isin(languages)]
    meanings = prompts["meaning"].unique()
    finding, measuring = (
        prompts[prompts["meaning"].isin(meanings[first::2][:n_meanings])] for first in (0, 1)
    )
    return finding.reset_index(drop=True), measuring.reset_index(drop=True)


def effects_of(
    model: Any,
    targets: Any,
    prompts: pd.DataFrame,
    n_controls: int,
    match: ControlKind,
    reference: Any,
) -> pd.DataFrame:
    """What ablating each target does to each language, less what its random controls do."""
    effects = tlm.module_effects(
        *(model, targets, prompts),
        reference=reference,
        n_controls=n_controls,
        controls=match,
        progress=False,
    )
    return effects.assign(beyond=effects["effect"] - effects["control_mean"])


def own_and_others(effects: pd.DataFrame) -> pd.DataFrame:
    """A row per target: the effect on its own language, on the others, and the controls'."""
    rows = []
    for label, of_target in effects.groupby("module", sort=False):
        own = of_target[of_target["own"]]
        if len(own) != 1:
            continue
        row = own.iloc[0]
        rows.append(
            {
                "target": label,
                "language": row["category"],
                "n_units": row["n_units"],
                "own": row["effect"],
                "others": of_target.loc[~of_target["own"], "effect"].mean(),
                "own_control": row["control_mean"],
                "selectivity": row["selectivity"],
                "control_max": row["selectivity_control_max"],
            }
        )
    return pd.DataFrame(rows)


def figure_of(
    found: LanguageConsistency, of_modules: pd.DataFrame, of_neurons: pd.DataFrame
) -> Any:
    """Layers of the residual stream, and effects of modules and of LAPE neurons by language."""
    from plotly.subplots import make_subplots

    titles = ["Residual stream", "Modules ablated", "LAPE neurons ablated"]
    figure = make_subplots(1, 3, column_titles=titles, horizontal_spacing=0.12)
    layers = found.table[found.table["kind"] == "resid"]
    lines = {
        "variance by language": ("language_share", COLOURS[0]),
        "variance by meaning": ("meaning_share", COLOURS[1]),
        "meaning retrieved": ("retrieved", COLOURS[2]),
        "retrieved by chance": (None, GREY),
    }
    for name, (column, colour) in lines.items():
        values = np.full(len(layers), 1 / found.n_meanings) if column is None else layers[column]
        figure.add_scatter(x=layers["number"], y=values, name=name, line_color=colour, row=1, col=1)
    figure.update_xaxes(title_text="layer", row=1, col=1)
    figure.update_yaxes(title_text="share", range=[0, 1.02], row=1, col=1)
    most = max(float(each["beyond"].abs().max()) for each in (of_modules, of_neurons))
    for column, effects in ((2, of_modules), (3, of_neurons)):
        wide = effects.pivot(index="module", columns="category", values="beyond")
        order = effects["module"].drop_duplicates()
        names = _names(effects).loc[order]
        languages = effects["category"].drop_duplicates()
        wide = wide.loc[names.sort_values(kind="stable").index, languages]
        figure.add_heatmap(
            z=wide.to_numpy(),
            x=languages,
            y=names.loc[wide.index],
            coloraxis="coloraxis",
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text="loss on", tickangle=-60, row=1, col=column)
    bar = {"title": "nats per<br>token<br>beyond<br>controls"}
    return figure.update_layout(
        template="simple_white",
        width=1100,
        height=460,
        margin_t=40,
        coloraxis={"cmin": -most, "cmax": most, "colorscale": "RdBu_r", "colorbar": bar},
        legend={"orientation": "h", "y": -0.3, "x": 0, "entrywidth": 130},
    )


def _names(effects: pd.DataFrame) -> pd.Series:
    """What the figure calls each target: its own language, with a number for modules."""
    own = effects[effects["own"]].set_index("module")["category"]
    labels = effects["module"].drop_duplicates().tolist()
    names = {
        label: str(own.get(label, "none")) + ("" if isinstance(label, str) else f" ({label})")
        for label in labels
    }
    return pd.Series(names)


def main() -> None:
    """Print the tables, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--dtype", default="float32", choices=MODEL_DTYPES)
    parser.add_argument("--languages", nargs="+")
    parser.add_argument("--meanings", type=int, default=20, help="of each half")
    parser.add_argument("--measured", type=int, default=3, help="meanings that effects are on")
    parser.add_argument("--modules", type=int, help="by default one per language")
    parser.add_argument("--controls", type=int, default=3)
    parser.add_argument("--match", default="layer", choices=get_args(ControlKind))
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    finding, measuring = halves(args.languages, args.meanings)
    model: Any = load_model(args.model, dtype=args.dtype)
    acts = tlm.collect(model, finding, tokens="content", progress=False)
    n_modules = args.modules or finding["category"].nunique()
    modules = tlm.discover(acts, n_modules, progress=False)
    found = tlm.language_consistency(model, modules, measuring, progress=False)
    for kind in ("module", "resid"):
        _print(f"{kind}: {found!r}", found.table.loc[found.table["kind"] == kind, [*SHOWN]])
    neurons = language_neurons(model, finding, progress=False)
    layers = neurons.units.groupby("category", sort=False)["layer"].agg(["median", "min", "max"])
    _print(repr(neurons), neurons.languages.merge(layers, on="category", how="left"))
    few = measuring[measuring["meaning"].isin(measuring["meaning"].unique()[: args.measured])]
    of_modules = effects_of(model, modules, few, args.controls, args.match, modules)
    of_neurons = effects_of(model, neurons.targets, few, args.controls, args.match, modules)
    _print("Modules ablated, nats per token", own_and_others(of_modules))
    _print("LAPE neurons ablated, nats per token", own_and_others(of_neurons))
    if args.figure is not None:
        draw(figure_of(found, of_modules, of_neurons), args.figure)


def _print(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n\n{table.round(3).to_string(index=False)}", flush=True)


if __name__ == "__main__":
    main()
