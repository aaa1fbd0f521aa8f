"""Make padded batches of prompts of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int

from tl_modules.errors import check_at_least


def uploaded(tensor: torch.Tensor, device: torch.device | str | None) -> torch.Tensor:
    """Copy a tensor to a model's device, without waiting where the device allows that.

    Args:
        tensor: A tensor on any device. On the device already, it is returned as it is.
        device: The device; None leaves the tensor where it is.

    Returns:
        The tensor there. Kernels that are queued on the device after this call see its values.
    """
    if device is None:
        return tensor
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        # From pinned memory, CUDA copies while Python goes on; from other memory Python waits.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Batch:
    """Prompts of similar length, padded on the right."""

    rows: Int[np.ndarray, " batch"]
    """The numbers of the prompts."""

    tokens: Int[torch.Tensor, "batch pos"]
    """The token ids."""

    mask: Bool[torch.Tensor, "batch pos"]
    """True at real tokens, False at padding."""

    counted: Bool[torch.Tensor, "batch pos"]
    """True at tokens that count: all real tokens, or some of them."""

    starts: Int[torch.Tensor, " batch"] | None = None
    """The position of each prompt's first token whose loss counts; None if all of them do."""

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of prompts and of positions."""
        n_rows, n_positions = self.tokens.shape
        return n_rows, n_positions

    def part(self, chosen: Int[np.ndarray, " chosen"] | slice) -> "Batch":
        """Some of the prompts, by their places in the batch."""
        parts = (each[chosen] for each in (self.tokens, self.mask, self.counted))
        starts = None if self.starts is None else self.starts[chosen]
        return Batch(self.rows[chosen], *parts, starts=starts)

    def at(self, positions: slice) -> "Batch":
        """Some of the positions of all prompts."""
        parts = (each[:, positions] for each in (self.tokens, self.mask, self.counted))
        starts = None if self.starts is None else self.starts - positions.start
        return Batch(self.rows, *parts, starts=starts)


def batches(
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    batch_size: int,
    counted: Sequence[Bool[torch.Tensor, " _pos"]] | None = None,
    chosen: Int[np.ndarray, " _chosen"] | None = None,
    starts: Int[np.ndarray, " prompts"] | None = None,
) -> Iterator[Batch]:
    """Yield batches of prompts of similar length, longest first.

    Padding is on the right, where causal attention keeps it from affecting real tokens. The longest
    batch is first, so that memory runs out immediately or not at all.

    Args:
        token_lists: The tokens of each prompt.
        batch_size: The number of prompts per batch.
        counted: Whether each token of each prompt counts; all count by default.
        chosen: The numbers of the prompts to use; all by default.
        starts: The position of each prompt's first token whose loss counts; see ``Batch``.

    Raises:
        ModulesError: If ``batch_size`` is below 1.
    """
    check_at_least("batch_size", batch_size, 1)
    order = np.arange(len(token_lists)) if chosen is None else chosen
    lengths = np.array([len(token_lists[row]) for row in order.tolist()])
    longest_first = np.argsort(-lengths, kind="stable")
    order, lengths = order[longest_first], lengths[longest_first]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        lists = [token_lists[row] for row in rows]
        tokens = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True)
        positions = torch.arange(tokens.shape[1])
        mask = positions[None, :] < torch.from_numpy(lengths[start : start + batch_size])[:, None]
        count = mask
        if counted is not None:
            count = torch.nn.utils.rnn.pad_sequence(
                [counted[row] for row in rows], batch_first=True
            )
        first = None if starts is None else torch.from_numpy(starts[rows])
        yield Batch(rows, tokens, mask, count, first)
