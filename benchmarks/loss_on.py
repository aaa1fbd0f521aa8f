"""What the tokens that the loss is averaged over do to selectivities and verdicts.

Modules are found on some recall and reasoning prompts and questions with choices. They are tested
on others with ``loss_on`` "prompt", "answer" and "all": the same modules, prompts and controls.

    python -m benchmarks.loss_on
"""

import argparse

import pandas as pd

import tl_modules as tlm
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.models.loss_tokens import LOSS_ON, LossTexts

CORPORA = ("recall", "reasoning", "choices")
"""The project's prompts that have answers; each is a category."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=3)
    parser.add_argument("--per-category", type=int, default=5)
    parser.add_argument("--controls", type=int, default=29)
    args = parser.parse_args()
    model = load_model(args.model)
    sets = [load_prompts(name).assign(category=name) for name in CORPORA]
    fit = pd.concat([each.iloc[::2] for each in sets], ignore_index=True)
    held_out = pd.concat([each.iloc[1::2].head(args.per_category) for each in sets])
    held_out = held_out.reset_index(drop=True)
    modules = tlm.discover(tlm.collect(model, fit, progress=False), args.modules, progress=False)
    print(modules, flush=True)
    tables = []
    for loss_on in LOSS_ON:
        options = {"loss_on": loss_on, "n_controls": args.controls, "progress": False}
        effects = tlm.module_effects(model, modules, held_out, **options)
        tables.append(summary(effects).assign(loss_on=loss_on))
        print(loss_on, tlm.verdicts(effects).attrs["sentence"], flush=True)
    table = pd.concat(tables).set_index("loss_on").reset_index()
    print(n_tokens(model, held_out).round(1).to_string())
    print(table.round(3).to_string(index=False))


def summary(effects: pd.DataFrame) -> pd.DataFrame:
    """One row per module: its loss and effect on the own category, selectivity, and verdict."""
    own = effects.loc[effects["own"]].set_index("module")
    shown = ["category", "loss", "effect", "control_mean", "selectivity"]
    shown += ["selectivity_ci_low", "selectivity_ci_high", "selectivity_control_mean"]
    shown += ["selectivity_p_value"]
    verdicts = tlm.verdicts(effects).set_index("module")["verdict"]
    return own[shown].assign(verdict=verdicts).reset_index()


def n_tokens(model: tlm.HookedModel, prompts: pd.DataFrame) -> pd.DataFrame:
    """The mean number of tokens whose loss counts, by category and choice of tokens."""
    found = {}
    for loss_on in LOSS_ON:
        texts = LossTexts.of(model, prompts, loss_on, None)
        starts = [1] * len(prompts) if texts.starts is None else texts.starts
        pairs = zip(texts.token_lists, starts, strict=True)
        counts = pd.Series([len(tokens) - start for tokens, start in pairs])
        found[loss_on] = counts.groupby(prompts["category"]).mean()
    return pd.DataFrame(found)


if __name__ == "__main__":
    main()
