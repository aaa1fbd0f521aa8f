"""Chains of thought of a model on the project's multiple-choice questions, state by state.

Modules are discovered on the first prompts of each of the seven categories.

python -m benchmarks.thoughts
python -m benchmarks.thoughts --figure docs/images/thoughts.png
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.tables.bootstrap import bootstrap_indices, percentile_interval
from tl_modules.tables.p_values import sign_flip_p_value


def main() -> None:
    """Print the numbers, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=12, help="a category, for the modules")
    parser.add_argument("--new-tokens", type=int, default=60)
    parser.add_argument("--plain", action="store_true", help="without the chat template")
    parser.add_argument("--states", type=Path, help="write the states to this CSV file")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    acts = tlm.collect(model, load_prompts().groupby("category").head(args.prompts))
    modules = tlm.discover(acts, args.modules, n_starts=8)
    questions = load_prompts("choices")
    options = {"modules": modules, "chat": not args.plain}
    thoughts = tlm.thoughts.thought_states(
        model, questions, n_new_tokens=args.new_tokens, **options
    )
    if args.states is not None:
        thoughts.states.to_csv(args.states, index=False)
    print(accuracy(thoughts).to_string(index=False))
    print(thoughts.steps().iloc[:, :5].round(3).to_string(index=False))
    print(thoughts.beside_correctness().round(3).to_string(index=False))
    print([module.category for module in modules])
    chains = of_other_questions(thoughts)
    given = tlm.thoughts.thought_states(
        model, questions.take(list(chains)), chains=list(chains.values()), **options
    )
    print(beside_other_thoughts(thoughts, given, list(chains)).to_string(index=False))
    if args.figure is not None:
        draw(tlm.plots.plot_thoughts(thoughts, modules=modules), args.figure)


def accuracy(thoughts: tlm.thoughts.Thoughts) -> pd.DataFrame:
    """How often the correct choice is nearest, before the first thought and after the last."""
    chains = thoughts.chains()
    first, last = (chains[name].to_numpy(float) for name in ("correct_at_first", "is_correct"))
    draws = bootstrap_indices(np.zeros(len(chains)), 2000, seed=0)
    rows = []
    for name, values in (("first", first), ("last", last), ("last - first", last - first)):
        low, high = percentile_interval(values[draws].mean(axis=1))
        p_value = sign_flip_p_value(values) if name == "last - first" else np.nan
        rows.append((name, values.mean(), float(low), float(high), p_value))
    found = pd.DataFrame(rows, columns=["state", "correct", "ci_low", "ci_high", "p_value"])
    return found.assign(chance=1 / thoughts.n_choices).round(3)


def of_other_questions(thoughts: tlm.thoughts.Thoughts) -> dict[int, str]:
    """What was written on the question before each, by row; left out where that is nothing."""
    later = thoughts.states.loc[thoughts.states["step"] > 0]
    said = later["thought"].groupby(thoughts.of_chain[later.index]).agg(" ".join)
    n_chains = thoughts.of_chain[-1] + 1
    return {(row + 1) % n_chains: text for row, text in sorted(said.items()) if text.strip()}


def beside_other_thoughts(
    own: tlm.thoughts.Thoughts, other: tlm.thoughts.Thoughts, rows: list[int]
) -> pd.DataFrame:
    """Last states after the question's own thoughts, and after another question's, paired."""
    draws = bootstrap_indices(np.zeros(len(rows)), 2000, seed=0)
    found = []
    for name in ("is_correct", "uncertainty"):
        mine, theirs = (
            each.states.groupby(each.of_chain)[name].last().to_numpy(float) for each in (own, other)
        )
        less = mine[rows] - theirs
        low, high = percentile_interval(less[draws].mean(axis=1))
        numbers = (mine[rows].mean(), theirs.mean(), less.mean(), float(low), float(high))
        found.append((name, *numbers, sign_flip_p_value(less)))
    names = ["last state", "own", "other", "difference", "ci_low", "ci_high", "p_value"]
    return pd.DataFrame(found, columns=names).round(3)


if __name__ == "__main__":
    main()
