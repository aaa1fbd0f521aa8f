"""Prompts that say the same in several languages, in a grid of languages and meanings."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from tl_modules.errors import ModulesError
from tl_modules.tables.labels import checked_labels, column_hint
from tl_modules.tables.prompt_frames import labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts


@dataclass(frozen=True, eq=False)
class ParallelPrompts:
    """A grid: every meaning once in every language."""

    prompts: list[str]
    """The prompts, in the order in which they were given."""

    languages: list[str]
    """The languages, in the order of their first prompts."""

    meanings: list[str]
    """The meanings, in the order of their first prompts."""

    rows: Int[np.ndarray, "languages meanings"]
    """The number of the prompt that says a meaning in a language."""

    @classmethod
    def of(cls, prompts: Prompts) -> "ParallelPrompts":
        """Arrange a frame with ``prompt``, ``category`` (the language) and ``meaning``.

        Raises:
            ModulesError: If a column or a cell of it is missing, there are fewer than two languages
                or meanings, or a meaning is not said once in every language.
        """
        frame = labelled(prompt_frame(prompts, "parallel_prompts"))
        for name in ("category", "meaning"):
            if name not in frame.columns:
                raise ModulesError(
                    f"parallel_prompts should have a column {name!r}; it has none. "
                    f"{_NEEDED[name]} {column_hint(list(frame.columns))}."
                )
        languages = pd.Series(frame["category"].tolist(), dtype=object)
        meanings = pd.Series(
            checked_labels(
                frame["meaning"], "meaning", "Fill it in, or drop the meaning in all languages."
            ),
            dtype=object,
        )
        language_codes, language_names = pd.factorize(languages)
        meaning_codes, meaning_names = pd.factorize(meanings)
        shape = len(language_names), len(meaning_names)
        if min(shape) < 2:
            raise ModulesError(
                f"parallel_prompts should have at least two languages and two meanings; got "
                f"{shape[0]} and {shape[1]}. Add prompts."
            )
        counts = np.zeros(shape, dtype=np.int64)
        np.add.at(counts, (language_codes, meaning_codes), 1)
        for language, meaning in np.argwhere(counts != 1)[:1].tolist():
            raise ModulesError(
                "parallel_prompts should say every meaning once in every language; "
                f"{meaning_names[meaning]!r} is there {counts[language, meaning]} times in "
                f"{language_names[language]!r}. Drop the meaning, or add or drop prompts."
            )
        rows = np.empty(shape, dtype=np.int64)
        rows[language_codes, meaning_codes] = np.arange(len(frame))
        return cls(frame["prompt"].tolist(), list(language_names), list(meaning_names), rows)


_NEEDED = {
    "category": "Name each prompt's language there.",
    "meaning": "Give prompts that say the same the same text or number there.",
}
