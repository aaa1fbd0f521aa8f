"""Corrupted prompts: patching takes its values from their runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from tl_modules.causal.metrics import Task
from tl_modules.causal.prompt_runs import Intervention, on_batches
from tl_modules.errors import ModulesError, check_seed
from tl_modules.interventions.hooks import unit_hooks
from tl_modules.models.answers import answers_of, tokenise_with_answers
from tl_modules.models.batches import Batch
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.runs import run_hooks_only
from tl_modules.models.tokens import tokenise
from tl_modules.runtime.arguments import checked
from tl_modules.tables.prompt_frames import categories_of, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units


@checked
def with_corrupted(model: HookedModel, prompts: Prompts, *, seed: int = 0) -> pd.DataFrame:
    """Add to each prompt another prompt of its category, to patch from.

    Patching needs two prompts with equally many tokens; Zhang & Nanda 2024 (arXiv 2309.16042)
    discuss the choice of corrupted prompts. The other prompt is drawn at random from the prompts of
    the same category and length; if there are answers, it has another answer.

    Args:
        model: The model, whose tokenizer decides the lengths.
        prompts: A frame with ``prompt`` and, optionally, ``category`` and ``answer``.
        seed: Seeds the draw.

    Returns:
        The prompts that have such a partner, with a column ``corrupted``, for
        ``module_effects(..., method="patch")``.

    Raises:
        ModulesError: If no prompt has a partner, or there is a column ``corrupted`` already.
    """
    check_seed(seed)
    frame = prompt_frame(prompts)
    if "corrupted" in frame.columns:
        raise ModulesError(
            "prompts should have no column 'corrupted', which would be replaced. Drop or rename it."
        )
    categories = categories_of(labelled(frame))
    texts = frame["prompt"].tolist()
    lengths = np.array([len(tokens) for tokens in tokenise(model, texts)])
    prompt_texts = np.array(texts, dtype=object)
    answers = np.array(answers_of(frame), dtype=object) if "answer" in frame else prompt_texts
    generator = np.random.default_rng(seed)
    rows, partners = [], []
    for row in range(len(frame)):
        fits = (categories == categories[row]) & (lengths == lengths[row])
        fits &= (answers != answers[row]) & (prompt_texts != texts[row])
        if fits.any():
            rows.append(row)
            partners.append(texts[generator.choice(np.flatnonzero(fits))])
    if not rows:
        raise ModulesError(
            "Some prompts should have as many tokens as another of their category; none have. Add "
            "a column 'corrupted' with prompts of your own."
        )
    return frame.iloc[rows].assign(corrupted=partners).reset_index(drop=True)


@dataclass(eq=False)
class CorruptedRuns:
    """The corrupted run of each prompt, made when it is needed."""

    model: HookedModel
    token_lists: Sequence[torch.Tensor]
    """The corrupted tokens of each prompt, as many as its own."""
    _last: tuple[object, dict[str, torch.Tensor]] = field(default=(None, {}), init=False)

    @classmethod
    def of(
        cls,
        model: HookedModel,
        frame: pd.DataFrame,
        task: Task,
        max_tokens: int | None,
        *,
        answers: bool,
    ) -> "CorruptedRuns":
        """Prepare the runs of the column ``corrupted``.

        Args:
            model: The model.
            frame: The prompts.
            task: The prompts, tokenised.
            max_tokens: Truncate prompts to this many tokens.
            answers: Whether answers are read: they follow the corrupted prompts too.

        Raises:
            ModulesError: If there is no such column, or a prompt's has another number of tokens.
        """
        if "corrupted" not in frame:
            raise ModulesError(
                "method='patch' needs a column 'corrupted', a prompt of as many tokens for each. "
                "Add it, with with_corrupted() for one."
            )
        other = prompt_frame(frame.assign(prompt=frame["corrupted"]))
        if answers:
            token_lists = tokenise_with_answers(model, other)[0]
        else:
            token_lists = tokenise(model, other["prompt"].tolist(), max_tokens, least=2)
        for row, (clean, corrupted) in enumerate(zip(task.token_lists, token_lists, strict=True)):
            if len(clean) != len(corrupted):
                raise ModulesError(
                    f"A corrupted prompt should have as many tokens as its prompt; those of prompt "
                    f"{row} have {len(corrupted)} and {len(clean)}. Reword one."
                )
        return cls(model, token_lists)

    def intervention(self, units: Units) -> Intervention:
        """Patches units from the corrupted run into the clean one, at all positions.

        Its hooks are made for each batch, because each batch has a corrupted run of its own.
        """

        def make(batch: Batch) -> FwdHooks:
            names = [units.hook_names[hook] for hook, _ in units.by_hook()]
            source = self._cache(batch, names)
            hooks = on_batches(lambda **where: unit_hooks(units, "patch", source=source, **where))
            return hooks(batch)

        return make

    def _cache(self, batch: Batch, names: list[str]) -> dict[str, torch.Tensor]:
        """The batch's corrupted activations. The last ones are cached: controls use them too."""
        key = (tuple(batch.rows.tolist()), tuple(names))
        if self._last[0] != key:
            activations: dict[str, torch.Tensor] = {}

            def reader(name: str) -> Callable[[torch.Tensor], None]:
                return lambda activation: activations.update({name: activation})

            lists = [self.token_lists[row] for row in batch.rows]
            tokens = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True)
            # A part of a batch is as wide as the batch.
            tokens = torch.nn.functional.pad(tokens, (0, batch.mask.shape[1] - tokens.shape[1]))
            if names:
                readers = {name: reader(name) for name in names}
                run_hooks_only(self.model, tokens, batch.mask, readers)
            self._last = (key, activations)
        return self._last[1]
