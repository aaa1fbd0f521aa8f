"""Find the output layer of a model, and read the states that it gets."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError, check_at_least
from tl_modules.models.batch_sizes import BatchSize, batch_size_for
from tl_modules.models.batches import batches
from tl_modules.models.generation import continued
from tl_modules.models.hooked_model import HookedModel, model_name
from tl_modules.models.runs import hook_order, run_hooks_only
from tl_modules.models.tokens import tokenise
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts

_UNEMBED, _NORM = "unembed.hook_in", "ln_final.hook_normalized"


@dataclass(frozen=True, eq=False)
class OutputLayer:
    """An output layer: ``logits = weight @ x + constant``, with ``x`` at a hook point."""

    hook_name: str
    weight: Float[torch.Tensor, "d_vocab d_model"]


def output_layer(model: HookedModel) -> OutputLayer:
    """Find the model's unembedding and a hook point that it reads.

    On a ``TransformerBridge`` the hook point is the unembedding's input. A ``HookedTransformer``
    has this hook point, but it never fires; there, the final norm's output before its weights is
    used instead. If these weights were not folded, they count as part of the output layer.

    Raises:
        ModulesError: If the model exposes neither hook point, or no ``W_U``.
    """
    loose: Any = model
    weight = getattr(loose, "W_U", None)
    name = next((point for point in (_UNEMBED, _NORM) if _fires(model, point)), None)
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
    batch_size: BatchSize,
    max_tokens: int | None,
    progress: bool,
) -> Float[np.ndarray, "prompts d_model"]:
    """Average each prompt's states at the output layer over the positions that predict new tokens.

    Args:
        model: The model.
        layer: The model's output layer.
        prompts: Strings, or a frame with ``prompt``.
        n_new_tokens: The number of tokens to generate greedily after each prompt. With 0, the
            prompt's own tokens from the second on count as generated.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Cut prompts after this many tokens.
        progress: Show a progress bar.

    Returns:
        One mean state per prompt.

    Raises:
        ModulesError: If a prompt has fewer than two tokens and ``n_new_tokens`` is 0.
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
    batch_size = batch_size_for(model, batch_size, token_lists, logits=False)
    means = np.empty((len(token_lists), layer.weight.shape[1]))
    read: dict[str, torch.Tensor] = {}
    readers = {layer.hook_name: lambda states: read.update(states=states)}
    with tqdm(total=len(means), desc="read", unit="prompt", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size):
            run_hooks_only(model, batch.tokens, batch.mask, readers)
            for row, states, real in zip(batch.rows, read["states"], batch.mask, strict=True):
                # The state at a position predicts the next token, so the last one is left out.
                predicting = states[first[row] : int(real.sum()) - 1]
                means[row] = predicting.double().mean(0).cpu().numpy()
            bar.update(len(batch.rows))
    return means
