"""Language-specific neurons by the entropy of how often each is active in each language (LAPE)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.activations.prompt_means import prompt_means
from tl_modules.errors import ModulesError, count_or_share
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.unit_target import UnitTarget
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hook_points import HookPoints
from tl_modules.models.hooked_model import HookedModel, model_name
from tl_modules.models.sites import hook_points_at
from tl_modules.models.tokens import tokenise
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_frames import categories_of, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.text import text_column
from tl_modules.units import Units


@dataclass(frozen=True, eq=False)
class LanguageUnits(UnitTarget):
    """The neurons of one language, as a target of causal tests."""

    label: str
    """The language."""

    category: str | None
    """The language: the prompts whose loss should suffer most."""

    units: Units
    """The neurons."""


@dataclass(frozen=True, eq=False, repr=False)
class LanguageNeurons:
    """The neurons that are often active in few languages."""

    units: pd.DataFrame
    """One row per neuron and language that it is specific to, a language's lowest entropy first:
    ``category`` (the language), ``layer``, ``hook_name``, ``unit``, ``probability`` (the share of
    the language's tokens on which it is active) and ``entropy`` (in nats). ``describe_units`` takes
    the table."""

    languages: pd.DataFrame
    """One row per language: ``category``, ``n_prompts``, ``n_tokens`` (content tokens, over which
    the probabilities are) and ``n_units``."""

    targets: tuple[LanguageUnits, ...]
    """Each language's neurons as a target, in the order of ``languages``; languages without any are
    left out. ``module_effects`` takes them, with a ``reference`` for mean ablation."""

    threshold: float
    """A neuron is often active in a language if its probability is above this."""

    def __repr__(self) -> str:
        """Return one line, without the tables."""
        n_units = len(self.units.drop_duplicates(["hook_name", "unit"]))
        return (
            f"LanguageNeurons({n_units:,} neurons; languages with some: {len(self.targets)} of "
            f"{len(self.languages)})"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the table of languages."""
        return html_table(repr(self), self.languages)


@checked
@measures
def language_neurons(
    model: HookedModel,
    prompts: Prompts,
    *,
    n_neurons: int | float = 0.01,
    quantile: float = 0.95,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    progress: bool = True,
) -> LanguageNeurons:
    """Find language-specific neurons by language activation probability entropy (LAPE).

    After Tang et al. 2024 (arXiv 2402.16438), of which the abstract and the authors' code were
    read. A neuron's probability in a language is the share of tokens on which its activation
    function gives more than 0. Divided by their sum over the languages, the probabilities have an
    entropy: low if the neuron is active in few languages. Neurons that no language activates often
    are left out: often is above the ``quantile`` of all neurons' probabilities in all languages. Of
    the others, those of the lowest entropy are specific to the languages that activate them often.

    A gated neuron is active where its gate is above 0, whatever the sign of what it writes. Only
    content tokens count. The authors read millions of tokens of each language; of a few hundred,
    probabilities are coarse. The neurons of the lowest entropy are there in any model: look at
    ``entropy`` before calling one specific. It is 0 if one language alone activates the neuron, and
    log n if n languages do so equally often. Of equal entropies the lower layer comes first.

    Args:
        model: The model.
        prompts: A frame with ``prompt`` and ``category``, the language. They need not be parallel.
        n_neurons: How many neurons of the lowest entropy to take at most: a number, or a share of
            all. One version of the authors' code has 0.01, which others report of the paper too;
            another has 0.05.
        quantile: Of all probabilities, above which a neuron is often active; from 0 to below 1.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Cut prompts after this many tokens.
        progress: Show a progress bar.

    Returns:
        The neurons, and a target for each language that has some.

    Raises:
        ModulesError: If there are fewer than two languages, an option is out of range, a prompt has
            no content token, the model shows no neurons or not the gates of gated ones, or an
            activation is not finite.

    Example::

        found = tl_modules.interpret.language_neurons(model, prompts)
        tlm.module_effects(model, found.targets, held_out, reference=acts)
    """
    if not 0 <= quantile < 1:
        raise ModulesError(
            f"quantile should be at least 0 and below 1; got {quantile}. 0.95 is usual."
        )
    units = Units.whole(*hook_points_at(model, "mlp"))
    n_taken = count_or_share("n_neurons", n_neurons, len(units))
    frame = labelled(prompt_frame(prompts))
    categories = categories_of(frame)
    names = list(dict.fromkeys(categories.tolist()))
    if len(names) < 2:
        raise ModulesError(
            f"prompts should be in at least two languages; their column 'category' has "
            f"{len(names) if 'category' in frame.columns else 'none'}. Name each prompt's language "
            "there."
        )
    tokens = tokenise(model, frame["prompt"].tolist(), max_tokens)
    points = _activation_points(model, units.hook_points)
    (shares,), n_tokens = prompt_means(
        model, [(points, "fraction_active")], tokens, batch_size, progress=progress
    )
    members = np.array([[category == name for category in categories] for name in names])
    # Each token counts the same. Whole numbers, so that equal probabilities are equal numbers.
    n_active = np.rint(shares.astype(np.float64) * n_tokens[:, None])
    totals = members @ n_tokens
    probabilities = (members @ n_active) / totals[:, None]
    entropies, threshold = lape(probabilities, quantile)
    chosen = np.argsort(entropies, kind="stable")[:n_taken]
    is_often = probabilities[:, chosen] > threshold
    languages = pd.DataFrame(
        {
            "category": text_column(names),
            "n_prompts": members.sum(axis=1),
            "n_tokens": totals,
            "n_units": is_often.sum(axis=1),
        }
    )
    parts, targets = [], []
    for name, row, own in zip(names, probabilities, is_often, strict=True):
        taken = chosen[own]
        numbers = {"probability": row[taken], "entropy": entropies[taken]}
        parts.append(units.select(taken).to_frame().assign(**numbers))
        parts[-1].insert(0, "category", text_column([name] * len(taken)).array)
        if len(taken):
            targets.append(LanguageUnits(name, name, units.select(np.sort(taken))))
    return LanguageNeurons(
        pd.concat(parts, ignore_index=True), languages, tuple(targets), float(threshold)
    )


def lape(
    probabilities: Float[np.ndarray, "languages units"], quantile: float
) -> tuple[Float[np.ndarray, " units"], float]:
    """Compute the entropy of each unit's probabilities over the languages.

    Args:
        probabilities: How often each unit is active in each language, from 0 to 1.
        quantile: Of all probabilities, above which one counts as often.

    Returns:
        The entropies in nats, infinite for units that no language activates often; and the
        probability above which a language does.
    """
    flat = probabilities.ravel()
    # As the authors' code: a value of the sample, of which a share is at most as large.
    rank = max(round(len(flat) * quantile), 1)
    threshold = float(np.partition(flat, rank - 1)[rank - 1])
    totals = probabilities.sum(axis=0)
    shares = probabilities / np.where(totals > 0, totals, 1.0)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    entropies = 0.0 - (shares * logs).sum(axis=0)
    is_often = np.any(probabilities > threshold, axis=0)
    return np.where(is_often, entropies, np.inf), threshold


def _activation_points(model: HookedModel, neurons: HookPoints) -> HookPoints:
    """Where the sign of each neuron's activation function is read, layer by layer.

    The usual functions (ReLU, GELU, SiLU) give more than 0 where their input is above 0. What the
    down-projection reads of a gated neuron is multiplied by a second projection of any sign.
    """
    names = tuple(name.replace("hook_post", "hook_pre") for name in neurons.names)
    if all(name in model.hook_dict for name in names):
        return HookPoints(names, neurons.layers, neurons.widths, neurons.spans, None)
    if getattr(model.cfg, "gated_mlp", False):
        raise ModulesError(
            f"Gated neurons are active where their gate is above 0, which is read at {names[0]!r}; "
            f"{model_name(model)!r} lacks this hook point. Boot it with TransformerLens."
        )
    return neurons
