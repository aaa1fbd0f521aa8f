"""Tables of the modules of a set, one row per module."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import ModulesError
from tl_modules.modules.topic import clear_tokens
from tl_modules.tables.text import text_column

if TYPE_CHECKING:
    from tl_modules.modules.module_set import ModuleSet


def overview(modules: "ModuleSet") -> pd.DataFrame:
    """What ``ModuleSet.to_frame`` returns."""
    rows, named = [], []
    for module in modules:
        named.append(module.category_title)
        scores = modules.sample_scores[modules.sample_labels == module.label].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # scores of any size, from a file
            mean = float(np.mean(scores)) if len(scores) else float("nan")
        rows.append(
            {
                "module": module.label,
                "n_units": module.n_units,
                "n_samples": len(module.samples),
                "n_layers": len(module.layers),
                "mean_activation": mean,
                "category": None,
                "category_share": module.category_share,
            }
        )
    frame = pd.DataFrame(rows).assign(category=text_column(named))
    if modules.shared_by_all is not None:
        frame["shared_by_all"] = np.array(modules.shared_by_all, dtype=np.bool_)
    return frame


def described(modules: "ModuleSet") -> pd.DataFrame:
    """What ``ModuleSet.describe`` returns."""
    if modules.topics is None:
        raise ModulesError(
            "These modules have no topics yet. Use tlm.with_topics(modules, model) first, or "
            "see modules.to_frame()."
        )
    topics = modules.topics
    frame = modules.to_frame()
    words = [", ".join(word.word for word in topic.words) for topic in topics]
    promoted, suppressed = (
        [", ".join(clear_tokens(getattr(topic, name), topic.chance_z)) for topic in topics]
        for name in ("promoted", "suppressed")
    )
    described = pd.DataFrame(
        {
            "module": frame["module"],
            "label": text_column(module.title for module in modules),
            "category": frame["category"],
            "category_share": frame["category_share"],
            "words": text_column(words),
            "promoted": text_column(promoted),
            "suppressed": text_column(suppressed),
            "top_prompt": text_column(next(iter(topic.prompts), None) for topic in topics),
            "n_units": frame["n_units"],
            "n_samples": frame["n_samples"],
        }
    )
    if modules.scored_labels is not None:
        best = [labels and labels.chosen for labels in modules.scored_labels]
        p_holm = [labels and labels.p_holm for labels in modules.scored_labels]
        described.insert(2, "label_auc", _numbers(label and label.auc for label in best))
        described.insert(3, "label_p_holm", _numbers(p_holm))
    if modules.verdicts is not None:
        described.insert(2, "verdict", text_column(modules.verdicts))
    described.attrs["sentence"] = modules.verdict_sentence
    return described


def label_scores(modules: "ModuleSet") -> pd.DataFrame:
    """What ``ModuleSet.label_scores`` returns."""
    if modules.scored_labels is None:
        raise ModulesError(
            "These modules have no scored labels yet. Use tlm.with_labels(modules, acts) first, "
            "with activations of held-out prompts."
        )
    rows = [
        (number, label, label is labels.chosen, labels)
        for number, labels in enumerate(modules.scored_labels)
        if labels is not None
        for label in labels.candidates
    ]
    numbers = ("choice_auc", "auc", "ci_low", "ci_high", "auc_others", "p_value")
    return pd.DataFrame(
        {
            "module": np.array([number for number, *_ in rows], dtype=np.int64),
            "kind": text_column(label.kind for _, label, *_ in rows),
            "label": text_column(label.label for _, label, *_ in rows),
            "chosen": np.array([chosen for *_, chosen, _ in rows], dtype=np.bool_),
            **{name: _numbers(getattr(label, name) for _, label, *_ in rows) for name in numbers},
            "p_holm": _numbers(labels.p_holm if chosen else None for *_, chosen, labels in rows),
            "fits": np.array([chosen and labels.fits for *_, chosen, labels in rows], dtype=bool),
        }
    )


def _numbers(values: Iterable[float | None]) -> Float[np.ndarray, " rows"]:
    """Numbers as floats, NaN where there is none."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
