"""Do models use an implicit or a late premise, and which modules does each style of asking engage?

The project's own questions (``load_prompts("premises")``) are asked directly, step by step, and
after all relevant information was said again (language of thoughts, arXiv 2505.12896). Modules are
discovered on other prompts.

    python -m benchmarks.styles
"""

import argparse
from itertools import combinations

import numpy as np
import pandas as pd

import tl_modules as tlm
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices, percentile_interval
from tl_modules.thoughts.styles import STYLES


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=8, help="a category, for the modules")
    parser.add_argument("--max-tokens", type=int, default=32, help="of these prompts")
    parser.add_argument("--questions", type=int, default=12, help="of each kind of premise")
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--plain", action="store_true", help="without the chat template")
    args = parser.parse_args()
    model = load_model(args.model)
    prompts = load_prompts().groupby("category").head(args.prompts)
    acts = tlm.collect(model, prompts, max_tokens=args.max_tokens, progress=False)
    modules = tlm.discover(acts, args.modules, progress=False)
    print([module.category for module in modules], flush=True)
    questions = load_prompts("premises").groupby("category").head(args.questions)
    options = {"modules": modules, "chat": not args.plain, "progress": False}
    runs = {}
    for style in STYLES:
        runs[style] = tlm.thoughts.thought_states(
            model, questions, style=style, n_new_tokens=args.new_tokens, **options
        )
        print(f"\n{style}: {runs[style]!r}", flush=True)
        print(first_chain(runs[style]), flush=True)
    # Only the question alone matters here, so that one token is written.
    said = questions.assign(prompt=questions["explicit"])
    explicit = tlm.thoughts.thought_states(model, said, style="direct", n_new_tokens=1, **options)
    print("\nThe correct choice is nearest\n")
    print(accuracies(runs, explicit).to_string(index=False))
    hidden = runs["direct"].beside(explicit)
    print("\nThe question alone, asked directly: as it is minus with explicit premises\n")
    print(hidden[hidden["measure"] == "correct_at_first"].round(3).to_string(index=False))
    for one, other in combinations(STYLES, 2):
        print(f"\n{other} minus {one}, paired by question\n")
        table = runs[other].beside(runs[one]).assign(measure=names_of(modules))
        print(table.round(3).to_string(index=False), flush=True)


def first_chain(run: tlm.thoughts.Thoughts) -> str:
    """The first question's chain, to see what a style makes the model write."""
    thoughts = run.states["thought"][(run.of_chain == 0) & (run.states["step"] > 0)]
    return " | ".join(thoughts)


def accuracies(
    runs: dict[str, tlm.thoughts.Thoughts], explicit: tlm.thoughts.Thoughts
) -> pd.DataFrame:
    """How often the correct choice is nearest, with 95 % intervals over the questions."""
    rows = []
    for style, run in runs.items():
        chains = run.chains()
        parts = {"all": chains} | dict(iter(chains.groupby("category")))
        for premises, part in parts.items():
            for state, name in (("question", "correct_at_first"), ("last thought", "is_correct")):
                rows.append((style, premises, state, *mean_of(part[name]), 1 / run.n_choices))
    first = explicit.chains()["correct_at_first"]
    rows.append(("direct", "all, explicit", "question", *mean_of(first), 1 / explicit.n_choices))
    names = ["style", "premises", "after", "n", "correct", "ci_low", "ci_high", "chance"]
    return pd.DataFrame(rows, columns=names).round(3)


def mean_of(values: pd.Series | pd.DataFrame) -> tuple[int, float, float, float]:
    """The number of questions, their mean, and the interval of the mean."""
    numbers = values.to_numpy(float)
    draws = bootstrap_indices(np.zeros(len(numbers)), N_RESAMPLES, seed=0)
    low, high = percentile_interval(numbers[draws].mean(axis=1))
    return len(numbers), float(numbers.mean()), float(low), float(high)


def names_of(modules: tlm.ModuleSet) -> list[str]:
    """The measures of ``Thoughts.beside``, with the modules' categories."""
    measures = ["correct_at_first", "is_correct", "uncertainty", "n_thoughts"]
    return [*measures, *(f"module {each.label}, {each.category}" for each in modules)]


if __name__ == "__main__":
    main()
