"""What the benchmarks of sufficiency share: pairs of prompts as a task, and rankings of units."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

import tl_modules as tlm
from benchmarks.search import PUBLIC
from tl_modules.causal import FaithfulnessCurves
from tl_modules.models.gradients import gradients_of
from tl_modules.models.relevance import relevance_hooks

SHARED = PUBLIC.parent
"""The data beside the project."""

ABILITIES = ("coding", "math", "ethical")
"""The categories of the project's prompts from which the modules come, beside the task."""


def add_options(parser: argparse.ArgumentParser, *, pairs: int, n_random: int) -> None:
    """The options of both benchmarks, with these defaults."""
    parser.add_argument("--model", default="demo")
    parser.add_argument("--pairs", type=int, default=pairs, help="to rank by, and as many to test")
    parser.add_argument("--per-category", type=int, default=24, help="prompts for the modules")
    parser.add_argument("--random", type=int, default=n_random, help="random orders")
    parser.add_argument("--steps", type=int, default=5, help="of integrated gradients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path)


def ability_prompts(prompts: pd.DataFrame, per_category: int) -> pd.DataFrame:
    """The first prompts of each of ``ABILITIES``."""
    some = prompts[prompts["category"].isin(ABILITIES)]
    return some.groupby("category").head(per_category)


class Pair(NamedTuple):
    """A clean and a corrupted prompt, and the answer to each."""

    clean: str
    corrupted: str
    right: str
    wrong: str


@dataclass(frozen=True, eq=False)
class Task:
    """Pairs as tokens, padded on the right."""

    pairs: list[Pair]
    clean: torch.Tensor
    corrupted: torch.Tensor
    mask: torch.Tensor
    answers: torch.Tensor
    """The token of the right and of the wrong answer of each pair, ``[pairs, 2]``."""

    @classmethod
    def of(cls, model: tlm.HookedModel, pairs: Sequence[Pair]) -> "Task":
        """The pairs as tokens; each clean prompt has as many as its corrupted one."""
        rows = [[model.to_tokens(text)[0] for text in pair[:2]] for pair in pairs]
        longest = max(len(clean) for clean, _ in rows)
        clean, corrupted = (
            torch.stack(
                [torch.nn.functional.pad(row[at], (0, longest - len(row[at]))) for row in rows]
            )
            for at in (0, 1)
        )
        lengths = torch.tensor([len(row[0]) for row in rows])
        mask = torch.arange(longest)[None] < lengths[:, None]
        answers = torch.tensor([[token_of(model, text) for text in pair[2:]] for pair in pairs])
        return cls(list(pairs), clean, corrupted, mask, answers)

    def metric(self, logits: torch.Tensor) -> torch.Tensor:
        """The right answer's logit minus the wrong one's, after the last token."""
        rows, last = torch.arange(len(logits)), self.mask.sum(1) - 1
        right, wrong = self.answers.T
        return logits[rows, last, right] - logits[rows, last, wrong]

    def curves(
        self, model: tlm.HookedModel, rankings: dict[str, np.ndarray], **options: object
    ) -> FaithfulnessCurves:
        """The faithfulness of some rankings on these pairs."""
        given = (model, self.clean, self.corrupted, self.metric, rankings)
        return tlm.faithfulness_curves(*given, attention_mask=self.mask, batch_size=96, **options)


def token_of(model: tlm.HookedModel, text: str) -> int | None:
    """The token of a text; None if it has several."""
    tokens = model.to_tokens(text, prepend_bos=False)[0]
    return int(tokens[0]) if len(tokens) == 1 else None


def usable(model: tlm.HookedModel, pair: Pair) -> bool:
    """Whether both prompts have equally many tokens, and each answer is one token."""
    clean, corrupted = (model.to_tokens(text) for text in pair[:2])
    answers = [token_of(model, text) for text in pair[2:]]
    return clean.shape == corrupted.shape and None not in answers


def halves(pairs: Sequence[Pair], n_each: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Some pairs to rank by, and others to report on, which share no pair of prompts."""
    by_prompts: dict[frozenset[str], list[Pair]] = {}
    for pair in pairs:
        by_prompts.setdefault(frozenset(pair[:2]), []).append(pair)
    generator = np.random.default_rng(seed)
    groups = [list(by_prompts.values())[at] for at in generator.permutation(len(by_prompts))]
    parts = []
    for some in (groups[::2], groups[1::2]):
        listed = [pair for group in some for pair in group]
        parts.append([listed[at] for at in generator.permutation(len(listed))[:n_each]])
    return parts[0], parts[1]


def does(model: tlm.HookedModel, task: Task) -> str:
    """Whether the model does a task, in words."""
    with torch.inference_mode():
        found = task.metric(model(task.clean, attention_mask=task.mask.long()))
    return (
        f"logit difference {float(found.mean()):.2f} (mean over {len(found)} pairs), the right "
        f"answer preferred in {float((found > 0).float().mean()):.0%}"
    )


def estimates(
    model: tlm.HookedModel, task: Task, modules: tlm.ModuleSet, n_steps: int
) -> dict[str, np.ndarray]:
    """One ranking of all units by each estimate, and one module by module."""
    given = (model, task.clean, task.corrupted, task.metric, modules)
    options = {"attention_mask": task.mask, "progress": False}
    gradient = tlm.attribute_modules(*given, **options)
    integrated = tlm.attribute_modules(*given, n_steps=n_steps, **options)
    return {
        "gradient": gradient.unit_scores,
        "integrated gradients": integrated.unit_scores,
        "RelP": relevance(model, task, modules.units),
        "by module": integrated.by_module(),
    }


def relevance(model: tlm.HookedModel, task: Task, units: tlm.Units) -> np.ndarray:
    """RelP's estimate of patching each unit, at the clean run (arXiv 2508.21258)."""
    names = units.hook_names
    run = (task.mask, names)
    other, _ = gradients_of(task.metric, model, task.corrupted, *run)
    hooks = relevance_hooks(model, names)
    own, slopes = gradients_of(task.metric, model, task.clean, *run, hooks)
    pieces = []
    for name in names:
        change = ((own[name] - other[name]) * slopes[name]).float().flatten(2)
        pieces.append((change * task.mask.to(change.device)[..., None]).sum((0, 1)).cpu())
    return units.every().summed(torch.cat(pieces).double().numpy()) / len(task.clean)


def modules_of(
    model: tlm.HookedModel, prompts: pd.DataFrame, pairs: Sequence[Pair], units: str, seed: int
) -> tlm.ModuleSet:
    """Modules of the prompts of some abilities and of the task: as many as categories."""
    own = [{"prompt": pair.clean, "category": "the task"} for pair in pairs]
    both = pd.concat([prompts[["prompt", "category"]], pd.DataFrame(own)], ignore_index=True)
    acts = tlm.collect(model, both, units=units, max_tokens=24, batch_size=32, progress=False)
    return tlm.discover(acts, both["category"].nunique(), seed=seed, progress=False)


def interval(table: pd.DataFrame, name: str, before: str = "") -> pd.Series:
    """A column and its interval as texts."""
    low, high = table[f"{before}ci_low"], table[f"{before}ci_high"]
    return pd.Series(
        [
            "never" if np.isnan(value) else f"{value:.2f} [{one:.2f}, {other:.2f}]"
            for value, one, other in zip(table[name], low, high, strict=True)
        ],
        index=table.index,
    )


def areas(curves: FaithfulnessCurves) -> pd.DataFrame:
    """The areas as texts."""
    found = curves.areas
    band = [f"{row.cpr_lowest:.2f} to {row.cpr_highest:.2f}" for row in found.itertuples()]
    shown = pd.DataFrame({"ranking": found["ranking"], "CPR": interval(found, "cpr", "cpr_")})
    shown["CMD"] = interval(found, "cmd", "cmd_")
    return shown.assign(orders=band).replace("nan to nan", "")


def faithful(curves: FaithfulnessCurves) -> pd.DataFrame:
    """Faithfulness by ranking and size."""
    table = curves.table.pivot(index="ranking", columns="n_units", values="faithfulness")
    return table.loc[curves.areas["ranking"]].round(2)
