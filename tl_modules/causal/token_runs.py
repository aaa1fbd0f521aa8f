"""Forward passes over one batch of tokens, several interventions in each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from tl_modules.causal.metrics import check_measured
from tl_modules.causal.passes import HooksOfCopies, passes_over_copies
from tl_modules.errors import ModulesError, shown
from tl_modules.models.batch_sizes import BatchSize, batch_size_of, check_batch_size
from tl_modules.models.hooked_model import FwdHooks, HookedModel, HookFn
from tl_modules.models.runs import forward
from tl_modules.models.token_arrays import TokenArray, as_mask, as_tokens


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch of tokens, and the model that runs them."""

    model: HookedModel
    tokens: Int[torch.Tensor, "_batch _pos"]
    attention_mask: Bool[torch.Tensor, "_batch _pos"] | None
    batch_size: int
    """Rows of a forward pass: prompts times interventions, but never fewer than the prompts."""

    @classmethod
    def given(
        cls,
        model: HookedModel,
        name: str,
        tokens: TokenArray,
        attention_mask: TokenArray | None,
        batch_size: BatchSize,
    ) -> "Rows":
        """Parse the batch that a user passed to a public function.

        Args:
            model: The model.
            name: The name of the argument with the tokens.
            tokens: Token ids.
            attention_mask: 1 or True where a token is real.
            batch_size: Rows of a forward pass; ``"auto"``: as many as memory holds.

        Raises:
            ModulesError: If there is no token, the model cannot run one, the tokens or the mask are
                malformed or differ in shape, or ``batch_size`` is below 1.
        """
        ids = tokens_of(model, name, tokens)
        mask = mask_of(ids, attention_mask)
        check_batch_size(batch_size)
        return cls(model, ids, mask, batch_size_of(model, batch_size, ids.shape[1]))

    def passes(
        self, n_runs: int, hooks: HooksOfCopies, desc: str, progress: bool
    ) -> Iterator[list[Float[torch.Tensor, "batch pos vocab"]]]:
        """The logits under each intervention, as many at a time as share a forward pass.

        Args:
            n_runs: The number of interventions.
            hooks: Makes the hooks of some of them, such as ``CopyEdits.hooks``.
            desc: What the progress bar says.
            progress: Show it.

        Yields:
            Some interventions' logits, in order.
        """
        n_rows = len(self.tokens)
        given = (self.model, self.tokens, self.attention_mask, n_runs, hooks, self.batch_size)
        with tqdm(total=n_runs, desc=desc, disable=not progress) as bar:
            for logits in passes_over_copies(*given):
                several = list(logits.split(n_rows))
                yield several
                bar.update(len(several))

    def measured(
        self,
        metric: Callable[[torch.Tensor], torch.Tensor],
        n_runs: int,
        hooks: HooksOfCopies,
        desc: str,
        progress: bool,
    ) -> Float[np.ndarray, "runs batch"]:
        """A metric of each prompt under each intervention.

        Args:
            metric: From logits ``[batch, pos, d_vocab]`` to one number per prompt.
            n_runs: See ``passes``.
            hooks: See ``passes``.
            desc: What the progress bar says.
            progress: Show it.

        Returns:
            The values, in float64.

        Raises:
            ModulesError: If the metric is not one number per prompt, or is NaN or infinite.
        """
        found = []
        one_per_prompt = f"a tensor of one number per prompt, ({len(self.tokens)},)"
        for several in self.passes(n_runs, hooks, desc, progress):
            for logits in several:
                with torch.inference_mode():  # as the logits were made
                    value = as_measured("metric", metric(logits), one_per_prompt)
                if value.shape != (len(self.tokens),):
                    raise ModulesError(
                        f"metric should return one number per prompt, ({len(self.tokens)},); it "
                        f"returned shape {tuple(value.shape)}. Leave the mean over prompts out: "
                        "intervals are made from it."
                    )
                found.append(value.detach().cpu().double().numpy())
        values = np.array(found).reshape(n_runs, len(self.tokens))
        check_measured(values, np.arange(len(self.tokens)))
        return values

    def activations(self, hook_names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The activations at some hook points.

        Args:
            hook_names: The hook points.

        Returns:
            Copies of the activations, by the names asked for.
        """
        found: dict[str, torch.Tensor] = {}

        def reader(name: str) -> HookFn:
            def read(activation: torch.Tensor, hook: Any = None) -> None:
                del hook
                found[name] = activation.clone()

            return read

        hooks: FwdHooks = [(name, reader(name)) for name in hook_names]
        forward(self.model, self.tokens, self.attention_mask, hooks)
        missing = sorted(set(hook_names) - set(found))
        if missing:
            raise ModulesError(
                f"Hook points {missing} never fired in a forward pass: nothing can be patched "
                "there. Choose units at hook points that this model runs."
            )
        return found


def tokens_of(model: HookedModel, name: str, tokens: TokenArray) -> Int[torch.Tensor, "batch pos"]:
    """Token ids that the model can run, as a tensor.

    Args:
        model: The model.
        name: The name of the argument, for messages.
        tokens: Token ids, ``[batch, pos]`` or ``[pos]``.

    Raises:
        ModulesError: If they are malformed, one is no id of the model's vocabulary, or they are
            more than its context.
    """
    found = as_tokens(name, tokens)
    d_vocab = getattr(model.cfg, "d_vocab", None)
    least, most = int(found.min()), int(found.max())
    if least < 0 or (d_vocab and most >= d_vocab):
        limit = f"0 .. {d_vocab - 1}, the model's vocabulary" if d_vocab else "0 and above"
        raise ModulesError(
            f"{name} should hold token ids in {limit}; it holds {least if least < 0 else most}. "
            "Use model.to_tokens(prompts) of this model; for padding, its tokenizer's pad_token_id."
        )
    n_ctx = getattr(model.cfg, "n_ctx", None)
    if n_ctx and found.shape[1] > n_ctx:
        raise ModulesError(
            f"{name} should fit the model's context of {n_ctx} tokens; its prompts have "
            f"{found.shape[1]}. Shorten them."
        )
    return found


def as_measured(name: str, value: object, wanted: str) -> torch.Tensor:
    """Convert what a metric returned to a tensor.

    Args:
        name: The name of the metric, for messages.
        value: What it returned.
        wanted: What it should return.

    Raises:
        ModulesError: If torch cannot convert it to numbers.
    """
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModulesError(
            f"{name} should return {wanted}; it returned {shown(value)}. Return the number that "
            "it computes from the logits."
        ) from error


def mask_of(
    tokens: Int[torch.Tensor, "batch pos"], attention_mask: TokenArray | None
) -> Bool[torch.Tensor, "batch pos"] | None:
    """The attention mask of some tokens, if there is one.

    Raises:
        ModulesError: If it is malformed, or has another shape than the tokens.
    """
    mask = as_mask("attention_mask", attention_mask)
    if mask is not None and mask.shape != tokens.shape:
        raise ModulesError(
            f"attention_mask should have the tokens' shape, {tuple(tokens.shape)}; it has "
            f"{tuple(mask.shape)}. Pass the mask that the tokenizer gave with the tokens."
        )
    return mask


def check_pairs(clean_tokens: torch.Tensor, corrupted_tokens: torch.Tensor) -> None:
    """Refuse clean and corrupted tokens of different shapes.

    Raises:
        ModulesError: If their shapes differ.
    """
    if clean_tokens.shape != corrupted_tokens.shape:
        raise ModulesError(
            f"clean_tokens and corrupted_tokens should have one shape; they have "
            f"{tuple(clean_tokens.shape)} and {tuple(corrupted_tokens.shape)}. Pad both alike, and "
            "pass the attention mask."
        )
