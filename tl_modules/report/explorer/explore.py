"""``explore``: check what is given, and show it on a page."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import check_seed
from tl_modules.interventions.measuring import measures
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.tokens import check_tokenizer
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.cores import HasCores, check_cores
from tl_modules.report.explorer.explorer import Explorer
from tl_modules.report.explorer.payload import core_curves
from tl_modules.report.explorer.question import Question
from tl_modules.report.explorer.runner import Runner
from tl_modules.report.explorer.session import Session
from tl_modules.runtime.arguments import checked
from tl_modules.tables.verdicts import verdict_sentence


@checked
@measures
def explore(
    model: HookedModel,
    modules: ModuleSet,
    effects: pd.DataFrame | None = None,
    *,
    cores: HasCores | None = None,
    ranking: Float[np.ndarray, " units"] | None = None,
    prompt: str | None = None,
    seed: int = 0,
) -> Explorer:
    """Show modules on a page in the notebook, on which one can intervene and edit.

    Choose modules and a prompt. The page colours the prompt's tokens by how active the modules are
    or by what the intervention does to each token's loss. It shows next-token probabilities, the
    loss and, on request, the text that the model writes: unchanged, with the modules ablated,
    scaled or patched, and with a control, as many random units of the same layers. Units are
    changed at content tokens, as in ``module_effects``. Modules can be renamed, merged, split and
    given other units; ``.modules`` is the set as edited.

    The page is an anywidget (extra ``viz``) and fetches nothing from a network. Where widgets do
    not run, the same state shows as tables, and ``.run(...)`` changes it.

    Args:
        model: The model that the modules were discovered in.
        modules: The modules.
        effects: What ``module_effects`` returned for them: the page shows each module's verdict.
        cores: What ``causal_cores`` returned for them: the page draws the curve of each module's
            cores, and takes their units first.
        ranking: A score of every unit of the site, such as ``UnitEstimates.contrast(category)``. A
            module's core of n units is its n highest. By default the scores of ``cores``, then
            each unit's fit (``Module.scores``), which says little about its importance.
        prompt: The first prompt; by default the first module's strongest one.
        seed: Seeds the controls.

    Returns:
        An ``Explorer``, which a notebook shows as the last expression of a cell.

    Raises:
        ModulesError: If the modules belong to another model, the model has no tokenizer, the
            effects, the cores or the ranking belong to other modules, or the prompt has no tokens.

    Example::

        explorer = tlm.explore(model, modules, effects)
        explorer  # play with it
        edited = explorer.modules
    """
    modules.units.check_model(model)
    check_tokenizer(model)
    check_seed(seed)
    sentence = ""
    if effects is not None:
        modules = modules.with_effects(effects)
        sentence = verdict_sentence(effects, of=modules.holds)
    if cores is not None:
        check_cores(cores, modules, also=("ranking",))
    word = "the scores passed as ranking="
    if ranking is None and cores is not None:
        ranking = _ranking_of(cores, modules)
        word = "the score of the causal core, then fit"
    elif ranking is None:
        word = "fit to the topic, which says little about importance"
    first = prompt if prompt is not None else _first_prompt(modules)
    session = Session(modules, Question(prompt=first), ranking)
    about = {
        "sentence": sentence,
        "ranking": word,
        "cores": {} if cores is None else core_curves(cores.table),
    }
    explorer = Explorer(session, Runner(model, seed), about)
    if first:
        explorer.run()
    return explorer


def _first_prompt(modules: ModuleSet) -> str:
    """The first module's strongest prompt; empty if the samples have no prompts."""
    prompts = modules[0].samples.get("prompt")
    return "" if prompts is None or not len(prompts) else str(prompts.iloc[0])


def _ranking_of(cores: HasCores, modules: ModuleSet) -> Float[np.ndarray, " units"]:
    """The cores' units by their scores, above all others, which keep the order of their fit."""
    units, found = modules.units, cores.units
    fit = modules.unit_scores
    scores = np.zeros(len(units)) if fit is None else np.where(np.isfinite(fit), fit, -np.inf)
    ranks = np.argsort(np.argsort(scores, kind="stable")) / len(scores)  # below 1
    starts = dict(zip(units.hook_names, np.cumsum((0, *units.widths)).tolist(), strict=False))
    offsets = np.array([starts[name] for name in found["hook_name"]], dtype=np.int64)
    places = offsets + found["unit"].to_numpy(dtype=np.int64)
    ranks[places] = np.arange(len(found), 0, -1)  # highest score first in each module
    return ranks
