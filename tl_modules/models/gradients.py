"""Compute gradients of a number with respect to a model's activations."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int

from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.losses import n_predicted, next_token_losses
from tl_modules.runtime.determinism import rows_alike


class Taps:
    """Hooks that keep activations, so that gradients with respect to them can be computed later.

    Each hook adds a zero tensor that requires a gradient. The model's parameters therefore need no
    gradients, and none remain in them.

    Example::

        taps = Taps(hook_names)
        with torch.enable_grad():
            value = metric(model.run_with_hooks(tokens, fwd_hooks=taps.fwd_hooks))
        gradients = taps.gradients(value)
    """

    def __init__(self, hook_names: Sequence[str]) -> None:
        """Prepare hooks for some hook points."""
        self.activations: dict[str, torch.Tensor] = {}
        """The activations of the last run, by the hook points' names as given."""
        self._added: dict[str, torch.Tensor] = {}
        self.fwd_hooks: FwdHooks = [(name, self._tap(name)) for name in hook_names]

    def gradients(
        self, value: Float[torch.Tensor, ""], *, again: bool = False
    ) -> dict[str, torch.Tensor]:
        """Compute d value / d activation at each hook point; 0 if there is no dependence.

        Args:
            value: A number that the run gave.
            again: Keep the run's graph for another call.
        """
        with rows_alike():
            by_added = torch.autograd.grad(
                value, list(self._added.values()), allow_unused=True, retain_graph=again
            )
        return {
            name: torch.zeros_like(added) if gradient is None else gradient
            for (name, added), gradient in zip(self._added.items(), by_added, strict=True)
        }

    def without_effect(self, value: Float[torch.Tensor, ""]) -> list[str]:
        """The hook points that the value cannot depend on, or that never fired.

        Args:
            value: A number that the run gave.
        """
        by_added = torch.autograd.grad(value, list(self._added.values()), allow_unused=True)
        found = {name for name, part in zip(self._added, by_added, strict=True) if part is not None}
        return [name for name, _ in self.fwd_hooks if name not in found]

    def release(self) -> None:
        """Free the run's tensors, which the reference cycle of hooks and taps would keep alive."""
        self._added.clear()
        self.fwd_hooks.clear()

    def _tap(self, name: str) -> Callable[..., torch.Tensor]:
        def hook_fn(activation: torch.Tensor, hook: object = None) -> torch.Tensor:
            del hook  # its name may be an alias of the name asked for
            self.activations[name] = activation.detach()
            self._added[name] = torch.zeros_like(activation, requires_grad=True)
            return activation + self._added[name]

        return hook_fn


def loss_gradients(
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
    hook_names: Sequence[str],
    edits: FwdHooks | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Compute activations, and the gradient of each prompt's summed next-token loss by them.

    Args:
        model: The model.
        tokens: Padded token ids.
        mask: True at real tokens.
        hook_names: The hook points.
        edits: Hooks of the run, which act before the activations are read.

    Returns:
        Activations and gradients by hook point. Rows of a batch are independent: each row has the
        gradient of its own prompt, in nats per unit of activation. The loss is summed, because the
        gradient of a mean over many tokens is too small for float16.

    Raises:
        ModulesError: If the model was loaded in inference mode.
    """
    return gradients_of(summed_losses(tokens, mask), model, tokens, mask, hook_names, edits)


def summed_losses(
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
    starts: Int[torch.Tensor, " batch"] | None = None,
) -> Callable[[torch.Tensor], Float[torch.Tensor, " batch"]]:
    """What computes each prompt's summed next-token loss from the logits, in nats.

    Args:
        tokens: Padded token ids.
        mask: True at real tokens.
        starts: See ``scored_tokens``.
    """

    def summed(logits: torch.Tensor) -> torch.Tensor:
        # Clones, because the caller's tensors may have been made in inference mode.
        losses = next_token_losses(logits, tokens.clone(), mask.clone(), starts)
        return losses * n_predicted(mask, starts).to(logits.device)

    return summed


@contextmanager
def differentiable() -> Iterator[None]:
    """Enable gradients inside the ``with``, in whatever mode the caller is.

    Tensors that were made in inference mode cannot have gradients: clone those that a run reads.

    Raises:
        ModulesError: If a tensor that was made in inference mode is used.
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
            "model outside of torch.inference_mode(), or clone() the tensor there."
        ) from error


def check_differentiable() -> None:
    """Raise if gradients cannot be computed.

    Raises:
        ModulesError: In inference mode.
    """
    if torch.is_inference_mode_enabled():
        raise ModulesError(
            "Gradients cannot be computed inside torch.inference_mode(). Call this outside of it."
        )


def gradients_of(
    measure: Callable[[torch.Tensor], Float[torch.Tensor, " batch"]],
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
    hook_names: Sequence[str],
    edits: FwdHooks | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Compute activations, and the gradient of a number per prompt with respect to them.

    Args:
        measure: Computes one number per prompt from the logits.
        model: The model.
        tokens: Padded token ids.
        mask: True at real tokens.
        hook_names: The hook points.
        edits: Hooks of the run, which act before the activations are read.

    Returns:
        Activations and gradients by hook point, as ``loss_gradients`` returns them.

    Raises:
        ModulesError: If the model was loaded in inference mode, or ``measure`` uses a tensor that
            was made there.
    """
    found: list[dict[str, torch.Tensor]] = []

    def take(activations: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor]) -> None:
        del activations
        found.append(gradients)

    activations = each_gradient([measure], model, tokens, mask, hook_names, take, edits)
    return activations, found[0]


def each_gradient(
    measures: Sequence[Callable[[torch.Tensor], Float[torch.Tensor, " batch"]]],
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
    hook_names: Sequence[str],
    take: Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], object],
    edits: FwdHooks | None = None,
) -> dict[str, torch.Tensor]:
    """Compute the gradients of several numbers per prompt from one forward pass.

    Args:
        measures: Each computes one number per prompt from the logits.
        model: The model.
        tokens: Padded token ids.
        mask: True at real tokens.
        hook_names: The hook points.
        take: Called with the activations and each number's gradients by hook point, so that one
            number's gradients are in memory at a time.
        edits: Hooks of the run, which act before the activations are read.

    Returns:
        Activations by hook point.

    Raises:
        ModulesError: As in ``gradients_of``.
    """
    taps = Taps(hook_names)
    device = getattr(model.cfg, "device", None)
    try:
        with differentiable():
            logits = model.run_with_hooks(
                tokens.clone().to(device),
                fwd_hooks=[*(edits or []), *taps.fwd_hooks],
                attention_mask=mask.clone().long().to(device),
            )
            for number, measure in enumerate(measures, 1):
                value = measure(logits).sum()
                take(taps.activations, taps.gradients(value, again=number < len(measures)))
            return taps.activations
    finally:
        taps.release()
