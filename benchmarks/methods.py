"""Two methods of discovery on a real model: agreement, held-out accuracy and selectivity.

    python -m benchmarks.methods [--acts FILE] [--modules 5 10 20] [--splits 6]
    python -m benchmarks.methods --selectivity [--controls 3] [--splits 2]

Each split halves the prompts of every category at random. Modules are discovered on one half.
Printed is the mean of each method, and the mean difference of ``--method`` from ``ulcmod`` with its
95 % interval (t of the splits; with ``--selectivity`` of the modules, bootstrapped).

- ``halves_ari``: agreement of the units' labels between two halves of the discovery's half;
- ``svc_accuracy``, ``lr_accuracy``: the category of a prompt of the other half, predicted from the
  modules' mean activations;
- ``selectivity``: of each module, measured on the project's own prompts (nats per token).

Without ``--acts`` it collects the public prompts beside the project, or the project's own.
"""

import argparse
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, t

import tl_modules as tlm
from benchmarks.search import given_or_collected
from tl_modules.data import load_demo_model, load_prompts

PAPER = "iterd"
MEASURES = ("halves_ari", "svc_accuracy", "lr_accuracy")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--acts", help="an ActivationMatrix saved before")
    parser.add_argument("--modules", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--method", default="topics_first", help="compared with ulcmod")
    parser.add_argument("--splits", type=int, default=6)
    parser.add_argument("--selectivity", action="store_true", help="run the model instead")
    parser.add_argument("--controls", type=int, default=3)
    parser.add_argument("--per-category", type=int, default=2, help="tested prompts")
    parser.add_argument("--max-tokens", type=int, default=64)
    args = parser.parse_args()
    acts = given_or_collected(args.acts, args.max_tokens)
    print(acts)
    if args.selectivity:
        print_selectivity(acts, args)
    else:
        print_agreement(acts, args)


def print_agreement(acts: tlm.ActivationMatrix, args: argparse.Namespace) -> None:
    """Means over the splits, and differences from the paper's method."""
    tables = []
    for split in range(args.splits):
        train, test = tlm.split_by_category(acts, test_share=0.5, seed=split)
        methods: Any = [PAPER, args.method]
        table = tlm.compare_methods(
            train, test, args.modules, methods=methods, n_seeds=1, seed=split, progress=False
        )
        tables.append(table.assign(split=split))
        print(f"split {split} measured", flush=True)
    table = pd.concat(tables)
    print(table.groupby(["n_modules", "method"], sort=False)[list(MEASURES)].mean().round(3))
    by_method = table.set_index(["n_modules", "split", "method"])[list(MEASURES)].unstack()
    print(f"\n{args.method} - {PAPER}")
    for name in MEASURES:
        differences = by_method[name][args.method] - by_method[name][PAPER]
        for k, values in differences.groupby("n_modules"):
            half = t.ppf(0.975, len(values) - 1) * values.sem()
            print(f"K = {k:<3} {name:13} {values.mean():+.3f} +- {half:.3f}")


def print_selectivity(acts: tlm.ActivationMatrix, args: argparse.Namespace) -> None:
    """Mean selectivity of the modules of each method, with the interval of the difference."""
    model = load_demo_model()
    own = load_prompts()
    known = own[own["category"].isin(set(acts.samples["category"]))]
    tested = known.groupby("category").tail(args.per_category)
    for k in args.modules:
        found: dict[str, list[float]] = {"ulcmod": [], args.method: []}
        for split in range(args.splits):
            train, _ = tlm.split_by_category(acts, test_share=0.5, seed=split)
            for method, values in found.items():
                named: Any = method
                modules = tlm.discover(train, k, method=named, seed=split, progress=False)
                effects = tlm.module_effects(
                    model,
                    modules,
                    tested[["prompt", "category"]],
                    n_controls=args.controls,
                    max_tokens=24,
                    batch_size=8 * len(tested),
                    seed=split,
                    progress=False,
                )
                values.extend(effects.drop_duplicates("module")["selectivity"].dropna())
        paper, other = found["ulcmod"], found[args.method]
        difference = bootstrap((other, paper), lambda a, b: np.mean(a) - np.mean(b), rng=0)
        low, high = difference.confidence_interval
        print(
            f"K = {k:<3} selectivity: ulcmod {np.mean(paper):.3f}, {args.method} "
            f"{np.mean(other):.3f}, difference {np.mean(other) - np.mean(paper):+.3f} "
            f"[{low:+.3f}, {high:+.3f}]",
            flush=True,
        )


if __name__ == "__main__":
    main()
