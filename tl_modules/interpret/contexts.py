"""The tokens that drive a module, in context."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError
from tl_modules.interpret.texts import NotReadable, text_of, tokenizer_of
from tl_modules.model import HookedModel, checked_flat, run_hooks_only
from tl_modules.modules import ModuleSet
from tl_modules.normalise import MIN_STD
from tl_modules.tokens import Batch, batches, tokenise
from tl_modules.topics import Context

_N_AROUND = 8
"""How many tokens of context are kept on either side."""


def top_contexts(
    model: HookedModel,
    modules: ModuleSet,
    prompts: Sequence[Sequence[str]],
    *,
    n_contexts: int = 8,
    batch_size: int = 16,
    max_tokens: int | None = None,
    progress: bool = True,
) -> list[tuple[Context, ...]]:
    """Find each module's top-activating tokens in some prompts.

    A token's value is the mean over the module's units of |a| / the unit's mean |a| over the
    samples: 1 where the module is as active as it is on average. Left out are special tokens and
    each prompt's first, which in most models is an outlier whatever it is (massive activations,
    Sun et al. 2024, arXiv 2402.17762). Prompts are run as they are given, also where the modules
    were discovered in chat form.

    Args:
        model: The model that the modules were discovered in.
        modules: The modules.
        prompts: Each module's prompts.
        n_contexts: At most so many tokens a module, each text once a prompt.
        batch_size: Prompts in a forward pass.
        max_tokens: Cut prompts after so many tokens.
        progress: Show a progress bar.

    Returns:
        Each module's tokens, strongest first.

    Raises:
        ModulesError: If the modules were discovered from no activations, the model has no
            tokenizer, a prompt tokenises to nothing, or an activation is NaN or infinite.
    """
    weights = _weights(modules)
    special: set[int] = set(getattr(tokenizer_of(model), "all_special_ids", ()))
    owners = [(label, at) for label, own in enumerate(prompts) for at in range(len(own))]
    token_lists = tokenise(model, [prompt for own in prompts for prompt in own], max_tokens)
    found: list[list[tuple[Context, int]]] = [[] for _ in modules]
    with tqdm(total=len(owners), desc="contexts", unit="prompt", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size):
            values = _values(model, modules, weights, batch).numpy()
            for row, number in enumerate(batch.rows.tolist()):
                label, at = owners[number]
                tokens = token_lists[number].tolist()
                own = values[row, : len(tokens), label]
                if not np.isfinite(own).all():
                    raise ModulesError(
                        f"Activations should be finite; those of module {label} are not on prompt "
                        f"{prompts[label][at]!r}. Run the model in a wider dtype."
                    )
                found[label] += [
                    (_context(model, tokens, position, float(own[position]), at), number)
                    for position in _candidates(tokens, own, special, n_contexts)
                ]
            bar.update(len(batch.rows))
    # Equal ones in the order of the prompts.
    found = [sorted(own, key=lambda pair: (-pair[0].value, pair[1])) for own in found]
    return [tuple(context for context, _ in own[:n_contexts]) for own in found]


def _weights(modules: ModuleSet) -> list[Float[torch.Tensor, "_units _modules"]]:
    """What each unit's |a| counts towards each module's value, a hook point at a time."""
    if modules.normaliser is None or not modules.reading.is_magnitude:
        raise NotReadable(
            "Top tokens are by |activation| / its mean, which these modules do not know: they were "
            f"discovered from {modules.reading}, or normalised elsewhere. Discover modules in "
            "activations that collect() gathered."
        )
    means = modules.normaliser.mean
    alive = means > MIN_STD
    share = np.divide(1.0, means, out=np.zeros_like(means), where=alive)
    own = modules.unit_labels[:, None] == np.arange(modules.n_modules)
    weights = own * share[:, None] / np.maximum((own & alive[:, None]).sum(axis=0), 1)
    parts = np.split(weights, np.cumsum(modules.units.widths)[:-1])
    return [torch.from_numpy(part).float() for part in parts]


def _values(
    model: HookedModel,
    modules: ModuleSet,
    weights: Sequence[Float[torch.Tensor, "_units _modules"]],
    batch: Batch,
) -> Float[torch.Tensor, "batch pos modules"]:
    """Every module's value at every token."""
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


def _candidates(
    tokens: list[int], values: Float[np.ndarray, " _pos"], special: set[int], n_contexts: int
) -> list[int]:
    """The positions of a prompt's strongest tokens, each token once."""
    best: dict[int, int] = {}
    for position in np.argsort(-values, kind="stable").tolist():
        if position > 0 and values[position] > 0 and tokens[position] not in special:
            best.setdefault(tokens[position], position)
    return list(best.values())[:n_contexts]


def _context(
    model: HookedModel, tokens: list[int], position: int, value: float, prompt: int
) -> Context:
    around = (
        tokens[max(position - _N_AROUND, 0) : position],
        tokens[position : position + 1],
        tokens[position + 1 : position + 1 + _N_AROUND],
    )
    before, token, after = (text_of(model, part) for part in around)
    return Context(before, token, after, value, prompt)
