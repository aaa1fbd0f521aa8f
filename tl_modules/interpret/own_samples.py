"""Whether activations are of the samples that modules were discovered on."""

import numpy as np

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError
from tl_modules.frames import as_texts
from tl_modules.modules import ModuleSet


def check_own_samples(modules: ModuleSet, acts: ActivationMatrix | ActivationStore) -> None:
    """Refuse activations of other samples than the modules' labels are of.

    Raises:
        ModulesError: If their number, or a prompt, differs.
    """
    remedy = "Pass the matrix that the modules were discovered on."
    if len(acts.samples) != len(modules.samples):
        raise ModulesError(
            f"acts should be of the modules' own {len(modules.samples)} samples; they are of "
            f"{len(acts.samples)}. {remedy}"
        )
    if "prompt" in acts.samples and "prompt" in modules.samples:
        both = (acts.samples, modules.samples)
        prompts = (as_texts(samples["prompt"]).to_numpy() for samples in both)
        differ = np.flatnonzero(np.not_equal(*prompts))
        if len(differ):
            raise ModulesError(
                "acts should be of the modules' own samples in their order; sample "
                f"{differ[0]} is another. {remedy}"
            )
