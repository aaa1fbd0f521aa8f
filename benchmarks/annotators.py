"""How well annotate recovers labels and confusions, and what uncertain labels do to effects.

The truth is known: simulated annotators err by planted confusion matrices. Their consensus stands
beside a majority vote, and effects by their labels beside effects by the true ones.

    python -m benchmarks.annotators --figure docs/images/annotators.png
    python -m benchmarks.annotators --only model --per-category 8
"""

import argparse
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

import tl_modules as tlm
from benchmarks.neighbours import draw
from tl_modules.causal.effect_numbers import EffectNumbers
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.plots.style import COLOURS, GREY, interval
from tl_modules.tables.prompt_labels import KnownLabels, PromptLabels
from tl_modules.tables.uncertain_labels import UncertainLabels

RATES = (0.9, 0.75, 0.6, 0.6)
"""The share of right answers of annotators whose errors fall on all other labels alike."""

MISTAKEN = 0.8
"""The share of the first label's prompts for which the last annotator says the second label."""

ABSTAIN = 0.1
"""The share of prompts on which an annotator abstains."""

N_PROMPTS = (24, 48, 96, 192)
COVERAGES = ((48, False), (96, True))
"""Prompts of which effects are planted, and whether the best annotator is among the annotators."""

PARTS = ("planted", "coverage", "model")


def confusions(n_labels: int) -> Float[np.ndarray, "annotators labels answers"]:
    """The planted confusion matrices: annotators of four qualities, and one with a bias."""
    eye = np.eye(n_labels)
    found = [rate * eye + (1 - rate) / (n_labels - 1) * (1 - eye) for rate in RATES]
    biased = 0.85 * eye + 0.15 / (n_labels - 1) * (1 - eye)
    biased[0] = (1 - MISTAKEN) * eye[0] + MISTAKEN * eye[1]
    return np.stack([*found, biased])


def answers_of(
    truth: Int[np.ndarray, " prompts"], names: list[str], generator: np.random.Generator
) -> list[list[str | None]]:
    """What the planted annotators answer, drawn from their matrices."""
    given: list[list[str | None]] = []
    for confusion in confusions(len(names)):
        codes = [generator.choice(len(names), p=confusion[label]) for label in truth]
        silent = generator.random(len(truth)) < ABSTAIN
        given.append([None if no else names[code] for no, code in zip(silent, codes, strict=True)])
    return given


def vote(answers: list[list[str | None]], names: list[str]) -> list[str]:
    """The rival: the label that most annotators give; of equals the first, as in annotate."""
    rows = zip(*answers, strict=True)
    return [max(names, key=lambda name, row=row: row.count(name)) for row in rows]


def counted(
    answers: list[str | None], labels: list[str], names: list[str]
) -> Float[np.ndarray, "labels answers"]:
    """An annotator's confusion, counted against given labels; NaN without prompts."""
    pairs = pd.crosstab(pd.Series(labels), pd.Series(answers))
    table = pairs.reindex(index=names, columns=names, fill_value=0).to_numpy(dtype=float)
    totals = table.sum(axis=1, keepdims=True)
    return np.where(totals > 0, table / np.maximum(totals, 1), np.nan)


def on_planted(n_draws: int) -> pd.DataFrame:
    """One row per number of prompts: accuracies and errors, means over the draws."""
    names, rows = ["a", "b", "c"], []
    for n_prompts in N_PROMPTS:
        for seed in range(n_draws):
            generator = np.random.default_rng([seed, n_prompts])
            truth = generator.choice(3, size=n_prompts, p=[0.5, 0.3, 0.2])
            right = np.array(names)[truth]
            answers = answers_of(truth, names, generator)
            texts = [f"prompt {row}" for row in range(n_prompts)]
            found = tlm.annotate(texts, answers, labels=names, progress=False)
            by_vote = vote(answers, names)
            planted = confusions(3)
            rival = np.stack([counted(each, by_vote, names) for each in answers])
            surest = found.table["probability"].to_numpy()
            rows.append(
                {
                    "n_prompts": n_prompts,
                    "consensus": float(np.mean(found.table["category"] == right)),
                    "vote": float(np.mean(np.array(by_vote) == right)),
                    "best_annotator": float(np.mean(np.array(answers[0], dtype=object) == right)),
                    "probability": float(surest.mean()),
                    "confusion_error": float(np.nanmean(np.abs(found.confusions - planted))),
                    "vote_confusion_error": float(np.nanmean(np.abs(rival - planted))),
                }
            )
    return pd.DataFrame(rows).groupby("n_prompts").mean().reset_index()


def on_coverage(n_draws: int) -> pd.DataFrame:
    """How often the 95 % interval of a planted selectivity of 1 holds it, by three kinds of labels.

    Half of the prompts have each of two labels. The losses rise by 1 on the first label and by 0 on
    the second, plus noise of standard deviation 1.
    """
    names, rows = ["a", "b"], []
    for (n_prompts, all_annotators), seed in product(COVERAGES, range(n_draws)):
        truth = np.repeat([0, 1], n_prompts // 2)
        texts = [f"prompt {row}" for row in range(n_prompts)]
        generator = np.random.default_rng([seed, 7])
        answers = answers_of(truth, names, generator)[0 if all_annotators else 1 :]
        rises = (truth == 0) + generator.normal(size=n_prompts)
        found = tlm.annotate(texts, answers, labels=names, progress=False)
        kinds: dict[str, PromptLabels] = {
            "true": KnownLabels.of(np.array(names, dtype=object)[truth]),
            "uncertain": UncertainLabels.of(found, texts, seed),
            "consensus as certain": KnownLabels.of(found.table["category"].to_numpy(object)),
        }
        for kind, labels in kinds.items():
            if set(labels.names) != set(names):
                continue  # one label has no prompt
            runs = np.stack([rises, np.zeros(n_prompts)])
            table = EffectNumbers(labels, np.ones(n_prompts), runs, "a", seed, 1.0, None).table()
            low, high = table.loc[0, ["selectivity_ci_low", "selectivity_ci_high"]]
            setting = {"n_prompts": n_prompts, "annotators": len(answers), "labels": kind}
            numbers = {"draws": 1.0, "selectivity": table["selectivity"][0], "width": high - low}
            rows.append({**setting, **numbers, "covers": float(low <= 1 <= high)})
    columns = {"draws": "sum", "selectivity": "mean", "width": "mean", "covers": "mean"}
    by_setting = pd.DataFrame(rows).groupby(["n_prompts", "annotators", "labels"], sort=False)
    return by_setting.agg(columns).reset_index()


def on_model(
    name: str, n_categories: int, per_category: int, max_tokens: int, n_controls: int
) -> pd.DataFrame:
    """Selectivity of one module set by true, uncertain and voted labels, and by groups.

    Modules, groups and effects have prompts of their own. The groups are the model's own embedding,
    and need no label; modules then have the groups' names for categories.
    """
    model: Any = load_model(name)
    every = load_prompts()
    chosen = list(dict.fromkeys(every["category"]))[:n_categories]
    every = every[every["category"].isin(chosen)].groupby("category", sort=False)
    for_groups, fit, held_out = (
        every.nth(slice(at * per_category, (at + 1) * per_category)).reset_index(drop=True)
        for at in range(3)
    )
    names, truth = sorted(chosen), pd.Categorical(held_out["category"], sorted(chosen)).codes
    answers = answers_of(truth.astype(int), names, np.random.default_rng(0))
    annotations = tlm.annotate(held_out, answers, labels=names, progress=False)
    by_vote = vote(answers, names)
    for what, labels in (("consensus", annotations.table["category"]), ("vote", by_vote)):
        n_right = int(np.sum(np.array(labels) == held_out["category"].to_numpy()))
        print(f"{what}: {n_right} of {len(held_out)} held-out labels right")
    read = {"max_tokens": max_tokens, "progress": False}
    groups = tlm.embedding_annotator(model, for_groups, n_categories, **read)
    of_groups = groups.answers(held_out, progress=False)
    print(pd.crosstab(held_out["category"], pd.Series(of_groups, name="group")).to_string())
    acts = tlm.collect(model, fit, **read)
    modules = tlm.discover(acts, n_categories, progress=False)
    most = {
        module.label: pd.Series(groups.answers(module.samples["prompt"], progress=False)).mode()[0]
        for module in modules
        if len(module.samples)
    }
    bare = held_out.drop(columns="category")
    kinds: dict[str, tuple[Any, pd.DataFrame, dict[str, Any]]] = {
        "true": (modules, held_out, {}),
        "uncertain": (modules, bare, {"labels": annotations}),
        "vote": (modules, held_out.assign(category=by_vote), {}),
        "groups": (modules.with_categories(most), held_out.assign(category=of_groups), {}),
    }
    tables = []
    for kind, (targets, prompts, options) in kinds.items():
        effects = tlm.module_effects(
            *(model, targets, prompts), n_controls=n_controls, **options, **read
        )
        found = tlm.verdicts(effects)
        columns = ["module", "category", "selectivity", "ci_low", "ci_high", "control_max"]
        tables.append(found[[*columns, "p_value"]].assign(labels=kind))
    return pd.concat(tables, ignore_index=True)


def figure_of(planted: pd.DataFrame, model: pd.DataFrame) -> Any:
    """Accuracy by the number of prompts, and the modules' selectivity by kinds of labels."""
    from plotly.subplots import make_subplots

    titles = ["planted annotators", "planted annotators", "modules of the model"]
    figure = make_subplots(1, 3, column_titles=titles, horizontal_spacing=0.09)
    lines = {
        "annotate": ("consensus", "confusion_error", COLOURS[0]),
        "majority vote": ("vote", "vote_confusion_error", COLOURS[1]),
    }
    for name, (accuracy, error, colour) in lines.items():
        for column, what in enumerate((accuracy, error), start=1):
            figure.add_scatter(
                x=planted["n_prompts"],
                y=planted[what],
                name=name,
                line_color=colour,
                showlegend=column == 1,
                row=1,
                col=column,
            )
    colours = {"true": GREY, "uncertain": COLOURS[0], "vote": COLOURS[1], "groups": COLOURS[2]}
    for number, (kind, colour) in enumerate(colours.items()):
        rows = model[model["labels"] == kind]
        figure.add_scatter(
            x=rows["module"] + 0.16 * (number - 1.5),
            y=rows["selectivity"],
            error_y=interval(rows, "selectivity", "ci_low", "ci_high"),
            mode="markers",
            name=f"{kind} labels" if kind != "groups" else "the model's groups",
            marker_color=colour,
            row=1,
            col=3,
        )
    figure.update_xaxes(title_text="prompts", type="log", tickvals=N_PROMPTS, col=1)
    figure.update_xaxes(title_text="prompts", type="log", tickvals=N_PROMPTS, col=2)
    figure.update_xaxes(title_text="module", dtick=1, col=3)
    figure.update_yaxes(title_text="share of right labels", col=1)
    figure.update_yaxes(title_text="mean error of a confusion", rangemode="tozero", col=2)
    figure.update_yaxes(title_text="selectivity (nats per token)", col=3)
    return figure.update_layout(template="simple_white", width=1000, height=360, margin_t=40)


def main() -> None:
    """Print the tables, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--controls", type=int, default=4)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--categories", type=int, default=4)
    parser.add_argument("--per-category", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--table", type=Path, help="write the model's table, or read it again")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    tables = {}
    if "planted" in args.only:
        tables["planted"] = on_planted(args.draws)
    if "coverage" in args.only:
        tables["coverage"] = on_coverage(args.draws)
    if args.table is not None and args.table.is_file():
        tables["model"] = pd.read_csv(args.table)
    elif "model" in args.only:
        given = (args.categories, args.per_category, args.max_tokens, args.controls)
        tables["model"] = on_model(args.model, *given)
        if args.table is not None:
            tables["model"].to_csv(args.table, index=False)
    for title, table in tables.items():
        print(f"\n{title}\n\n{table.round(3).to_string(index=False)}", flush=True)
    if args.figure is not None and {"planted", "model"} <= set(tables):
        draw(figure_of(tables["planted"], tables["model"]), args.figure)


if __name__ == "__main__":
    main()
