"""As many controls as each test needs, against a fixed number: decisions and passes.

    python -m benchmarks.controls [--per-category 2] [--max-tokens 16] [--fixed 999]

The demo model's modules (K = 7, from the project's prompts) are tested on held-out prompts, once
with the default of ``module_effects`` and once with a fixed number of controls. Both draw the same
controls, as far as they go.
"""

import argparse
import time

import pandas as pd

import tl_modules as tlm
from tl_modules.data import load_demo_model, load_prompts

LEVEL = 0.05
RUNS_PER_BATCH = 16


def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-category", type=int, default=2, help="held-out prompts")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--modules", type=int, default=7)
    parser.add_argument("--fixed", type=int, default=999, help="controls of the fixed number")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, prompts = load_demo_model(), load_prompts()
    held_out = prompts.groupby("category", sort=False).tail(args.per_category)
    acts = tlm.collect(model, prompts.drop(held_out.index))
    modules = tlm.discover(acts, args.modules, seed=args.seed)

    def measured(n_controls: int | None) -> tuple[pd.DataFrame, float]:
        started = time.perf_counter()
        effects = tlm.module_effects(
            model,
            modules,
            held_out,
            n_controls=n_controls,
            max_tokens=args.max_tokens,
            batch_size=RUNS_PER_BATCH * len(held_out),
            seed=args.seed,
        )
        return effects.drop_duplicates("module"), time.perf_counter() - started

    needed, seconds = measured(None)
    fixed, fixed_seconds = measured(args.fixed)
    table = pd.DataFrame({"module": needed["module"], "selectivity": needed["selectivity"]})
    same = True
    for name, column in (("p", "selectivity_p_value"), ("p_holm", "selectivity_p_holm")):
        table[name] = needed[column]
        table[f"{name}_fixed"] = fixed[column]
        same = same and ((needed[column] <= LEVEL) == (fixed[column] <= LEVEL)).all()
    table["n_controls"] = needed["n_controls"]
    print(table.round(4).to_string(index=False))
    n_runs = 1 + (1 + needed["n_controls"]).sum()
    n_fixed = 1 + len(fixed) * (1 + args.fixed)
    print(f"decisions at {LEVEL} (alone, and after Holm) are {'equal' if same else 'not equal'}")
    print(f"runs of the prompts: {n_runs} against {n_fixed} (ratio {n_runs / n_fixed:.2f})")
    print(
        f"seconds: {seconds:.0f} against {fixed_seconds:.0f} (ratio {seconds / fixed_seconds:.2f})"
    )


if __name__ == "__main__":
    main()
