"""A reference for ablation: each unit's means over prompts, and its values at random tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interventions.measuring import measures
from tl_modules.models.batch_sizes import BatchSize, batch_size_for
from tl_modules.models.batches import Batch, batches
from tl_modules.models.content_tokens import content_masks
from tl_modules.models.hooked_model import HookedModel, checked_flat
from tl_modules.models.runs import run_hooks_only
from tl_modules.models.sites import SiteName
from tl_modules.models.tokens import tokenise
from tl_modules.runtime.arguments import checked
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units, site_units


@dataclass(frozen=True, eq=False, repr=False)
class Reference:
    """Activations on reference prompts, from which ablations take the values that they put in."""

    units: Units
    """All units of the site."""

    unit_means: Float[np.ndarray, " coordinates"]
    """Each coordinate's mean (signed) over all tokens, for method ``"mean"``."""

    position_means: Float[np.ndarray, "pos coordinates"]
    """Each coordinate's mean over the tokens at each position, for method ``"position_mean"``."""

    tokens: Float[np.ndarray, "tokens coordinates"]
    """All coordinates' activations at random tokens, for method ``"resample"``."""

    content_means: Float[np.ndarray, " coordinates"] | None = None
    """Each coordinate's mean (signed) without special tokens and attention sinks."""

    is_content: Bool[np.ndarray, " tokens"] | None = None
    """Which of the tokens are neither."""

    def __repr__(self) -> str:
        """One line without the arrays."""
        return (
            f"Reference({len(self.units):,} units, {len(self.position_means)} positions, "
            f"{len(self.tokens)} tokens)"
        )


@checked
@measures
def collect_reference(  # noqa: PLR0913 - the options of one pass, all by keyword
    model: HookedModel,
    prompts: Prompts,
    *,
    units: SiteName | str = "mlp",
    n_tokens: int = 256,
    n_positions: int = 64,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Reference:
    """Run reference prompts, and keep the values that ablations need.

    Pass the result as ``reference=`` for ``method="position_mean"`` and ``"resample"``, or for
    ``"mean"`` if the means should come from other prompts than the matrix.

    Example::

        reference = tlm.collect_reference(model, prompts)
        with modules[0].ablated(model, method="resample", reference=reference):
            logits = model(tokens)

    Args:
        model: A ``TransformerBridge``, ``HookedTransformer`` or any ``HookedModel``.
        prompts: Strings, or a frame with a column ``prompt``.
        units: The site; see ``collect``.
        n_tokens: Number of random tokens to keep; all tokens of the prompts are equally likely.
            256 tokens of a model with 46,080 units take 47 MB.
        n_positions: Keep means for at most this many positions.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Truncate prompts to this many tokens.
        seed: Seed of the draw of tokens.
        progress: Show a progress bar.

    Returns:
        The reference.

    Raises:
        ModulesError: As in ``collect``.
    """
    (found,) = collect_references(
        *(model, prompts, [units]),
        n_tokens=n_tokens,
        n_positions=n_positions,
        batch_size=batch_size,
        max_tokens=max_tokens,
        seed=seed,
        progress=progress,
    )
    return found


def collect_references(  # noqa: PLR0913 - the options of one pass, all by keyword
    model: HookedModel,
    prompts: Prompts,
    sites: Sequence[str],
    *,
    n_tokens: int = 256,
    n_positions: int = 64,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[Reference]:
    """Collect the references of several sites, which may share hook points, in one run.

    Args:
        model: See ``collect_reference``, as for the other arguments.
        prompts: The reference prompts.
        sites: The sites' names.
        n_tokens: Random tokens to keep.
        n_positions: Positions to keep means for.
        batch_size: Prompts per forward pass.
        max_tokens: Truncate prompts to this many tokens.
        seed: Seed of the draw of tokens, which are the same at all sites.
        progress: Show a progress bar.

    Returns:
        A reference per site, each as ``collect_reference`` returns it.

    Raises:
        ModulesError: As in ``collect``.
    """
    check_at_least("n_tokens", n_tokens, 1)
    check_at_least("n_positions", n_positions, 1)
    check_seed(seed)
    frame = prompt_frame(prompts)
    token_lists = tokenise(model, frame["prompt"].tolist(), max_tokens)
    batch_size = batch_size_for(model, batch_size, token_lists, logits=False)
    lengths = np.array([len(tokens) for tokens in token_lists])
    every = [_Sums(site_units(model, site), lengths, n_tokens, n_positions, seed) for site in sites]
    names = dict.fromkeys(name for sums in every for name in sums.units.hook_names)
    with tqdm(total=len(frame), desc="reference", unit="prompt", disable=not progress) as bar:
        for batch in batches(
            token_lists, batch_size, content_masks(model, token_lists, batch_size)
        ):
            readers = {name: _reader(every, batch, name) for name in names}
            run_hooks_only(model, batch.tokens, batch.mask, readers)
            bar.update(len(batch.rows))
    return [sums.reference() for sums in every]


def _reader(every: "Sequence[_Sums]", batch: Batch, name: str) -> Callable[[torch.Tensor], None]:
    """A hook function that adds one hook point's activations to all sums that hold it."""
    readers = [sums.reader(batch, name) for sums in every if name in sums.units.hook_names]

    def read(activation: torch.Tensor) -> None:
        for each in readers:
            each(activation)

    return read


class _Sums:
    """Running sums over batches, and the activations of the drawn tokens."""

    def __init__(
        self, units: Units, lengths: np.ndarray, n_tokens: int, n_positions: int, seed: int
    ) -> None:
        self.units = units
        coordinates = units.coordinates()
        n_positions = min(n_positions, int(lengths.max()))
        n_all = int(lengths.sum())
        drawn = np.random.default_rng(seed).permutation(n_all)[:n_tokens]
        # All tokens are numbered, prompt after prompt. A token's number is its prompt's first
        # number plus its position. _place maps a number to a row of _tokens; -1: not drawn.
        self._first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._place = np.full(n_all, -1)
        self._place[drawn] = np.arange(len(drawn))
        self._tokens = np.zeros((len(drawn), len(coordinates)), dtype=np.float32)
        self._totals = np.zeros(len(coordinates))
        self._left_out = np.zeros(len(coordinates))
        self._n_content = 0
        self._is_content = np.zeros(len(drawn), dtype=bool)
        self._by_position = np.zeros((n_positions, len(coordinates)))
        self._n_at = (lengths[:, None] > np.arange(n_positions)).sum(axis=0)
        self._n_all = n_all
        stops = np.cumsum((0, *coordinates.widths))
        self._columns = {
            name: slice(start, stop)
            for name, start, stop in zip(units.hook_names, stops[:-1], stops[1:], strict=True)
        }

    def reader(self, batch: Batch, name: str) -> Callable[[torch.Tensor], None]:
        """A hook function that adds one hook point's activations of a batch."""
        columns = self._columns[name]

        def read(activation: torch.Tensor) -> None:
            width = int(columns.stop - columns.start)
            values = checked_flat(activation.detach(), width, name).float().cpu()
            # Not a product: padding may hold NaN, and NaN times 0 is NaN.
            values = torch.where(batch.mask[..., None], values, 0.0)
            bad = ~values.isfinite().all(2).all(1)
            if bad.any():
                row = batch.rows[int(bad.int().argmax())]
                raise ModulesError(
                    f"Activations should be finite; at {name!r} prompt {row} has NaN or infinite "
                    "ones. Drop that prompt, or run the model in a wider dtype (float32)."
                )
            by_position = values.sum(0, dtype=torch.float64).numpy()
            self._totals[columns] += by_position.sum(axis=0)
            reach = min(len(by_position), len(self._by_position))
            self._by_position[:reach, columns] += by_position[:reach]
            rows, positions = np.nonzero(batch.mask.numpy())
            places = self._place[self._first[batch.rows[rows]] + positions]
            kept = places >= 0
            self._tokens[places[kept], columns] = values.numpy()[rows[kept], positions[kept]]
            left = values[batch.mask & ~batch.counted]
            self._left_out[columns] += left.sum(0, dtype=torch.float64).numpy()
            if columns.start == 0:  # once a batch
                self._n_content += int(batch.counted.sum())
                self._is_content[places[kept]] = batch.counted.numpy()[rows[kept], positions[kept]]

        return read

    def reference(self) -> Reference:
        return Reference(
            self.units,
            self._totals / self._n_all,
            self._by_position / self._n_at[:, None],
            self._tokens,
            (self._totals - self._left_out) / self._n_content if self._n_content else None,
            self._is_content,
        )
