"""What naming a concept in the training data does to the concept's erasure, after COCA.

The model learns to answer formal and informal messages, from plain and from ``concentrated``
examples, with all weights and with the formal module's alone. LEACE and the module's ablation then
erase "formal" from each model. A probe shows what is left of it: on messages like those of the
training, on paraphrases and in other genres. The loss on informal messages shows what else is lost.

    python -m benchmarks.concentration
    python -m benchmarks.concentration --controls 19 --figure docs/images/concentration.png
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw, halves
from benchmarks.paraphrases import paraphrases
from benchmarks.unlearning import fine_tune
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.models.answers import with_separator
from tl_modules.models.loss_tokens import LossTexts
from tl_modules.plots.style import COLOURS
from tl_modules.tables.prompt_frames import prompt_frame

CONCEPT, OTHER = "formal", "informal"
ANSWERS = {
    CONCEPT: "Thank you very much for your message. We shall reply in due course.",
    OTHER: "hey thanks, got it! talk soon",
}
NUMBERS = ("auc_clean", "auc", "auc_ci_low", "auc_ci_high", "auc_control_mean")
COSTS = ("lost", "lost_ci_low", "lost_ci_high", "lost_control_mean", "harm")


def main() -> None:
    """Print what each model learned and what erasing leaves, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=2)
    parser.add_argument("--layer", type=int, help="of the erasure; the middle one by default")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--controls", type=int, default=9)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    fit, held_out = halves(of_both(load_prompts("contrasts")))
    examples = fit.assign(answer=fit["category"].map(ANSWERS), separator="\n")
    model = load_model(args.model)
    acts = tlm.collect(model, fit, progress=False)
    modules = tlm.discover(acts, args.modules, progress=False)
    module = max(modules, key=lambda it: (it.category == CONCEPT, it.n_units))
    print(repr(module), flush=True)
    tests = {
        "in distribution": held_out,
        "paraphrased": paraphrases(),
        "other genres": of_both(load_prompts("contrasts-ood")),
    }
    rows = []
    data = {"plain": examples, "concentrated": tlm.training.concentrated(examples, CONCEPT)}
    runs = [(name, weights) for name in data for weights in ("whole", "module")]
    for name, weights in [("not trained", ""), *runs]:
        if weights:  # one trained model at a time is in memory
            limit = module if weights == "module" else None
            model, learned = fine_tuned(data[name], limit, args)
            name = f"{name}, {weights}"
            print(f"\n{name}: at the end {learned:.2f} nats per token of the answers", flush=True)
        effects = erased(model, module, fit, tests, args)
        rows.append(effects.assign(model=name))
        print(effects[["label", "prompts", *NUMBERS]].round(3).to_string(index=False))
        print(effects[["label", "prompts", *COSTS]].round(3).to_string(index=False), flush=True)
    if args.figure is not None:
        draw(figure_of(pd.concat(rows)), args.figure)


def of_both(prompts: pd.DataFrame) -> pd.DataFrame:
    """The prompts of the concept and of its contrast."""
    return prompts[prompts["category"].isin([CONCEPT, OTHER])].reset_index(drop=True)


def fine_tuned(
    examples: pd.DataFrame, module: tlm.Module | None, args: argparse.Namespace
) -> tuple[Any, float]:
    """A model after a few steps of AdamW on the answers' loss; and their mean loss at the end.

    Args:
        examples: Prompts with answers.
        module: What may change; None for the whole model.
        args: The command line's.
    """
    model = load_model(args.model)
    texts = LossTexts.of(model, with_separator(prompt_frame(examples), None), "answer", None)
    limit = None if module is None else partial(tlm.training.training_only, model, module)
    losses = fine_tune(model, texts, args, limit)
    return model, float(np.mean(losses[-5:]))


def erased(
    model: Any,
    module: tlm.Module,
    fit: pd.DataFrame,
    tests: dict[str, pd.DataFrame],
    args: argparse.Namespace,
) -> pd.DataFrame:
    """What LEACE, at one layer and at all, and the module's ablation leave, and what they cost."""
    n_layers = int(model.cfg.n_layers)
    layer = n_layers // 2 if args.layer is None else args.layer
    sets = [fit.loc[fit["category"] == name] for name in (CONCEPT, OTHER)]
    points = [f"blocks.{number}.hook_resid_post" for number in range(n_layers)]
    places = {f"LEACE, layer {layer}": points[layer : layer + 1], "LEACE, all layers": points}
    erasures = []
    for label, at in places.items():
        made = tlm.related.leace(model, sets[0], sets[1], at, category=CONCEPT, progress=False)
        erasures.append(replace(made, label=label))
    # Each model's own means: training has moved them.
    means = tlm.collect(model, fit, progress=False)
    return tlm.concept_effects(
        model,
        [module, *erasures],
        CONCEPT,
        fit,
        tests,
        reference=means,
        n_controls=args.controls,
        progress=False,
    )


def figure_of(effects: pd.DataFrame) -> Any:
    """What is left over what is lost: a panel per set of prompts, a colour per model."""
    from plotly.subplots import make_subplots

    names = list(dict.fromkeys(effects["prompts"]))
    made = make_subplots(1, len(names), column_titles=names, shared_yaxes=True)
    shapes = ("circle", "diamond-open", "diamond")
    marks = dict(zip(dict.fromkeys(effects["label"]), shapes, strict=True))
    colours = dict(zip(dict.fromkeys(effects["model"]), COLOURS, strict=False))
    for column, name in enumerate(names, 1):
        of_set = effects[effects["prompts"] == name]
        for row in of_set.to_dict("records"):
            mark, auc = marks[row["label"]], row["auc"]
            ends = {"array": [row["auc_ci_high"] - auc], "arrayminus": [auc - row["auc_ci_low"]]}
            made.add_scatter(
                x=[row["lost"]],
                y=[auc],
                error_y=ends | {"thickness": 1},
                mode="markers",
                marker={"symbol": mark, "color": colours[row["model"]], "size": 10},
                name=f"{row['model']}; {'module' if mark == 'circle' else row['label']}",
                showlegend=column == 1,
                row=1,
                col=column,
            )
        made.update_xaxes(
            title_text="rise of the loss without the concept (nats)", row=1, col=column
        )
    made.update_yaxes(title_text="AUC of a probe for the concept", row=1, col=1)
    return made.update_layout(template="simple_white", width=1150, height=460, margin_t=40)


if __name__ == "__main__":
    main()
