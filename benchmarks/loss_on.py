"""What the tokens that the loss is averaged over do to selectivities and verdicts.

Modules are found on some recall and reasoning prompts and questions with choices. They are tested
on others with ``loss_on`` "prompt", "answer" and "all": the same modules, prompts and controls.

    python -m benchmarks.loss_on
    python -m benchmarks.loss_on --figure docs/images/loss-on.png
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.models.loss_tokens import LOSS_ON, LossTexts
from tl_modules.plots.style import COLOURS, GREY, interval

CORPORA = ("recall", "reasoning", "choices")
"""The project's prompts that have answers; each is a category."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=3)
    parser.add_argument("--per-category", type=int, default=5)
    parser.add_argument("--controls", type=int, default=29)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    sets = [load_prompts(name).assign(category=name) for name in CORPORA]
    fit = pd.concat([each.iloc[::2] for each in sets], ignore_index=True)
    held_out = pd.concat([each.iloc[1::2].head(args.per_category) for each in sets])
    held_out = held_out.reset_index(drop=True)
    modules = tlm.discover(tlm.collect(model, fit, progress=False), args.modules, progress=False)
    print(modules, flush=True)
    tables = []
    for loss_on in LOSS_ON:
        options = {"loss_on": loss_on, "n_controls": args.controls, "progress": False}
        effects = tlm.module_effects(model, modules, held_out, **options)
        tables.append(summary(effects).assign(loss_on=loss_on))
        print(loss_on, tlm.verdicts(effects).attrs["sentence"], flush=True)
    table = pd.concat(tables).set_index("loss_on").reset_index()
    print(n_tokens(model, held_out).round(1).to_string())
    print(table.round(3).to_string(index=False))
    if args.figure is not None:
        draw(figure_of(table), args.figure)


def summary(effects: pd.DataFrame) -> pd.DataFrame:
    """One row per module: its loss and effect on the own category, selectivity, and verdict."""
    own = effects.loc[effects["own"]].set_index("module")
    shown = ["category", "loss", "effect", "control_mean", "selectivity"]
    shown += ["selectivity_ci_low", "selectivity_ci_high", "selectivity_control_mean"]
    shown += ["selectivity_control_max", "selectivity_p_value"]
    verdicts = tlm.verdicts(effects).set_index("module")["verdict"]
    return own[shown].assign(verdict=verdicts).reset_index()


def figure_of(table: pd.DataFrame) -> Any:
    """Each module's selectivity by ``loss_on``, with its interval and its controls' largest."""
    from plotly.graph_objects import Figure

    figure = Figure()
    names = [f"{row.category} ({row.module})" for row in table.itertuples()]
    for number, loss_on in enumerate(LOSS_ON):
        rows = table[table["loss_on"] == loss_on]
        places = [place + 0.2 * (number - 1) for place in range(len(rows))]
        figure.add_scatter(
            x=places,
            y=rows["selectivity"],
            error_y=interval(rows, "selectivity", "selectivity_ci_low", "selectivity_ci_high"),
            mode="markers",
            name=f"loss on {loss_on}",
            marker_color=COLOURS[number],
        )
        figure.add_scatter(
            x=places,
            y=rows["selectivity_control_max"],
            mode="markers",
            name="largest of the controls",
            marker={"symbol": "line-ew-open", "size": 14, "color": GREY},
            showlegend=number == 0,
            legendrank=2000,  # plotly's own begins at 1000
        )
    figure.add_hline(0, line_color=GREY, line_width=1)
    figure.update_xaxes(tickvals=list(range(len(rows))), ticktext=names[: len(rows)])
    figure.update_yaxes(title_text="selectivity (nats per token)")
    return figure.update_layout(template="simple_white", width=700, height=380, margin_t=20)


def n_tokens(model: tlm.HookedModel, prompts: pd.DataFrame) -> pd.DataFrame:
    """The mean number of tokens whose loss counts, by category and choice of tokens."""
    found = {}
    for loss_on in LOSS_ON:
        texts = LossTexts.of(model, prompts, loss_on, None)
        starts = [1] * len(prompts) if texts.starts is None else texts.starts
        pairs = zip(texts.token_lists, starts, strict=True)
        counts = pd.Series([len(tokens) - start for tokens, start in pairs])
        found[loss_on] = counts.groupby(prompts["category"]).mean()
    return pd.DataFrame(found)


if __name__ == "__main__":
    main()
