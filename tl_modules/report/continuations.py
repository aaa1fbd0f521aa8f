"""What the model writes with and without each module."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from tl_modules.interpret.token_texts import text_of
from tl_modules.interventions.ablation import Ablation
from tl_modules.interventions.target import Target
from tl_modules.models.generation import continued, text_end
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.tokens import tokenise
from tl_modules.modules.module import Module
from tl_modules.modules.module_set import ModuleSet

N_START = 24
"""The number of tokens of a prompt that the model continues."""

N_NEW = 24
"""The largest number of tokens that the model writes."""


@dataclass(frozen=True)
class Continuation:
    """The beginning of a prompt, and three texts that the model writes after it."""

    start: str
    """The beginning of the prompt."""

    unchanged: str
    """What the model writes."""

    without: str
    """What the model writes while the units are mean-ablated."""

    control: str
    """What the model writes while as many random units of the same layers are mean-ablated."""


def continuations(
    model: HookedModel,
    modules: ModuleSet,
    ablated: Mapping[int, Module],
    *,
    seed: int = 0,
    progress: bool = True,
) -> dict[int, Continuation]:
    """Let the model continue each module's strongest prompt, with the module and without it.

    The model takes the likeliest token each time, so that the texts differ by the ablation alone.
    Units have their means at content tokens, as in ``module_effects``.

    Args:
        model: The model.
        modules: The modules, whose samples are the prompts.
        ablated: The units to ablate for each module: the module itself, or its core.
        seed: Draws the random units.
        progress: Show a progress bar.

    Returns:
        One continuation per module that has a prompt and units; an empty mapping if the model
        cannot generate, or the modules hold no means of their units.
    """
    if not hasattr(model, "generate") or modules.normaliser is None:
        return {}
    prompts = {
        label: prompt
        for label, target in ablated.items()
        if target.n_units and (prompt := _strongest_prompt(modules[label])) is not None
    }
    texts = {}
    for label, prompt in tqdm(
        prompts.items(), desc="write", unit="module", disable=not progress or not prompts
    ):
        generator = np.random.default_rng([seed, label])
        texts[label] = _continuation(model, ablated[label], prompt, generator)
    return texts


def _strongest_prompt(module: Module) -> str | None:
    """Return the strongest prompt, of the module's own category if it has one."""
    samples = module.samples
    if "prompt" not in samples or not len(samples):
        return None
    if module.category is not None and "category" in samples:
        own = samples.loc[samples["category"].astype(str) == module.category]
        samples = own if len(own) else samples
    return str(samples["prompt"].iloc[0])


def _continuation(
    model: HookedModel, module: Module, prompt: str, generator: np.random.Generator
) -> Continuation:
    """Let the model continue a prompt three times."""
    longest = getattr(model.cfg, "n_ctx", None) or N_START + N_NEW
    (tokens,) = tokenise(model, [prompt], min(N_START, longest // 2))
    n_new = min(N_NEW, longest - len(tokens))
    target = module.in_experiment(Ablation(positions="content"))
    (control,) = target.controls(1, generator)

    def written(edit: Target | None) -> str:
        if edit is not None:
            with edit.ablated(model, positions="content"):
                return written(None)
        whole = continued(model, tokens, n_new, remedy="")
        return text_of(model, whole[len(tokens) : text_end(model, whole, len(tokens))].tolist())

    return Continuation(
        text_of(model, tokens.tolist()), written(None), written(target), written(control)
    )
