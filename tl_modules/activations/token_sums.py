"""Sums of activations over tokens, from which mean ablation takes its values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tl_modules.saving.checked_json import checked_entries, checked_whole_number

ALL, CONTENT = 0, 1
"""The rows of the sums: over the tokens that count, and over the content among them."""


@dataclass(frozen=True, eq=False)
class TokenSums:
    """Each coordinate's signed sums, and how many tokens they are over."""

    sums: Float[np.ndarray, "2 _coordinates"]
    """Over the tokens that count, and over the content among them; float64."""

    n_tokens: tuple[int, int]
    """The numbers of these tokens."""

    @classmethod
    def none(cls, n_coordinates: int) -> "TokenSums":
        """The sums over no tokens."""
        return cls(np.zeros((2, n_coordinates)), (0, 0))

    def __add__(self, other: "TokenSums") -> "TokenSums":
        """The sums over the tokens of both."""
        (all_, content), (more, more_content) = self.n_tokens, other.n_tokens
        return TokenSums(self.sums + other.sums, (all_ + more, content + more_content))

    @property
    def unit_means(self) -> Float[np.ndarray, " coordinates"]:
        """The means over the tokens that count, float32."""
        return (self.sums[ALL] / self.n_tokens[ALL]).astype(np.float32)

    @property
    def content_means(self) -> Float[np.ndarray, " coordinates"] | None:
        """The means over the content among them, float32; None if none of them is content."""
        if not self.n_tokens[CONTENT]:
            return None
        return (self.sums[CONTENT] / self.n_tokens[CONTENT]).astype(np.float32)


def checked_counts(described: Any) -> tuple[int, int]:
    """Read the numbers of tokens from a file's header.

    Raises:
        ValueError: If they are not two whole numbers, the first at least 1.
        TypeError: If they are of another type.
    """
    counted, content = checked_entries(described, checked_whole_number)
    if not 0 <= content <= counted or not counted:
        raise ValueError("the numbers of tokens do not fit")
    return counted, content
