"""The tokens of a prompt and its answer over which a loss is averaged.

Most instruction tuning learns from the answer's tokens alone. Shi et al. 2024 ("Instruction Tuning
With Loss Over Instructions", arXiv 2405.14394; the abstract was read) apply the loss to the
instruction's tokens too, which helps most where instructions are long and answers brief. From the
paper comes only this choice of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from tl_modules.errors import ModulesError
from tl_modules.models.answers import tokenise_with_answers, with_separator
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.tokens import tokenise

LossOn = Literal["prompt", "answer", "all"]
"""``prompt``: the prompt's tokens from the second on; no answer is read. ``answer``: the answer's
tokens after the prompt. ``all``: both. A separator counts as the answer's beginning."""

LOSS_ON: tuple[LossOn, ...] = get_args(LossOn)


@dataclass(frozen=True, eq=False)
class LossTexts:
    """Tokenised prompts, or prompts with answers, and where the tokens whose loss counts begin."""

    token_lists: Sequence[Int[torch.Tensor, " _pos"]]
    """The tokens of each prompt, and of its answer if answers are read."""

    starts: Int[np.ndarray, " prompts"] | None = None
    """The position of each prompt's first token whose loss counts; None if every predicted token
    counts."""

    @classmethod
    def of(
        cls, model: HookedModel, frame: pd.DataFrame, loss_on: LossOn, max_tokens: int | None
    ) -> "LossTexts":
        """Tokenise what a loss needs.

        Args:
            model: The model.
            frame: What ``prompt_frame`` or ``with_separator`` returned.
            loss_on: The tokens whose loss counts.
            max_tokens: Truncate prompts to this many tokens; not with answers.

        Raises:
            ModulesError: If an answer is missing or has no tokens of its own, or a prompt without
                an answer has fewer than two tokens.
        """
        if loss_on == "prompt":
            return cls(tokenise(model, frame["prompt"].tolist(), max_tokens, least=2))
        check_answered(frame, loss_on, max_tokens)
        token_lists, starts = tokenise_with_answers(model, with_separator(frame, None))
        return cls(token_lists, starts if loss_on == "answer" else None)

    def starts_of(self, rows: Int[np.ndarray, " batch"]) -> Int[torch.Tensor, " batch"] | None:
        """Where the tokens whose loss counts begin in some prompts; None for every predicted token.

        Args:
            rows: The prompts' numbers.
        """
        return None if self.starts is None else torch.from_numpy(self.starts[rows])


def check_answered(frame: pd.DataFrame, loss_on: LossOn, max_tokens: int | None) -> None:
    """Refuse prompts without the answers whose loss counts, and a limit that would cut answers off.

    Args:
        frame: What ``prompt_frame`` or ``with_separator`` returned.
        loss_on: The tokens whose loss counts.
        max_tokens: The number of tokens after which prompts are cut; None for no limit.

    Raises:
        ModulesError: If ``loss_on`` reads answers and there is no column ``answer``, or a limit.
    """
    if loss_on == "prompt":
        return
    if max_tokens is not None:
        raise ModulesError(
            f"max_tokens goes with loss_on='prompt'; with {loss_on!r} it would cut the answers "
            "off. Leave it out."
        )
    if "answer" not in frame.columns:
        raise ModulesError(
            f"loss_on={loss_on!r} reads a column 'answer' beside 'prompt'; the prompts have "
            f"{', '.join(map(repr, frame.columns))}. Add it, or use loss_on='prompt'."
        )
