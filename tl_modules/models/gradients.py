"""Gradients of a number by a model's activations."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int

from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.losses import n_predicted, next_token_losses
from tl_modules.runtime.determinism import rows_alike


class Taps:
    """Hooks that keep activations, and let a number's gradient by each be taken afterwards.

    Each hook adds a zero that requires a gradient: the model's parameters need none of their own,
    and none is left in them.

    Example::

        taps = Taps(hook_names)
        with torch.enable_grad():
            value = metric(model.run_with_hooks(tokens, fwd_hooks=taps.fwd_hooks))
        gradients = taps.gradients(value)
    """

    def __init__(self, hook_names: Sequence[str]) -> None:
        """Prepare to tap some hook points."""
        self.activations: dict[str, torch.Tensor] = {}
        """What the last run had there, by the name asked for."""
        self._added: dict[str, torch.Tensor] = {}
        self.fwd_hooks: FwdHooks = [(name, self._tap(name)) for name in hook_names]

    def gradients(self, value: Float[torch.Tensor, ""]) -> dict[str, torch.Tensor]:
        """D value / d activation at each hook point; 0 where the value does not depend on it."""
        with rows_alike():
            found = torch.autograd.grad(value, list(self._added.values()), allow_unused=True)
        return {
            name: torch.zeros_like(added) if gradient is None else gradient
            for (name, added), gradient in zip(self._added.items(), found, strict=True)
        }

    def release(self) -> None:
        """Let go of what the run left: hooks and taps refer to each other."""
        self._added.clear()
        self.fwd_hooks.clear()

    def _tap(self, name: str) -> Callable[..., torch.Tensor]:
        def hook_fn(activation: torch.Tensor, hook: object = None) -> torch.Tensor:
            del hook  # its name may be an alias of ours
            self.activations[name] = activation.detach()
            self._added[name] = torch.zeros_like(activation, requires_grad=True)
            return activation + self._added[name]

        return hook_fn


def loss_gradients(
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
    hook_names: Sequence[str],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Activations, and the gradient of each prompt's summed next-token loss by them.

    Args:
        model: The model.
        tokens: Token ids, padded.
        mask: True where a token is real.
        hook_names: The hook points.

    Returns:
        Activations and gradients by hook point. Rows of a batch do not touch each other: each has
        its own prompt's gradient, in nats and unit of activation. (Of the sum, because a mean over
        many tokens is too small for a float16 model's gradients.)

    Raises:
        ModulesError: If the model was loaded in inference mode.
    """

    def summed(logits: torch.Tensor) -> torch.Tensor:
        # Copies: the caller's may have been made in inference mode.
        losses = next_token_losses(logits, tokens.clone(), mask.clone())
        return losses * n_predicted(mask).to(logits.device)

    return gradients_of(summed, model, tokens, mask, hook_names)


@contextmanager
def differentiable() -> Iterator[None]:
    """Let gradients be taken inside the ``with``, whatever mode the caller is in.

    Tensors that were made in inference mode have none: clone those that a run reads.

    Raises:
        ModulesError: If such a tensor is used after all.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        raise ModulesError(
            "Gradients need tensors that were made outside torch.inference_mode(); the model's "
            f"weights, or a tensor that the metric uses, were made inside ({error}). Load the "
            "model outside of it, or clone() the tensor there."
        ) from error


def check_differentiable() -> None:
    """Refuse to begin where nothing has a gradient.

    Raises:
        ModulesError: In inference mode.
    """
    if torch.is_inference_mode_enabled():
        raise ModulesError(
            "Gradients cannot be taken inside torch.inference_mode(). Call this outside of it."
        )


def gradients_of(
    measure: Callable[[torch.Tensor], Float[torch.Tensor, " batch"]],
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
    hook_names: Sequence[str],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Activations, and the gradient of each prompt's number by them.

    Args:
        measure: Makes one number a prompt from the logits.
        model: The model.
        tokens: Token ids, padded.
        mask: True where a token is real.
        hook_names: The hook points.

    Returns:
        As ``loss_gradients``.

    Raises:
        ModulesError: If the model was loaded in inference mode, or the measure uses a tensor made
            there.
    """
    taps = Taps(hook_names)
    device = getattr(model.cfg, "device", None)
    try:
        with differentiable():
            logits = model.run_with_hooks(
                tokens.clone().to(device),
                fwd_hooks=taps.fwd_hooks,
                attention_mask=mask.clone().long().to(device),
            )
            total = measure(logits).sum()
            return taps.activations, taps.gradients(total)
    finally:
        taps.release()
