"""The output layer of a model, and the states that it reads."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError, check_at_least
from tl_modules.models.batches import batches
from tl_modules.models.generation import continued
from tl_modules.models.hooked_model import HookedModel, hook_order, model_name, run_hooks_only
from tl_modules.models.tokens import tokenise
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts

_UNEMBED, _NORM = "unembed.hook_in", "ln_final.hook_normalized"


@dataclass(frozen=True, eq=False)
class OutputLayer:
    """``logits = weight @ x`` and a constant, for what a hook point holds."""

    hook_name: str
    weight: Float[torch.Tensor, "d_vocab d_model"]


def output_layer(model: HookedModel) -> OutputLayer:
    """The model's unembedding, where it can be hooked.

    On a ``TransformerBridge`` that is the unembedding's input, which a ``HookedTransformer`` has a
    hook point for but never runs: there it is the final norm's output before its weights, which,
    where they were not folded, count as the output layer's.

    Raises:
        ModulesError: If the model exposes neither.
    """
    loose: Any = model
    weight = getattr(loose, "W_U", None)
    name = next((each for each in (_UNEMBED, _NORM) if _fires(model, each)), None)
    if name is None or not isinstance(weight, torch.Tensor):
        raise ModulesError(
            f"{model_name(model)!r} should expose its unembedding, W_U, and the hook point "
            f"{_UNEMBED!r} or {_NORM!r}; it does not. Use a TransformerBridge."
        )
    weight = weight.detach().T.float()
    scale = getattr(getattr(loose, "ln_final", None), "w", None) if name == _NORM else None
    return OutputLayer(name, weight if scale is None else weight * scale.detach().float())


def _fires(model: HookedModel, name: str) -> bool:
    try:
        hook_order(model, [name])
    except ModulesError:
        return False
    return True


def output_states(
    model: HookedModel,
    layer: OutputLayer,
    prompts: Prompts,
    *,
    n_new_tokens: int,
    batch_size: int,
    max_tokens: int | None,
    progress: bool,
) -> Float[np.ndarray, "prompts d_model"]:
    """Each prompt's mean state at the output layer, over the tokens that it writes.

    Args:
        model: The model.
        layer: Its output layer.
        prompts: Strings, or a frame with ``prompt``.
        n_new_tokens: Tokens to write after each, greedily; 0 for the text's own tokens but the
            first, as if the model had written them.
        batch_size: Rows of a forward pass.
        max_tokens: Cut prompts after so many tokens.
        progress: Show a progress bar.

    Returns:
        The means.

    Raises:
        ModulesError: If a prompt has fewer than two tokens and none are to be written.
    """
    check_at_least("n_new_tokens", n_new_tokens, 0)
    texts = prompt_frame(prompts)["prompt"].tolist()
    token_lists = tokenise(model, texts, max_tokens, least=1 if n_new_tokens else 2)
    first = [0] * len(token_lists)
    if n_new_tokens:
        first = [len(tokens) - 1 for tokens in token_lists]
        bar = tqdm(token_lists, desc="write", unit="prompt", disable=not progress)
        remedy = "Use n_new_tokens=0."
        token_lists = [continued(model, tokens, n_new_tokens, remedy=remedy) for tokens in bar]
    means = np.empty((len(token_lists), layer.weight.shape[1]))
    found: dict[str, torch.Tensor] = {}
    readers = {layer.hook_name: lambda state: found.update(state=state)}
    with tqdm(total=len(means), desc="read", unit="prompt", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size):
            run_hooks_only(model, batch.tokens, batch.mask, readers)
            for row, states, real in zip(batch.rows, found["state"], batch.mask, strict=True):
                written = states[first[row] : int(real.sum()) - 1]
                means[row] = written.double().mean(0).cpu().numpy()
            bar.update(len(batch.rows))
    return means
