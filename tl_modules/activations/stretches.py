"""A long prompt in stretches of its tokens: one reduction of all, and what it needs of a model."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

from tl_modules.activations.aggregate import LeftOut, Reduced
from tl_modules.activations.device_reduction import widest
from tl_modules.activations.reading import Aggregate, Reading
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.models.hooked_model import HookedModel, check_causal, model_name
from tl_modules.models.past_tokens import check_keeps_past, stretches
from tl_modules.models.runs import run_hooks_only
from tl_modules.units import Units

_TRIED, _PARTS = 48, 8
"""Tokens of a prompt that run both ways before a collection, and in how many stretches."""

_SHARE = 0.9
"""The share of the tokens that must be alike. In a mixture of experts rounding may give a token
another expert; an edit of each pass's first or last token is at an eighth of the tokens or more."""


class Reduction:
    """The reduction over a batch's tokens, from the reductions over its stretches in turn."""

    def __init__(self, aggregate: Aggregate) -> None:
        """Begin with no token.

        Args:
            aggregate: How the tokens of a stretch were aggregated.
        """
        self._aggregate = aggregate
        self._total: Reduced | None = None
        self._n_counted: Int[torch.Tensor, " batch"] | None = None

    def add(self, part: Reduced, n_counted: Int[torch.Tensor, " batch"]) -> None:
        """Add the next stretch.

        Args:
            part: Its reduction.
            n_counted: How many of its tokens count, of each prompt; they may be none.
        """
        n = n_counted.to(part.values.device)
        values = part.values.to(widest(n.device))
        if self._aggregate != "max":
            sizes = values.square() if self._aggregate == "rms" else values
            # The mean over no tokens is NaN, which 0 times it would be too.
            values = torch.where(n[:, None] > 0, sizes * n[:, None], 0)
        part = part._replace(values=values)
        if self._total is None or self._n_counted is None:
            self._total, self._n_counted = part, n
            return
        earlier = self._total
        join = torch.maximum if self._aggregate == "max" else torch.add
        self._n_counted = self._n_counted + n
        self._total = Reduced(
            join(earlier.values, part.values),
            earlier.sums + part.sums,
            earlier.n_content + part.n_content,
        )

    def result(self) -> Reduced:
        """The reduction over all stretches."""
        assert self._total is not None
        assert self._n_counted is not None
        values = self._total.values
        if self._aggregate != "max":
            values = values / self._n_counted[:, None]
        if self._aggregate == "rms":
            values = values.sqrt()
        return self._total._replace(values=values.float())


def left_at(left: LeftOut, positions: slice) -> LeftOut:
    """The places of a stretch among those that are left out, numbered from its first position."""
    rows, places = left
    inside = (places >= positions.start) & (places < positions.stop)
    return rows[inside], places[inside] - positions.start


def check_chunk_tokens(chunk_tokens: int | None, reading: Reading) -> None:
    """Refuse stretches without tokens, and those of a reading that needs the whole prompt.

    Raises:
        ModulesError: If ``chunk_tokens`` is below 1, or the reading needs gradients.
    """
    if chunk_tokens is None:
        return
    check_at_least("chunk_tokens", chunk_tokens, 1)
    if reading.needs_gradients:
        raise ModulesError(
            "chunk_tokens runs a long prompt part by part, and gradients need a pass through the "
            f"whole prompt; got weight={reading.weight!r}. Leave chunk_tokens out, or pass "
            "weight='activation'."
        )


def check_stretches(
    model: HookedModel,
    units: Units,
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    chunk_tokens: int | None,
) -> None:
    """Refuse a model whose activations depend on whether a prompt runs in stretches.

    A long prompt's first tokens run both ways. If all prompts fit into one stretch, nothing runs.

    Args:
        model: The model.
        units: The units to read.
        token_lists: The tokens of each prompt.
        chunk_tokens: How many of a prompt's tokens run at once.

    Raises:
        ModulesError: If the model is not causal, keeps no keys and values, or gives other
            activations.
    """
    longest = max(token_lists, key=len)
    if chunk_tokens is None or len(longest) <= chunk_tokens:
        return
    check_causal(model, f"chunk_tokens={chunk_tokens}", "leave chunk_tokens out")
    check_keeps_past(model, len(longest))
    tokens = longest[None, :_TRIED]
    whole, parted = (_read(model, units, tokens, n) for n in (1, _PARTS))
    # Half of the digits: rounding grows from layer to layer.
    tolerance = torch.finfo(whole.dtype).eps ** 0.5
    whole, parted = whole.float(), parted.float()
    sizes = whole.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    error = ((whole - parted).norm(dim=-1) / sizes).quantile(_SHARE)
    if not bool(error <= tolerance) and bool(whole.isfinite().all()):
        raise ModulesError(
            "chunk_tokens should not change the activations but for rounding; those of "
            f"{model_name(model)!r} at {units.hook_names[-1]!r} change by {float(error):.2g} of "
            "their size, as where a hook edits tokens by their place in the pass. Leave "
            "chunk_tokens out."
        )


def _read(
    model: HookedModel, units: Units, tokens: Int[torch.Tensor, "1 pos"], n_parts: int
) -> Float[torch.Tensor, "pos coordinates"]:
    """The activations at the last hook point of some units, from some number of stretches."""
    name, found = units.hook_names[-1], list[torch.Tensor]()
    n_positions = tokens.shape[1]
    for positions, past in stretches(model, (1, n_positions), -(-n_positions // n_parts)):
        part = tokens[:, positions]
        readers = {name: lambda activation: found.append(activation.detach()[0].flatten(1))}
        run_hooks_only(model, part, torch.ones_like(part, dtype=torch.bool), readers, past)
    return torch.cat(found)
