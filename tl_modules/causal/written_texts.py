"""What a model writes under interventions, and how likely the unsteered model finds it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.causal.row_limits import RowLimit
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.joined_edits import JoinedEdits
from tl_modules.interventions.prepared_units import PreparedUnits
from tl_modules.models.batches import batches
from tl_modules.models.content_tokens import content_masks
from tl_modules.models.generation import decoded, generated_rows, up_to_end
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.losses import token_losses
from tl_modules.models.runs import forward
from tl_modules.models.tokens import tokenise
from tl_modules.tables.prompt_frames import categories_of, prompt_frame
from tl_modules.tables.prompt_tables import Prompts

N_STARTS = 8
"""How many prompts are continued by default."""

START_TOKENS = 16
"""The tokens of each of them that the model is given."""


@dataclass(frozen=True, eq=False)
class WrittenTexts:
    """What the model wrote after each start, under several interventions."""

    texts: list[list[str]]
    """One list per intervention, of one text per start."""

    losses: Float[np.ndarray, "runs starts"]
    """The mean loss of the written tokens for the model without interventions, nats per token."""


@dataclass(frozen=True, eq=False)
class Writer:
    """A model, and the prompts that it continues."""

    model: HookedModel
    starts: list[Int[torch.Tensor, " _pos"]]
    """The tokens of each prompt."""

    content: list[Bool[torch.Tensor, " _pos"]] | None
    """Whether units are changed at each of them; None for all tokens. Units are changed at every
    token that is written."""

    n_new_tokens: int
    temperature: float
    seed: int
    n_rows: int
    """Rows of a forward pass."""

    def written(
        self, sets: Sequence[PreparedUnits], limit: RowLimit, done: Callable[[int], object]
    ) -> WrittenTexts:
        """Continue each start under each set's edits.

        Args:
            sets: Sets of units that are changed alike; none to leave the model as it is.
            limit: The rows of a pass, which is halved where memory runs out.
            done: Called with the number of texts after each pass.
        """
        joined = JoinedEdits([each.units for each in sets], sets[0].recipe) if sets else None
        n_runs, n_starts = max(len(sets), 1), len(self.starts)
        texts = [[""] * n_starts for _ in range(n_runs)]
        losses = np.empty((n_runs, n_starts))
        for numbers in self._equally_long():
            runs, rows = (each.ravel() for each in np.meshgrid(np.arange(n_runs), numbers))
            found = [*self._continued(joined, runs, rows, limit, done)]
            length = len(self.starts[numbers[0]])
            losses[runs, rows] = _text_losses(self.model, found, length, self.n_rows)
            for run, row, tokens in zip(runs, rows, found, strict=True):
                texts[run][row] = decoded(self.model, tokens[length:])
        return WrittenTexts(texts, losses)

    def _equally_long(self) -> list[Int[np.ndarray, " some"]]:
        """The numbers of the starts that are equally long: together they need no padding."""
        lengths = np.array([len(start) for start in self.starts])
        return [np.flatnonzero(lengths == length) for length in np.unique(lengths)[::-1]]

    def _continued(
        self,
        joined: JoinedEdits | None,
        runs: Int[np.ndarray, " texts"],
        rows: Int[np.ndarray, " texts"],
        limit: RowLimit,
        done: Callable[[int], object],
    ) -> Iterator[Int[torch.Tensor, " _longer"]]:
        """Continue starts of equal length, each under the edits of one set."""
        first, n_texts = 0, len(rows)
        while first < n_texts:
            # Sampled rows of one pass would draw from one stream: each is written alone.
            n_next = 1 if self.temperature > 0 else limit.rows(first, 1, n_texts, whole=False)
            at = slice(first, first + n_next)
            of_pass = (joined, runs[at], rows[at])
            found = limit.tried(lambda these=of_pass: self._pass(*these), n_next)
            if found is not None:
                length = len(self.starts[rows[first]])
                yield from (up_to_end(self.model, tokens, length) for tokens in found)
                done(n_next)
                first += n_next

    def _pass(
        self,
        joined: JoinedEdits | None,
        runs: Int[np.ndarray, " rows"],
        rows: Int[np.ndarray, " rows"],
    ) -> Int[torch.Tensor, "rows _longer"]:
        """Continue starts of equal length at once."""

        def generated() -> Int[torch.Tensor, "rows _longer"]:
            return generated_rows(
                self.model,
                torch.stack([self.starts[row] for row in rows]),
                self.n_new_tokens,
                remedy="Load it as a TransformerBridge or HookedTransformer.",
                temperature=self.temperature,
                # A seed per start: all interventions meet the same luck.
                seed=int(np.random.SeedSequence([self.seed, rows[0]]).generate_state(1)[0]),
            )

        if joined is None:
            return generated()
        positions = None
        if self.content is not None:
            written = torch.ones(len(rows), self.n_new_tokens, dtype=torch.bool)
            content = torch.stack([self.content[row] for row in rows])
            positions = torch.cat([content, written], dim=1)
        with joined.writing(self.model, runs, positions):
            return generated()


def start_tokens(
    model: HookedModel, starts: Prompts | None, frame: pd.DataFrame
) -> list[Int[torch.Tensor, " _pos"]]:
    """Tokenise the prompts that are continued.

    Args:
        model: The model.
        starts: The prompts; None for the beginnings of some of ``frame``.
        frame: The prompts of the experiment, of which each category gives one in turn.

    Returns:
        The tokens of each prompt.

    Raises:
        ModulesError: As in ``tokenise`` and ``prompt_frame``.
    """
    if starts is not None:
        return tokenise(model, prompt_frame(starts, "starts")["prompt"].tolist())
    turns = pd.Series(categories_of(frame)).groupby(categories_of(frame)).cumcount()
    chosen = turns.sort_values(kind="stable").index[:N_STARTS]
    return tokenise(model, frame["prompt"].iloc[chosen].tolist(), START_TOKENS)


def changed_at(
    model: HookedModel,
    starts: Sequence[Int[torch.Tensor, " _pos"]],
    positions: Touched,
    n_rows: int,
) -> list[Bool[torch.Tensor, " _pos"]] | None:
    """At which tokens of each start units are changed; None for all."""
    return content_masks(model, starts, n_rows) if positions == "content" else None


def _text_losses(
    model: HookedModel,
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    start: int,
    n_rows: int,
) -> Float[np.ndarray, " texts"]:
    """The model's mean loss on each text's tokens after the first ``start``."""
    found = np.empty(len(token_lists))
    for batch in batches(token_lists, n_rows):
        logits = forward(model, batch.tokens, batch.mask, [])
        losses = token_losses(logits, batch.tokens, batch.mask).cpu().double()
        for row, of_next in zip(batch.rows.tolist(), losses, strict=True):
            # The first column is the second token's.
            of_written = of_next[start - 1 : len(token_lists[row]) - 1]
            found[row] = of_written.mean().item()
    return found
