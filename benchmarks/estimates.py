"""Estimated against exact effects: single units, and the MLP outputs of layers.

    python -m benchmarks.estimates [--model gemma-3-270m] [--only units] [--units 300]

Units: each of some units is mean-ablated alone on prompts that the means do not come from. Half of
the units are drawn at random; the others are those that lead the rankings of the three estimates by
signed effect and by magnitude, taken in turn. "signed" is the rise of a category's mean loss,
"magnitude" the mean |change| of a token's loss, "contrast" a category's rise minus the mean of the
others'. Correlations over the units are averaged over the categories, and intervals come from
resampling the units.

Layers: each layer's MLP output at each position is patched from a corrupted run, as in the paper of
RelP (arXiv 2508.21258). A corrupted prompt names the other person; the metric is the difference of
the two names' logits. Positions at which the two runs are equal are left out. Integrated gradients
here follow the embeddings from one prompt to the other.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import pandas as pd
import torch

import tl_modules as tlm
from tl_modules.causal import UnitEstimates
from tl_modules.causal.metrics import make_task
from tl_modules.causal.unit_changes import unit_changes
from tl_modules.causal.unit_gradients import Estimate
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.models.gradients import gradients_of
from tl_modules.models.hooked_model import FwdHooks
from tl_modules.models.relevance import relevance_hooks
from tl_modules.models.runs import forward

ESTIMATES = get_args(Estimate)
NAMES = [("Mary", "John"), ("Anna", "Paul"), ("Alice", "Bob"), ("Emma", "David")]
TEMPLATES = [
    "When{a} and{b} went to the store,{c} gave a drink to",
    "After{a} and{b} had talked at school,{c} handed a book to",
]
"""Names bring their own space: they are single tokens after one."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--only", choices=["units", "layers"])
    parser.add_argument("--units", type=int, default=300, help="random ones, and leading ones")
    parser.add_argument("--per-category", type=int, default=2, help="held-out prompts")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=8, help="clean and corrupted prompts")
    parser.add_argument("--steps", type=int, default=3, help="of integrated gradients")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = load_model(args.model)
    if args.only != "layers":
        print(of_units(model, args).round(3).to_string(index=False))
    if args.only != "units":
        print(of_layers(model, args).round(3).to_string(index=False))


def of_units(model: tlm.HookedModel, args: argparse.Namespace) -> pd.DataFrame:
    """Correlations with exact ablation of single units."""
    prompts = load_prompts()
    by_category = prompts.groupby("category", sort=False)
    held_out = by_category.tail(args.per_category)
    rest = prompts.drop(held_out.index).groupby("category", sort=False).head(6)
    acts = tlm.collect(model, rest, max_tokens=48)
    options = {"max_tokens": args.max_tokens, "n_steps": args.steps}
    found = {
        name: tlm.unit_estimates(model, held_out, acts, estimate=name, **options)
        for name in ESTIMATES
    }
    drawn = np.random.default_rng(args.seed).choice(len(acts.units), args.units, replace=False)
    leading = leaders(list(found.values()), args.units)
    task = make_task(model, held_out, "loss", 16, args.max_tokens, "content")
    chosen = acts.units.select(np.concatenate([leading, drawn]))
    changes = unit_changes(model, task, chosen, acts, 64, lambda n: None, of_content=True)
    categories = found["gradient"].categories
    of = [(held_out["category"] == name).to_numpy() for name in categories]
    exact_values = {
        "signed": np.stack([changes.rise[:, rows].mean(1) for rows in of]),
        "magnitude": np.stack([changes.change[:, rows].mean(1) for rows in of]),
    }
    exact_values["contrast"] = contrasts(exact_values["signed"])
    sets = {"leading": slice(args.units), "random": slice(args.units, None)}
    rows = []
    for (kind, members), what, name in itertools.product(sets.items(), exact_values, ESTIMATES):
        units = np.concatenate([leading, drawn])[members]
        values = found[name].magnitude if what == "magnitude" else found[name].signed
        values = contrasts(values) if what == "contrast" else values
        numbers = agreement(values[:, units], exact_values[what][:, members], args.seed)
        rows.append({"units": kind, "quantity": what, "estimate": name, **numbers})
    return pd.DataFrame(rows)


def leaders(found: list[UnitEstimates], n_units: int) -> np.ndarray:
    """The units that lead each estimate's rankings, in turn, each once."""
    rankings = [
        np.argsort(-np.abs(values).mean(axis=0), kind="stable")
        for each in found
        for values in (each.signed, each.magnitude)
    ]
    in_turn = np.stack(rankings, axis=1).ravel()
    return np.array(list(dict.fromkeys(in_turn.tolist()))[:n_units])


def contrasts(values: np.ndarray) -> np.ndarray:
    """Each category's values minus the mean of the others'."""
    others = (values.sum(axis=0) - values) / (len(values) - 1)
    return values - others


def agreement(estimated: np.ndarray, exact: np.ndarray, seed: int) -> dict[str, float]:
    """Both correlations, means over the rows, with an interval of Spearman's over the columns."""
    generator = np.random.default_rng(seed)
    n = exact.shape[1]
    drawn = [
        correlation(estimated[:, at], exact[:, at], ranks=True)
        for at in generator.integers(n, size=(200, n))
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {
        "pearson": correlation(estimated, exact, ranks=False),
        "spearman": correlation(estimated, exact, ranks=True),
        "low": float(low),
        "high": float(high),
    }


def correlation(estimated: np.ndarray, exact: np.ndarray, *, ranks: bool) -> float:
    """The mean over the rows."""
    frames = [pd.DataFrame(values.T) for values in (estimated, exact)]
    if ranks:
        frames = [frame.rank() for frame in frames]
    return float(frames[0].corrwith(frames[1]).mean())


Pair = tuple[torch.Tensor, torch.Tensor, int, int]
"""Clean and corrupted tokens, and the tokens of the right and the wrong name."""


def pairs(model: tlm.HookedModel, n_pairs: int) -> Iterator[Pair]:
    """Pairs of equally many tokens."""
    made = 0
    for template, names in itertools.product(TEMPLATES, NAMES):
        for first, second in (names, names[::-1]):
            a, b = f" {first}", f" {second}"
            clean = model.to_tokens(template.format(a=a, b=b, c=b))
            corrupted = model.to_tokens(template.format(a=a, b=b, c=a))
            right, wrong = (model.to_tokens("The" + name)[0] for name in (a, b))
            if made < n_pairs and clean.shape == corrupted.shape and len(right) == len(wrong):
                made += 1
                yield clean, corrupted, int(right[-1]), int(wrong[-1])


def of_layers(model: tlm.HookedModel, args: argparse.Namespace) -> pd.DataFrame:
    """Correlations with exact patching of each layer's MLP output at each position."""
    values = [of_pair(model, pair, args.steps) for pair in pairs(model, args.pairs)]
    together = {name: np.concatenate([each[name] for each in values])[None] for name in values[0]}
    exact = together.pop("exact")
    rows = [
        {"nodes": exact.size, "estimate": name, **agreement(each, exact, args.seed)}
        for name, each in together.items()
    ]
    return pd.DataFrame(rows)


def of_pair(model: tlm.HookedModel, pair: Pair, n_steps: int) -> dict[str, np.ndarray]:
    """The effect of patching each layer and position, exact and by each estimate."""
    clean, corrupted, right, wrong = pair
    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(model.cfg.n_layers)]
    real = torch.ones_like(clean, dtype=torch.bool)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1, right] - logits[:, -1, wrong]

    def run(tokens: torch.Tensor, hooks: FwdHooks | None = None) -> tuple[dict, dict]:
        return gradients_of(metric, model, tokens, real, [*names, "hook_embed"], hooks)

    (own, slopes), (other, _) = run(clean), run(corrupted)
    between = [
        torch.lerp(own["hook_embed"], other["hook_embed"], (step + 0.5) / n_steps)
        for step in range(n_steps)
    ]
    steps = [run(clean, [("hook_embed", lambda old, hook, to=to: to)])[1] for to in between]
    by_estimate = {
        "gradient": slopes,
        "integrated_gradients": {
            name: sum(step[name] for step in steps) / n_steps for name in names
        },
        "relp": run(clean, relevance_hooks(model))[1],
    }
    start = int(torch.nonzero(clean[0] != corrupted[0])[0, 0])
    found = {"exact": patched(model, metric, clean, {name: other[name] for name in names}, start)}
    for estimate, gradients in by_estimate.items():
        products = [((other[name] - own[name]) * gradients[name])[0, start:] for name in names]
        found[estimate] = torch.stack(products).sum(-1).flatten().cpu().numpy()
    return found


def patched(
    model: tlm.HookedModel,
    metric: Callable[[torch.Tensor], torch.Tensor],
    tokens: torch.Tensor,
    other: dict[str, torch.Tensor],
    start: int,
) -> np.ndarray:
    """The metric's change when one hook point takes another run's value at one position."""
    positions = torch.arange(start, tokens.shape[1])
    rows = torch.arange(len(positions))
    copies = tokens.repeat(len(positions), 1)
    before = metric(forward(model, tokens, None, []))

    def effects(name: str) -> torch.Tensor:
        def hook_fn(activation: torch.Tensor, hook: object = None) -> torch.Tensor:
            changed = activation.clone()
            changed[rows, positions] = other[name][0, positions]
            return changed

        return metric(forward(model, copies, None, [(name, hook_fn)])) - before

    return torch.cat([effects(name) for name in other]).cpu().numpy()


if __name__ == "__main__":
    main()
