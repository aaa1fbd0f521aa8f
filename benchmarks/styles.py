"""Do models use an implicit or a late premise, and which modules does each style of asking engage?

The project's own questions (``load_prompts("premises")``) are asked directly, step by step, and
after all relevant information was said again (language of thoughts, arXiv 2505.12896). Modules are
discovered on other prompts.

    python -m benchmarks.styles
    python -m benchmarks.styles --questions 8 --figure docs/images/styles.png
"""

import argparse
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.plots.style import COLOURS, GREY, interval
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
    parser.add_argument("--figure", type=Path)
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
    correct = accuracies(runs, explicit)
    print(correct.to_string(index=False))
    hidden = runs["direct"].beside(explicit)
    print("\nThe question alone, asked directly: as it is minus with explicit premises\n")
    print(hidden[hidden["measure"] == "correct_at_first"].round(3).to_string(index=False))
    pairs = {}
    for one, other in combinations(STYLES, 2):
        title = f"{other} minus {one}"
        print(f"\n{title}, paired by question\n")
        pairs[title] = runs[other].beside(runs[one]).assign(measure=names_of(modules))
        print(pairs[title].round(3).to_string(index=False), flush=True)
    if args.figure is not None:
        draw(figure_of(correct, pairs), args.figure)


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


def figure_of(correct: pd.DataFrame, pairs: dict[str, pd.DataFrame]) -> Any:
    """Accuracy by style, and the styles' differences of each module, with 95 % intervals."""
    from plotly.subplots import make_subplots

    titles = ["all questions", "modules over the thoughts"]
    figure = make_subplots(1, 2, column_titles=titles, horizontal_spacing=0.2)
    everything = correct[correct["premises"] == "all"]
    for number, (state, rows) in enumerate(everything.groupby("after", sort=False)):
        marks = {"name": f"after the {state}", "marker_color": COLOURS[number], "mode": "markers"}
        bars = {"error_y": interval(rows, "correct", "ci_low", "ci_high")}
        places = np.arange(len(rows)) + 0.2 * (number - 0.5)
        figure.add_scatter(x=places, y=rows["correct"], **marks, **bars, row=1, col=1)
    line = {"line_color": GREY, "line_width": 1}  # the template draws none
    figure.add_hline(everything["chance"].iloc[0], line_dash="dot", **line, row=1, col=1)
    for number, (title, table) in enumerate(pairs.items()):
        rows = table[table["measure"].str.startswith("module")]
        marks = {"name": title, "marker_color": COLOURS[number + 2], "mode": "markers"}
        bars = {"error_x": interval(rows, "difference", "ci_low", "ci_high")}
        places = np.arange(len(rows)) + 0.2 * (number - 1)
        figure.add_scatter(x=rows["difference"], y=places, **marks, **bars, row=1, col=2)
    names = [name.removeprefix("module ") for name in rows["measure"]]
    figure.add_vline(0, **line, row=1, col=2)
    figure.update_xaxes(tickvals=[0, 1, 2], ticktext=STYLES, row=1, col=1)
    figure.update_yaxes(title_text="correct choice is nearest", range=[0, 1.02], row=1, col=1)
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "autorange": "reversed"}
    figure.update_yaxes(**ticks, row=1, col=2)
    figure.update_xaxes(title_text="difference (1 = the average activity)", row=1, col=2)
    return figure.update_layout(template="simple_white", width=1000, height=420, margin_t=40)


def names_of(modules: tlm.ModuleSet) -> list[str]:
    """The measures of ``Thoughts.beside``, with the modules' categories."""
    measures = ["correct_at_first", "is_correct", "uncertainty", "n_thoughts"]
    return [*measures, *(f"module {each.label}, {each.category}" for each in modules)]


if __name__ == "__main__":
    main()
