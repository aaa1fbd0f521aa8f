"""Which tokens to read, how to aggregate and normalise them: L, stability, held-out accuracy.

    python -m benchmarks.readings [--model demo] [--per-category 100] [--max-tokens 64] [--out FILE]
        [--effects] [--junk 0.2]

Prompts are the public ones beside the project, or the project's own where those are absent. One
pass in plain form and one in chat form (where the tokenizer has a template) serve all readings.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

import tl_modules as tlm
from benchmarks.search import public_prompts
from tl_modules.activations.normalise import NORMALISATIONS
from tl_modules.activations.prompt_tokens import prompt_tokens
from tl_modules.activations.reading import WEIGHTS, Reading
from tl_modules.data.models import load_model
from tl_modules.models.batches import batches
from tl_modules.models.runs import run_hooks_only
from tl_modules.tables.prompt_frames import prompt_frame

TOKENS = ("all", "content", "last")
AGGREGATES = ("rms", "max", "fraction_active")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--per-category", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--modules", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--effects", action="store_true", help="also every weight with gradients")
    parser.add_argument(
        "--junk", type=float, default=0, help="add this share of prompts of random symbols"
    )
    parser.add_argument("--only-sinks", action="store_true", help="only what the first token does")
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    args = parser.parse_args()
    prompts = prompt_frame(public_prompts().groupby("category", sort=False).head(args.per_category))
    prompts = with_junk(prompts, args.junk)
    model = load_model(args.model)
    print(f"{len(prompts)} prompts, cut at {args.max_tokens} tokens, K = {args.modules}")
    found: dict[str, tlm.ActivationMatrix] = {}
    for chat in (False,) if args.only_sinks else (False, True):
        if chat and not getattr(model.tokenizer, "chat_template", None):
            print("The tokenizer has no chat template: plain form only.")
            continue
        found |= collected(model, prompts, chat, args)
    if args.effects:
        for weight in WEIGHTS[1:]:
            acts = tlm.collect(
                model,
                prompts,
                weight=weight,
                max_tokens=args.max_tokens,
                batch_size=args.batch_size,
            )
            samples = acts.samples.assign(length=acts.samples["n_tokens"])
            found[f"all, {weight}"] = replace(acts, samples=samples)
    reference = found["all"]
    sinks(found.pop("BOS"), found["content"], reference)
    if args.only_sinks:
        return
    rows = {}
    for name, acts in found.items():
        kinds = NORMALISATIONS if name == "all" else ("zscore",)
        for kind in kinds:
            label = name if kind == "zscore" else f"{name}, normalise={kind}"
            rows[label] = figures(acts, reference, kind, args.modules)
            print(f"{label}: {rows[label]}", flush=True)
    table = pd.DataFrame(rows).T
    print(f"\n{table.round(3).to_string()}")
    if args.out is not None:
        table.to_csv(args.out, index_label="reading")


def with_junk(prompts: pd.DataFrame, share: float) -> pd.DataFrame:
    """Add prompts of 20 random symbols, so that they are this share of all."""
    generator = np.random.default_rng(0)
    n = round(len(prompts) * share / (1 - share))
    if not n:
        return prompts
    symbols = list("!#$%&*+-/:;<=>?@^_|~")
    junk = [" ".join(generator.choice(symbols, 20)) for _ in range(n)]
    frame = pd.DataFrame({"prompt": junk, "category": "junk"})
    return pd.concat([prompts, frame], ignore_index=True)[list(prompts.columns)]


def collected(
    model: tlm.HookedModel,
    prompts: pd.DataFrame,
    chat: bool,
    args: argparse.Namespace,
) -> dict[str, tlm.ActivationMatrix]:
    """One form's readings, from one pass."""
    prefix = "chat, " if chat else ""
    readings = {f"{prefix}{name}": (name, "mean") for name in TOKENS}
    if not chat:
        readings |= {f"content, {how}": ("content", how) for how in AGGREGATES}
        readings["BOS"] = ("first", "mean")
    collectors = {
        name: tlm.Collector(
            model,
            reading=Reading(aggregate=how, tokens=which if which in TOKENS else "all", chat=chat),
        )
        for name, (which, how) in readings.items()
    }
    cases = {
        which: prompt_tokens(model, prompts, Reading(tokens=which, chat=chat), args.max_tokens)
        for which in TOKENS
    }
    token_lists = cases["all"].token_lists
    counted: Mapping[str, list[torch.Tensor]] = {
        which: case.counted for which, case in cases.items()
    }
    counted |= {"first": [torch.arange(len(one)) == 0 for one in token_lists]}
    order = []
    names = next(iter(collectors.values())).names_filter
    bar = tqdm(total=len(prompts), desc=f"collect {prefix or 'plain'}")
    for batch in batches(token_lists, args.batch_size):
        cache: dict[str, torch.Tensor] = {}
        readers = {name: partial(cache.__setitem__, name) for name in names}
        run_hooks_only(model, batch.tokens, batch.mask, readers)
        for name, (which, _) in readings.items():
            mask = torch.nn.utils.rnn.pad_sequence(
                [counted[which][row] for row in batch.rows], batch_first=True
            )
            samples = prompts.iloc[batch.rows].assign(length=batch.mask.sum(1).numpy())
            collectors[name].add(cache, attention_mask=mask, samples=samples)
        order.append(batch.rows)
        bar.update(len(batch.rows))
    position = np.argsort(np.concatenate(order))
    return {name: collector.matrix().select(position) for name, collector in collectors.items()}


def sinks(
    bos: tlm.ActivationMatrix, content: tlm.ActivationMatrix, every: tlm.ActivationMatrix
) -> None:
    """How much larger units are at the first token than at the others, and what it does to them."""
    ratio = bos.values.mean(0) / np.maximum(content.values.mean(0), 1e-8)
    shares = {at: float(np.quantile(ratio, at)) for at in (0.5, 0.9, 0.99, 0.999)}
    print(
        "mean |a| at the first token over that at the prompt's own, by unit: "
        + ", ".join(f"{at:.1%} of units below {value:.2f}" for at, value in shares.items())
        + f"; above 10: {(ratio > 10).mean():.2%}. The largest mean |a| of a unit: "
        f"{bos.values.mean(0).max():,.1f} at the first token, {content.values.mean(0).max():,.1f} "
        "elsewhere"
    )
    correlation = column_correlations(every.zscore().values, content.zscore().values)
    explained = [with_length(acts.values, acts.samples) ** 2 for acts in (every, content)]
    for name, units in (("above 10", ratio > 10), ("others", ratio <= 10)):
        if not units.any():
            continue
        print(
            f"{name}: z-scores with and without the first token correlate at "
            f"{correlation[units].mean():.3f}; 1/length explains {explained[0][units].mean():.3f} "
            f"and {explained[1][units].mean():.3f} of their variance"
        )
    spread = bos.values.std(0).max()
    print(f"over prompts the first token's activations differ by at most {spread:.1e} (std)")


def figures(
    acts: tlm.ActivationMatrix, reference: tlm.ActivationMatrix, kind: str, k: int
) -> dict[str, float]:
    """One reading's numbers."""
    modules = tlm.discover(acts.normalise(kind), k, method="ulcmod")
    halves = tlm.stability(
        acts, k, method="ulcmod", n_seeds=2, n_halves=3, normalise=kind, progress=False
    )
    train, test = tlm.split_by_category(acts)
    parted = tlm.discover(train.normalise(kind), k, method="ulcmod")
    values = acts.normalise(kind).values
    correlation = column_correlations(values, reference.zscore().values)
    by_kind = halves.groupby("kind")["ari"].mean()
    numbers = {
        "L": modules.objective.L,
        "xi": modules.objective.xi,
        "ari_halves": by_kind["halves"],
        "ari_seeds": by_kind["seeds"],
        "svc": tlm.probe_accuracy(parted, train, test, "svc"),
        "lr": tlm.probe_accuracy(parted, train, test, "lr"),
        "r_with_all": np.mean(correlation),
        "r2_of_length": np.mean(with_length(values, acts.samples) ** 2),
    }
    return {name: float(number) for name, number in numbers.items()}


def with_length(values: np.ndarray, samples: pd.DataFrame) -> np.ndarray:
    """Each unit's correlation with one over the prompts' lengths."""
    length = 1 / samples["length"].to_numpy(dtype=np.float64)
    return column_correlations(values, np.repeat(length[:, None], values.shape[1], axis=1))


def column_correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Each column's Pearson correlation; 0 where one is constant."""
    parts = [
        values - values.mean(0, dtype=np.float64).astype(values.dtype) for values in (one, other)
    ]
    sizes = np.prod([np.sqrt((part.astype(np.float64) ** 2).sum(0)) for part in parts], axis=0)
    products = (parts[0].astype(np.float64) * parts[1]).sum(0)
    return products / np.where(sizes > 0, sizes, 1)


if __name__ == "__main__":
    main()
