"""Restarts against iterated local search, at equal time, on SmolLM2's activations.

    python -m benchmarks.search [--acts FILE] [--modules 5 10 20] [--restarts 10]

Without ``--acts`` it collects the public prompts beside the project, cut at 128 tokens, or the
project's own prompts where those are absent.
"""

import argparse
import time
from pathlib import Path

import pandas as pd

import tl_modules as tlm
from tl_modules.data import load_demo_model, load_prompts, read_prompts
from tl_modules.discovery.from_arrays import iterd
from tl_modules.discovery.local_search import improve
from tl_modules.discovery.products import InMemory

PUBLIC = Path(__file__).parents[2] / "shared" / "data" / "abilities-public.jsonl"


def public_prompts() -> pd.DataFrame:
    """The public prompts beside the project, or its own; says which."""
    if PUBLIC.exists():
        print(f"prompts: {PUBLIC.name}")
        return read_prompts(PUBLIC)
    print(f"prompts: the project's own ({PUBLIC.name} is not beside the project)")
    return load_prompts()


def given_or_collected(path: str | Path | None, max_tokens: int) -> tlm.ActivationMatrix:
    """The demo model's activations on the public prompts: saved before, or collected now."""
    if path is not None:
        return tlm.ActivationMatrix.load(path)
    return tlm.collect(load_demo_model(), public_prompts(), max_tokens=max_tokens)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--acts", type=Path, help="an ActivationMatrix saved before")
    parser.add_argument("--modules", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--restarts", type=int, default=10)
    args = parser.parse_args()
    acts = given_or_collected(args.acts, 128)
    print(acts)
    matrix = acts.zscore().values
    iterd(matrix[:50, :100], 2)  # compile
    for n_modules in args.modules:
        compare(matrix, n_modules, args.restarts)


def compare(matrix, n_modules: int, n_restarts: int) -> None:
    """One K: the best of the restarts, then kicks for as long as the restarts took."""
    started = time.perf_counter()
    runs = [iterd(matrix, n_modules, max_rounds=200, seed=seed) for seed in range(n_restarts)]
    allowed = time.perf_counter() - started
    values = [run.objective.L for run in runs]
    print(
        f"K = {n_modules}: {n_restarts} restarts, {allowed:.1f} s: best L = {max(values):,.0f}, "
        f"worst {min(values):,.0f}, one run {values[0]:,.0f}"
    )
    products = InMemory(matrix)
    started = time.perf_counter()
    best = iterd(matrix, n_modules, max_rounds=200, seed=0)
    n_kicks = 0
    while time.perf_counter() - started < allowed:
        best = improve(products, n_modules, best, n_kicks=1, max_rounds=200, seed=n_kicks)
        n_kicks += 1
    gain = best.objective.L / max(values) - 1
    print(
        f"K = {n_modules}: one start and {n_kicks} kicks, {time.perf_counter() - started:.1f} s: "
        f"L = {best.objective.L:,.0f} ({gain:+.3%} against the best restart)"
    )


if __name__ == "__main__":
    main()
