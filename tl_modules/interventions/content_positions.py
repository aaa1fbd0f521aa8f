"""The positions of a prompt's content, for interventions on tokens that the user runs."""

import torch
from jaxtyping import Bool

from tl_modules.errors import ModulesError
from tl_modules.interventions.measuring import measures
from tl_modules.models.content_tokens import content_tokens
from tl_modules.models.hooked_model import HookedModel, check_model
from tl_modules.models.token_arrays import TokenArray, Tokens, as_mask, as_tokens
from tl_modules.runtime.arguments import checked


@checked
@measures
def content_positions(
    model: HookedModel, tokens: Tokens, attention_mask: TokenArray | None = None
) -> Bool[torch.Tensor, "batch pos"]:
    """Mark the tokens that carry a prompt's content, to intervene there and nowhere else.

    Attention sinks are left out, with special tokens: some neurons are a thousand times larger at
    them than elsewhere, and an intervention there disturbs every later token. A sink is the
    prompt's first token, or a token whose residual stream in the middle layer is ten times larger
    than the median over the prompt's other tokens.

    Example::

        tokens = model.to_tokens("The capital of France is")
        where = tlm.content_positions(model, tokens)
        logits = model.run_with_hooks(tokens, fwd_hooks=module.fwd_hooks(positions=where))

    Args:
        model: The model, which runs up to its middle layer.
        tokens: Token ids, ``[batch, pos]`` or ``[pos]``.
        attention_mask: 1 or True where a token is real, ``[batch, pos]``.

    Returns:
        True at content, for ``positions=`` of ``Module.fwd_hooks``, ``ablated`` and ``attach``.

    Raises:
        ModulesError: If tokens or mask are malformed or differ in shape.
    """
    check_model(model)
    found = as_tokens("tokens", tokens)
    mask = as_mask("attention_mask", attention_mask)
    if mask is None:
        mask = torch.ones_like(found, dtype=torch.bool)
    if mask.shape != found.shape:
        raise ModulesError(
            f"attention_mask should have the tokens' shape, {tuple(found.shape)}; it has "
            f"{tuple(mask.shape)}. Pass the mask that the tokenizer gave with the tokens."
        )
    return content_tokens(model, found, mask)
