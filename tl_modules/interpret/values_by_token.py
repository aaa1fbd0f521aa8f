"""Measure how active each module is at each token."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.activations.normalise import MIN_STD
from tl_modules.activations.stretches import check_chunk_tokens, check_stretches
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.interpret.token_texts import NotReadable, pieces_of, skipped_ids, text_of
from tl_modules.interventions.measuring import measures
from tl_modules.models.batch_sizes import BatchSize, batch_size_for
from tl_modules.models.batches import Batch, batches
from tl_modules.models.hooked_model import HookedModel, checked_flat
from tl_modules.models.past_tokens import stretches
from tl_modules.models.runs import run_hooks_only
from tl_modules.models.tokens import tokenise
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts


@checked
@measures
def token_values(
    model: HookedModel,
    modules: ModuleSet,
    prompts: Prompts,
    *,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    chunk_tokens: int | None = None,
    aggregate_over: int = 1,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how active each module is at each token, to see what it responds to.

    ``plot_tokens`` draws the result, and ``plot_along_text`` that of a long text. A value is the
    mean, over the module's units, of |a| divided by the unit's mean |a| over the samples that the
    modules were discovered on. A value of 1 is the module's average activity. In most models a
    prompt's first token is an outlier, whatever the token is (massive activations, Sun et al. 2024,
    arXiv 2402.17762). The prompts run as they are, even if the modules were discovered in chat
    form.

    Long texts follow a part of LONGER (Chai et al. 2025, arXiv 2505.04421; its abstract was read):
    keys and values are computed once and kept (``chunk_tokens``), and adjacent tokens are merged
    (``aggregate_over``), here by their mean and for the reading alone.

    Args:
        model: The model that the modules were discovered in.
        modules: The modules.
        prompts: The prompts, or a frame with the column ``prompt``.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Cut prompts after this many tokens.
        chunk_tokens: Run longer prompts by this many tokens at a time; see ``collect``.
        aggregate_over: Merge windows of this many tokens into one row.
        progress: Show a progress bar.

    Returns:
        One row per token, or per window, in order. The index is ``prompt`` (the prompt's number,
        from 0) and ``position``. The columns are ``token`` (its text), ``special`` (true of special
        tokens and of each prompt's first token), then one column per module, named by the module's
        number. A window has its first token's position, all of its text, and the mean over its
        tokens that are not special; it is special if all of them are.

    Raises:
        ModulesError: If the modules were not discovered from magnitudes or belong to another model,
            the model has no tokenizer, a prompt has no tokens, an activation is not finite, or the
            model cannot run a prompt by ``chunk_tokens``.
    """
    check_at_least("aggregate_over", aggregate_over, 1)
    modules.units.check_model(model)
    texts = prompt_frame(prompts)["prompt"].tolist()
    special = skipped_ids(model)
    token_lists = tokenise(model, texts, max_tokens)
    parts: dict[int, pd.DataFrame] = {}
    options = {"progress": progress, "chunk_tokens": chunk_tokens}
    for number, values in run_values(model, modules, token_lists, batch_size, **options):
        tokens = token_lists[number].tolist()
        index = pd.MultiIndex.from_product(
            [[number], range(len(tokens))], names=["prompt", "position"]
        )
        parts[number] = pd.DataFrame(values, index=index, columns=range(len(modules)))
        parts[number].insert(0, "token", pieces_of(model, tokens))
        is_special = [at == 0 or token in special for at, token in enumerate(tokens)]
        parts[number].insert(1, "special", is_special)
        if aggregate_over > 1:
            parts[number] = _merged(parts[number], aggregate_over)
    return pd.concat([parts[number] for number in range(len(texts))])


def _merged(values: pd.DataFrame, aggregate_over: int) -> pd.DataFrame:
    """Merge the tokens of a prompt; see ``token_values``.

    Args:
        values: One row per token of the prompt.
        aggregate_over: The number of tokens of a window; the last one may be shorter.
    """
    window = np.arange(len(values)) // aggregate_over
    by_window = values.groupby(window)
    counted = ~values["special"] | by_window["special"].transform("all")
    numbers = values.drop(columns=["token", "special"]).loc[counted]
    means = numbers.groupby(window[counted.to_numpy()]).mean()
    merged = pd.DataFrame(means.astype(np.float32))
    merged.insert(0, "token", by_window["token"].agg("".join))
    merged.insert(1, "special", by_window["special"].all())
    merged.index = values.index[::aggregate_over]
    return merged


def run_values(
    model: HookedModel,
    modules: ModuleSet,
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    batch_size: BatchSize,
    *,
    progress: bool,
    chunk_tokens: int | None = None,
) -> Iterator[tuple[int, Float[np.ndarray, "_pos _modules"]]]:
    """Run prompts, longest first, and yield the modules' values on each prompt.

    Yields:
        A prompt's number, and the value of every module at each of the prompt's tokens, as
        ``token_values`` defines it.

    Raises:
        ModulesError: As ``token_values`` raises.
    """
    weights = _weights(modules)
    check_chunk_tokens(chunk_tokens, modules.reading)
    check_stretches(model, modules.units, token_lists, chunk_tokens)
    batch_size = batch_size_for(
        model, batch_size, token_lists, logits=False, chunk_tokens=chunk_tokens
    )
    with tqdm(total=len(token_lists), desc="tokens", unit="prompt", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size):
            values = _values(model, modules, weights, batch, chunk_tokens).numpy()
            for row, number in enumerate(batch.rows.tolist()):
                tokens = token_lists[number].tolist()
                without_padding = values[row, : len(tokens)]
                bad = np.flatnonzero(~np.isfinite(without_padding).all(axis=0))
                if len(bad):
                    raise ModulesError(
                        f"Activations should be finite; those of module {bad[0]} are not on "
                        f"{text_of(model, tokens)[:80]!r}. Run the model in a wider dtype."
                    )
                yield number, without_padding
            bar.update(len(batch.rows))


def _weights(modules: ModuleSet) -> list[Float[torch.Tensor, "_units _modules"]]:
    """Return the weight of each unit's |a| in each module's value, one array per hook point."""
    if modules.normaliser is None or not modules.reading.is_magnitude:
        raise NotReadable(
            "Values of tokens need each unit's mean |activation|, which these modules do not hold: "
            f"they were discovered from {modules.reading}, or from activations that were "
            "normalised elsewhere. Discover modules in activations that collect() gathered."
        )
    means = modules.normaliser.mean
    alive = means > MIN_STD
    # A dead unit has no mean to divide by; it counts neither above nor below the fraction.
    share = np.divide(1.0, means, out=np.zeros_like(means), where=alive)
    members = modules.unit_labels[:, None] == np.arange(modules.n_modules)
    weights = members * share[:, None] / np.maximum((members & alive[:, None]).sum(axis=0), 1)
    parts = np.split(weights, np.cumsum(modules.units.widths)[:-1])
    return [torch.from_numpy(part).float() for part in parts]


def _values(
    model: HookedModel,
    modules: ModuleSet,
    weights: Sequence[Float[torch.Tensor, "_units _modules"]],
    batch: Batch,
    chunk_tokens: int | None,
) -> Float[torch.Tensor, "batch pos modules"]:
    """Compute the value of every module at every token of a batch."""
    units = modules.units
    total = torch.zeros(*batch.tokens.shape, modules.n_modules)

    def reader(
        name: str, weight: torch.Tensor, span: int, here: torch.Tensor
    ) -> Callable[[torch.Tensor], None]:
        def read(activation: torch.Tensor) -> None:
            values = checked_flat(activation.detach(), len(weight) * span, name).float()
            sizes = values.unflatten(-1, (-1, span)).norm(dim=-1)
            here.add_((sizes @ weight.to(sizes.device)).cpu())

        return read

    for positions, past in stretches(model, batch.shape, chunk_tokens):
        hooks = zip(units.hook_names, weights, units.spans, strict=True)
        here = total[:, positions]
        readers = {name: reader(name, weight, span, here) for name, weight, span in hooks}
        part = batch.at(positions)
        run_hooks_only(model, part.tokens, part.mask, readers, past)
    return total
