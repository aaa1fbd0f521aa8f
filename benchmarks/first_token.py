"""What ablation shows when the first token is treated in different ways.

Some neurons are a thousand times larger at a prompt's first token than elsewhere, so that their
mean over all tokens fits neither the first token nor any other. Each way to ablate is measured on
the same modules, controls and prompts:

- each module's effect on its own category, and its controls' mean effect there;
- z of its selectivity beside the controls, and how many modules exceed all of them;
- the correlation of the effects (module x category) between two halves of the prompts;
- the correlation over single units of the loss' rise with the rise under patching from another
  prompt, which needs no mean.

    python -m benchmarks.first_token
    python -m benchmarks.first_token --model gemma-3-270m --per-category 2 --controls 4 --units 12
    python -m benchmarks.first_token --truth ../shared/truth   # models whose modules are known
"""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch

import tl_modules as tlm
from benchmarks.search import PUBLIC
from tl_modules.causal import metrics
from tl_modules.causal.experiment import Experiment, run_experiment
from tl_modules.causal.options import Options
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.models.content_tokens import content_masks
from tl_modules.models.tokens import tokenise

WAYS: dict[str, dict[str, Any]] = {
    "mean over all tokens, everywhere": {"method": "mean", "positions": "all"},
    "position mean, everywhere": {"method": "position_mean", "positions": "all"},
    "mean over content, sinks left alone": {"method": "mean", "positions": "content"},
    "mean over content, first token left alone": {"method": "mean", "positions": "content"},
}
FIRST_ALONE = "mean over content, first token left alone"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--truth", type=Path, help="a folder of models whose modules are known")
    parser.add_argument("--modules", type=int, default=7)
    parser.add_argument("--collected", type=int, default=20, help="prompts per category (20)")
    parser.add_argument("--per-category", type=int, default=3, help="tested prompts (3)")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--controls", type=int, default=9)
    parser.add_argument("--units", type=int, default=24, help="single units (24)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    if args.truth is None:
        model = load_model(args.model)
        acts, tested = prepared(model, args)
        modules = list(tlm.discover(acts, args.modules, seed=args.seed, progress=False))
        compare(args.model, model, acts, modules, tested, args)
        return
    sys.path.insert(0, str(args.truth))
    import truth_models

    for path in sorted(args.truth.glob("*.safetensors")):
        model, owner, tables = truth_models.load(path)
        counts = (args.collected,) * truth_models.TASKS
        acts = tlm.collect(model, truth_models.prompts(tables, counts, 0), progress=False)
        tested = truth_models.prompts(tables, (args.per_category,) * truth_models.TASKS, 1)
        compare(path.stem, model, acts, owners(acts, owner), tested, args)


def prepared(model: Any, args: argparse.Namespace) -> tuple[tlm.ActivationMatrix, pd.DataFrame]:
    """The activations to discover modules in, and prompts of other sources to test on."""
    if PUBLIC.is_file():
        prompts = pd.read_json(PUBLIC, lines=True)
        prompts = prompts.sample(frac=1, random_state=args.seed)
        # Each category's last source is held out.
        last = prompts.groupby("category")["source"].transform("max")
        several = prompts.groupby("category")["source"].transform("nunique") > 1
        held_out, rest = prompts[(prompts["source"] == last) & several], prompts
        rest = prompts.drop(held_out.index)
        single = rest[~several.loc[rest.index]].groupby("category").head(args.per_category)
        held_out, rest = pd.concat([held_out, single]), rest.drop(single.index)
    else:
        prompts = load_prompts().sample(frac=1, random_state=args.seed)
        held_out = prompts.groupby("category").head(args.per_category)
        rest = prompts.drop(held_out.index)
    tested = held_out.groupby("category").head(args.per_category)[["prompt", "category"]]
    collected = rest.groupby("category").head(args.collected)[["prompt", "category"]]
    options: dict[str, Any] = {"max_tokens": args.max_tokens, "progress": False}
    return tlm.collect(model, collected, **options), tested.reset_index(drop=True)


def owners(acts: tlm.ActivationMatrix, owner: np.ndarray) -> list[tlm.Module]:
    """The true modules."""
    category = acts.samples["category"]
    return [
        tlm.Module(
            k, acts.units.select(owner == k), acts.samples[category == f"task{k}"], means=acts
        )
        for k in range(int(owner.max()) + 1)
    ]


def compare(
    name: str,
    model: Any,
    acts: tlm.ActivationMatrix,
    modules: Sequence[tlm.Module],
    tested: pd.DataFrame,
    args: argparse.Namespace,
) -> None:
    """Measure and print one model's table."""
    cut: dict[str, Any] = {"max_tokens": args.max_tokens, "progress": False}
    reference = tlm.collect_reference(model, acts.samples[["prompt"]], n_tokens=1, **cut)
    tokens = tokenise(model, tested["prompt"].tolist(), args.max_tokens, least=2)
    masks = content_masks(model, tokens, args.batch_size)
    n_more = sum(int((~mask[1:]).sum()) for mask in masks)
    print(
        f"\n{name}: {len(modules)} modules, {len(acts.samples)} prompts collected, {len(tested)} "
        f"tested, {sum(map(len, tokens))} tokens; {args.controls} controls. Besides the first "
        f"token of each prompt, {n_more} tokens are special or sinks.\n",
        flush=True,
    )
    units = lively_units(acts, args.units, args.seed)
    patched = unit_effects(
        model, units, acts, paired(model, tested, args), args, {"method": "patch"}
    )
    rows = {}
    for way, options in WAYS.items():
        if way == FIRST_ALONE and not n_more:
            continue  # the same tokens as with sinks left alone
        given = {"reference": reference if options["method"] == "position_mean" else acts} | options
        with mock.patch.object(
            metrics, "content_masks", first_alone if way == FIRST_ALONE else content_masks
        ):
            experiment = run_experiment(model, modules, tested, options_of(args, given))
            alone = unit_effects(model, units, acts, tested, args, given)
        rows[way] = summary(experiment) | {"r with patching": correlation(alone, patched)}
        shown = ", ".join(f"{k}: {v}" for k, v in rows[way].items())
        print(f"{way}\n    {shown}", flush=True)


def options_of(args: argparse.Namespace, given: Mapping[str, Any], n_controls: int = -1) -> Options:
    """The options of an experiment."""
    return Options(
        **{
            "metric": "loss",
            "separator": None,
            "method": "mean",
            "positions": "all",
            "reference": None,
            "factor": None,
            "keep_only": False,
            "n_controls": args.controls if n_controls < 0 else n_controls,
            "controls": "layer",
            "exclude": None,
            "batch_size": args.batch_size,
            "max_tokens": args.max_tokens,
            "seed": args.seed,
            "progress": False,
        }
        | given
    )


def first_alone(
    model: Any, token_lists: Sequence[torch.Tensor], batch_size: int
) -> list[torch.Tensor]:
    """Masks of every token but the first."""
    del model, batch_size
    return [torch.arange(len(tokens)) > 0 for tokens in token_lists]


def lively_units(acts: tlm.ActivationMatrix, n_units: int, seed: int) -> Sequence[tlm.Units]:
    """Single units, drawn from the 5 % that are most active in the median prompt."""
    level = np.median(np.asarray(acts.values), axis=0)
    pool = np.argsort(-level)[: max(len(level) // 20, n_units)]
    drawn = np.random.default_rng(seed).choice(pool, size=n_units, replace=False)
    return [acts.units.select(np.array([unit])) for unit in drawn]


def paired(model: Any, tested: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """The tested prompts, each with another category's prompt cut to as many tokens."""
    texts = tested["prompt"].tolist()
    tokens = tokenise(model, texts, args.max_tokens, least=2)
    category = tested["category"].tolist()
    tokenizer = model.tokenizer
    rows = []
    for row, own in enumerate(tokens):
        for step in range(1, len(tokens)):
            other = (row + step) % len(tokens)
            if category[other] == category[row] or len(tokens[other]) < len(own):
                continue
            text = tokenizer.decode(tokens[other][: len(own)], skip_special_tokens=True)
            again = tokenise(model, [text], args.max_tokens, least=2)[0]
            if len(again) == len(own):
                rows.append({"prompt": texts[row], "category": category[row], "corrupted": text})
                break
    return pd.DataFrame(rows)


def unit_effects(
    model: Any,
    units: Sequence[tlm.Units],
    acts: tlm.ActivationMatrix,
    tested: pd.DataFrame,
    args: argparse.Namespace,
    given: Mapping[str, Any],
) -> np.ndarray:
    """The mean rise of the loss by unit, each ablated or patched alone."""
    alone = [tlm.Module(n, each, acts.samples, means=acts) for n, each in enumerate(units)]
    found = run_experiment(model, alone, tested, options_of(args, given, n_controls=0))
    return np.array([outcome.rises[0].mean() for outcome in found.outcomes])


def summary(experiment: Experiment) -> dict[str, Any]:
    """One way's figures."""
    categories = experiment.categories
    names = list(dict.fromkeys(categories.tolist()))
    halves = np.zeros(len(categories), dtype=bool)
    for name in names:
        halves[np.flatnonzero(categories == name)[::2]] = True
    own, controls, z, beyond = [], [], [], 0
    tables: list[list[np.ndarray]] = [[], []]
    for outcome in experiment.outcomes:
        effects = np.stack([outcome.rises[:, categories == name].mean(1) for name in names], 1)
        column = names.index(str(outcome.trial.category))
        others = np.delete(effects, column, axis=1).mean(1)
        selectivity = effects[:, column] - others
        own.append(effects[0, column])
        controls.append(effects[1:, column].mean())
        z.append((selectivity[0] - selectivity[1:].mean()) / selectivity[1:].std(ddof=1))
        beyond += int(selectivity[0] > selectivity[1:].max())
        for half, table in zip((halves, ~halves), tables, strict=True):
            table.append(
                np.array([outcome.rises[0, half & (categories == name)].mean() for name in names])
            )
    cells = [f"{e:.2f} ({c:.2f})" for e, c in zip(own, controls, strict=True)]
    return {
        "own effects (controls)": " ".join(cells),
        "mean": f"{np.mean(own):.2f} ({np.mean(controls):.2f})",
        "z": f"{min(z):.1f} to {max(z):.1f}, mean {np.mean(z):.1f}",
        "beyond all controls": f"{beyond} of {len(own)}",
        "r of halves": correlation(*(np.concatenate(table) for table in tables)),
    }


def correlation(one: np.ndarray, other: np.ndarray) -> str:
    """Pearson's r and Spearman's."""
    ranks = (pd.Series(each).rank().to_numpy() for each in (one, other))
    return f"{np.corrcoef(one, other)[0, 1]:.2f} (ranks {np.corrcoef(*ranks)[0, 1]:.2f})"


if __name__ == "__main__":
    main()
