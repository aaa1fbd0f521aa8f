"""Tables of the modules of a set, one row per module."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

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
    if modules.verdicts is not None:
        described.insert(2, "verdict", text_column(modules.verdicts))
    described.attrs["sentence"] = modules.verdict_sentence
    return described
