"""Measure how active each module is at each token."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.activations.normalise import MIN_STD
from tl_modules.errors import ModulesError
from tl_modules.interpret.token_texts import NotReadable, pieces_of, special_tokens, text_of
from tl_modules.interventions.measuring import measures
from tl_modules.models.batch_sizes import BatchSize, batch_size_for
from tl_modules.models.batches import Batch, batches
from tl_modules.models.hooked_model import HookedModel, checked_flat
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
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how active each module is at each token, to see what it responds to.

    ``plot_tokens`` draws the result. A value is the mean, over the module's units, of |a| divided
    by the unit's mean |a| over the samples that the modules were discovered on. A value of 1 is the
    module's average activity. In most models a prompt's first token is an outlier, whatever the
    token is (massive activations, Sun et al. 2024, arXiv 2402.17762). The prompts run as they are,
    even if the modules were discovered in chat form.

    Args:
        model: The model that the modules were discovered in.
        modules: The modules.
        prompts: The prompts, or a frame with the column ``prompt``.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Cut prompts after this many tokens.
        progress: Show a progress bar.

    Returns:
        One row per token, in order. The index is ``prompt`` (the prompt's number, from 0) and
        ``position``. The columns are ``token`` (its text), ``special`` (true of special tokens and
        of each prompt's first token), then one column per module, named by the module's number.

    Raises:
        ModulesError: If the modules were not discovered from magnitudes or belong to another model,
            the model has no tokenizer, a prompt has no tokens, or an activation is not finite.
    """
    modules.units.check_model(model)
    texts = prompt_frame(prompts)["prompt"].tolist()
    special = special_tokens(model)
    token_lists = tokenise(model, texts, max_tokens)
    parts: dict[int, pd.DataFrame] = {}
    for number, values in run_values(model, modules, token_lists, batch_size, progress=progress):
        tokens = token_lists[number].tolist()
        index = pd.MultiIndex.from_product(
            [[number], range(len(tokens))], names=["prompt", "position"]
        )
        parts[number] = pd.DataFrame(values, index=index, columns=range(len(modules)))
        parts[number].insert(0, "token", pieces_of(model, tokens))
        is_special = [at == 0 or token in special for at, token in enumerate(tokens)]
        parts[number].insert(1, "special", is_special)
    return pd.concat([parts[number] for number in range(len(texts))])


def run_values(
    model: HookedModel,
    modules: ModuleSet,
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    batch_size: BatchSize,
    *,
    progress: bool,
) -> Iterator[tuple[int, Float[np.ndarray, "_pos _modules"]]]:
    """Run prompts, longest first, and yield the modules' values on each prompt.

    Yields:
        A prompt's number, and the value of every module at each of the prompt's tokens, as
        ``token_values`` defines it.

    Raises:
        ModulesError: As ``token_values`` raises.
    """
    weights = _weights(modules)
    batch_size = batch_size_for(model, batch_size, token_lists, logits=False)
    with tqdm(total=len(token_lists), desc="tokens", unit="prompt", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size):
            values = _values(model, modules, weights, batch).numpy()
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
) -> Float[torch.Tensor, "batch pos modules"]:
    """Compute the value of every module at every token of a batch."""
    units = modules.units
    total = torch.zeros(*batch.tokens.shape, modules.n_modules)

    def reader(name: str, weight: torch.Tensor, span: int) -> Callable[[torch.Tensor], None]:
        def read(activation: torch.Tensor) -> None:
            values = checked_flat(activation.detach(), len(weight) * span, name).float()
            sizes = values.unflatten(-1, (-1, span)).norm(dim=-1)
            total.add_((sizes @ weight.to(sizes.device)).cpu())

        return read

    hooks = zip(units.hook_names, weights, units.spans, strict=True)
    readers = {name: reader(name, weight, span) for name, weight, span in hooks}
    run_hooks_only(model, batch.tokens, batch.mask, readers)
    return total
