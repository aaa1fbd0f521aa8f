"""Forgetting and retention beside each other, in a module and in random units of the same layers.

French is unlearnt in the French module, with and without GRU's rectification and SatImp's weights,
and measured on French and English prompts that no training saw. Then the model is fine-tuned on
coding prompts, and the French module put back.

    python -m benchmarks.unlearning
    python -m benchmarks.unlearning --only unlearning --figure docs/images/unlearning.png
    python -m benchmarks.unlearning --only pathways --figure docs/images/pathways.png
"""

import argparse
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import tl_modules as tlm
from benchmarks.neighbours import draw, halves
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.interventions.strata import Strata
from tl_modules.models.batches import batches
from tl_modules.models.loss_tokens import LossTexts
from tl_modules.models.losses import next_token_losses
from tl_modules.models.tokens import tokenise
from tl_modules.tables.against_controls import ratio_beside_controls
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.training.loss_changes import prompt_losses

PLAIN = {"rectify": False, "saturation": 0.0, "importance": 0.0}
VARIANTS = {
    "gradient ascent": PLAIN,
    "SatImp": {"rectify": False},
    "GRU": PLAIN | {"rectify": True},
    "SatImp and GRU": {},
}
"""What ``unlearn`` is called with."""

MAX_TOKENS = 32
"""Of each prompt, in fine-tuning and where it is measured."""

COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#888888")
"""Of each run in the figure."""


def main() -> None:
    """Print the tables, and draw the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--controls", type=int, default=9)
    parser.add_argument("--only", choices=["unlearning", "pathways"])
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    fit, held_out = halves(load_prompts("contrasts"))
    modules = tlm.discover(tlm.collect(model, fit, progress=False), args.modules)
    found = [module for module in modules if module.category == "french"]
    module = max(found or modules, key=lambda each: each.n_units)
    print(repr(module), flush=True)

    if args.only != "pathways":
        table = unlearning(model, module, of(fit), of(held_out), args)
        if args.figure is not None:
            draw(figure(table), args.figure)
    if args.only != "unlearning":
        print("\nFine-tuned on coding prompts: rise of the loss, nats per token")
        kept = pathways(model, module, of(held_out)[0], args)
        print(kept.round(3).to_string(index=False))
        if args.figure is not None and args.only == "pathways":
            draw(pathways_figure(kept), args.figure)


def of(prompts: pd.DataFrame) -> tuple[list[str], list[str]]:
    """What is to be forgotten, and what retained."""
    french, english = (
        prompts.loc[prompts["category"] == name, "prompt"].tolist()
        for name in ("french", "english")
    )
    return french, english


def unlearning(
    model: Any,
    module: tlm.Module,
    sets: tuple[list[str], list[str]],
    held_out: tuple[list[str], list[str]],
    args: argparse.Namespace,
) -> pd.DataFrame:
    """Every variant in the module, and the last one in the whole model."""
    options = {
        "n_steps": args.steps,
        "learning_rate": args.learning_rate,
        "batch_size": args.batch_size,
        "held_out": held_out,
    }
    tables = []
    runs = [(name, module) for name in VARIANTS] + [("SatImp and GRU", None)]
    for name, where in runs:
        given = VARIANTS[name] | options | {"n_controls": args.controls}
        found = tlm.training.forgetting(model, where, *sets, **given)
        found.insert(0, "loss", name)
        found.insert(1, "trained", "whole model" if where is None else "French module")
        print(found.round(3).to_string(index=False), flush=True)
        tables.append(found)
    return pd.concat(tables, ignore_index=True)


def figure(table: pd.DataFrame) -> Any:
    """Forgetting over what it costs."""
    groups = {
        f"{loss}, {trained}": (rows.loc["retain"], rows.loc["forget"])
        for (loss, trained), rows in table.set_index("set").groupby(["loss", "trained"], sort=False)
    }
    return points(groups, "held-out English", "held-out French")


def pathways_figure(table: pd.DataFrame) -> Any:
    """What the old task lost over what the new one gained."""
    groups = {
        f"French module {name}": (rows.loc["coding"], rows.loc["French"])
        for name, rows in table.set_index("task").groupby("french_module", sort=False)
    }
    return points(groups, "unseen coding prompts", "held-out French")


def points(groups: dict[str, tuple[pd.Series, pd.Series]], x: str, y: str) -> Any:
    """Effects on two sets of prompts, with 95 % intervals; crosses are the controls' means."""
    import plotly.graph_objects as go

    made = go.Figure()
    for colour, (name, (across, up)) in zip(COLOURS, groups.items(), strict=False):
        made.add_scatter(
            x=[across["effect"]],
            y=[up["effect"]],
            error_x=_bar(across),
            error_y=_bar(up),
            mode="markers",
            marker={"size": 11, "color": colour},
            name=name,
        )
        made.add_scatter(
            x=[across["control_mean"]],
            y=[up["control_mean"]],
            mode="markers",
            marker={"size": 9, "color": colour, "symbol": "x"},
            showlegend=False,
        )
    top = max(float(up["ci_high"]) for _, up in groups.values())
    made.add_shape(type="line", x0=0, y0=0, x1=top, y1=top, line={"dash": "dash", "color": "#999"})
    return made.update_layout(
        template="plotly_white",
        width=760,
        height=480,
        xaxis_title=f"{x}: rise of the loss (nats per token)",
        yaxis_title=f"{y}: rise of the loss (nats per token)",
        margin={"l": 60, "r": 20, "t": 20, "b": 60},
    )


def _bar(row: pd.Series) -> dict[str, Any]:
    return {
        "array": [row["ci_high"] - row["effect"]],
        "arrayminus": [row["effect"] - row["ci_low"]],
        "thickness": 1,
    }


def pathways(
    old: Any, module: tlm.Module, french: list[str], args: argparse.Namespace
) -> pd.DataFrame:
    """What fine-tuning costs the old task, and what keeping its module saves, beside controls."""
    coding = load_prompts().query("category == 'coding'")["prompt"].tolist()
    unseen = coding[-8:]
    seen = LossTexts(tokenise(old, coding[:-8], MAX_TOKENS, least=2))
    before = prompt_losses(old, [*french, *unseen], MAX_TOKENS)

    def rises(model: Any) -> np.ndarray:
        return prompt_losses(model, [*french, *unseen], MAX_TOKENS) - before

    def tuned(units: tlm.Units, limit: Any) -> np.ndarray:
        model = load_model(args.model)
        fine_tune(model, seen, args, partial(limit, model, units))
        return rises(model)

    generator = np.random.default_rng(0)
    strata = Strata.by_layer(module.units)
    drawn = [strata.draw(module.units, generator) for _ in range(args.controls)]
    every = [module.units, *drawn]
    new = load_model(args.model)
    fine_tune(new, seen, args)
    runs: dict[str, list[np.ndarray]] = {"trained too": [rises(new)], "put back": []}
    for units in every:
        fusion = tlm.training.fuse_pathways(old, new, units)
        runs["put back"].append(rises(new))
        fusion.restore(new)
        if units is module.units:
            print(repr(fusion), flush=True)
    runs["kept away from"] = [tuned(units, tlm.training.training_all_but) for units in every]
    runs["trained alone"] = [tuned(units, tlm.training.training_only) for units in every]
    rows = []
    for name, found in runs.items():
        for task, chosen in zip(
            ("French", "coding"), np.split(np.stack(found), [len(french)], axis=1), strict=True
        ):
            n = chosen.shape[1]
            draws = bootstrap_indices(np.zeros(n), N_RESAMPLES, 0)
            numbers = ratio_beside_controls(chosen, np.ones(n), draws, sign=-1.0)
            rows.append({"french_module": name, "task": task, "n": n, **numbers})
    return pd.DataFrame(rows)


def fine_tune(
    model: Any, texts: LossTexts, args: argparse.Namespace, limit: Any = None
) -> list[float]:
    """A few steps of AdamW on the texts' next-token loss, which is returned for each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    generator, losses = np.random.default_rng(0), []
    with nullcontext() if limit is None else limit(optimizer):
        for _ in range(args.steps):
            rows = generator.choice(len(texts.token_lists), size=args.batch_size, replace=False)
            (batch,) = batches(texts.token_lists, len(rows), chosen=rows)
            logits = model(batch.tokens, attention_mask=batch.mask.long())
            starts = texts.starts_of(np.asarray(batch.rows))
            loss = next_token_losses(logits, batch.tokens, batch.mask, starts).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    main()
