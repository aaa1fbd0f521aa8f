"""Labels of modules with scores: does a label tell a module's prompts from others?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np
from jaxtyping import Bool, Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.evaluation.module_means import module_means
from tl_modules.interpret.label_candidates import (
    Candidate,
    PromptContents,
    candidates,
    free_text,
)
from tl_modules.interpret.label_scores import (
    LEAST_OWN,
    auc_interval,
    most_active,
    permutation_p_values,
)
from tl_modules.interpret.labellers import Judge, LabelEvidence, Labeller, judged, labels_of
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.scored_labels import ScoredLabel, ScoredLabels, label_title
from tl_modules.modules.topic import Topic
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.tables.effects_frame import SIGNIFICANT
from tl_modules.tables.labels import warn_spelling
from tl_modules.tables.p_values import holm
from tl_modules.tables.roc import auc
from tl_modules.tables.text import as_texts

LEAST_PROMPTS = 4 * LEAST_OWN
"""The least number of held-out prompts: two of a module and two others in each half."""


@checked
def with_labels(  # noqa: PLR0913 - the options of one run, all by keyword
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore,
    *,
    cores: ModuleSet | None = None,
    labeller: Labeller | None = None,
    judge: Judge | None = None,
    n_words: int = 5,
    n_permutations: int = 1999,
    seed: int = 0,
    progress: bool = True,
) -> ModuleSet:
    """Choose each module's label among candidates, and score it on held-out prompts.

    The candidates are the category, the distinctive words, the words at which the module is most
    active, the tokens that it writes, and a text of your ``labeller``. The score is whether a label
    tells the prompts that drive the module from other prompts (detection). It is an AUROC: the
    chance that the label applies more to a prompt of the module than to another; 0.5 is chance.

    Candidates come from the prompts that the modules were discovered on. The prompts of ``acts``
    are split into halves at random. The first half chooses the candidate of the highest AUROC, the
    second scores it, so that the choice does not raise the score. In each half, as large a share of
    the prompts counts as the module's as it has of the samples, the most active first.

    Args:
        modules: The modules, with topics (``with_topics``).
        acts: Raw activations of other prompts than the modules', at least 8, with a column
            ``prompt``. A prompt that occurs twice counts once. A category is a candidate if they
            have a column ``category`` too.
        cores: The modules' cores, with topics, such as ``with_topics(found.cores, model)`` of
            ``causal_cores``. Their tokens then take the place of the modules'.
        labeller: Called with a ``LabelEvidence`` per module; returns a label, of at most 200
            characters. Use ``evidence.text`` as a prompt for a language model.
        judge: Called with a label of the labeller and a list of all held-out prompts, in random
            order; returns a number per prompt, larger if the label applies more. Without a judge
            the words of the label score it, without English stop words.
        n_words: The largest number of words or tokens in a label.
        n_permutations: The number of permutations of the prompts (the null).
        seed: Seeds the split and the permutations.
        progress: Show progress bars while the labeller and the judge run.

    Returns:
        The same modules with ``scored_labels``; ``label_scores()`` tabulates them, and
        ``describe()`` and ``Module.title`` show the chosen ones. If the score of a module's chosen
        label is not beyond chance (permutations, Holm over the modules, 0.05), its title says that
        no label fits.

    Raises:
        ModulesError: If the modules have no topics, ``acts`` have too few prompts, prompts of the
            modules' samples or other units, or an option is not valid.
        LabellerError: If the labeller or the judge raises, or returns something else. It holds what
            they had returned before.

    Example::

        modules = tlm.with_topics(tlm.discover(train, 7), model)
        modules = tlm.with_labels(modules, tlm.collect(model, other_prompts))
        modules.label_scores()
    """
    check_at_least("n_words", n_words, 1)
    check_at_least("n_permutations", n_permutations, 1)
    check_seed(seed)
    topics = _topics(modules, "modules")
    written = topics if cores is None else _core_topics(cores, modules)
    if judge is not None and labeller is None:
        raise ModulesError("judge scores a labeller's labels. Pass labeller= too, or leave it out.")
    rows = _held_out(modules, acts)
    samples = acts.samples.iloc[rows]
    prompts = PromptContents(samples)
    if "category" in samples and "category" in modules.samples:
        warn_spelling(samples["category"], modules.samples["category"])
    activity = module_means(modules, acts)[rows]
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(rows))
    halves = _Halves(activity, order, np.bincount(modules.sample_labels, minlength=len(modules)))
    has_category = prompts.categories is not None
    listed = [
        candidates(module, topic, of_core, n_words, with_category=has_category)
        for module, topic, of_core in zip(modules, topics, written, strict=True)
    ]
    # The activity of a module without units is the same on every prompt: nothing to tell apart.
    scorable = np.ptp(activity, axis=0) > 0
    found = [
        [(each, each.match(prompts)) for each in of_module] if scorable[k] else []
        for k, of_module in enumerate(listed)
    ]
    if labeller is not None:
        evidence = _evidence(topics, written, scorable)
        given = labels_of(labeller, evidence, progress=progress)
        texts = [prompts.texts[row] for row in order]
        scores = {} if judge is None else judged(judge, given, texts, progress=progress)
        for k, label in given.items():
            match = free_text(label).match(prompts)
            if judge is not None:
                match[order] = scores[label]
            found[k].insert(0, (free_text(label), match))
    return replace(modules, scored_labels=_scored(found, halves, n_permutations, generator))


@dataclass(frozen=True)
class _Halves:
    """The two halves of the held-out prompts, and each module's own prompts in each of them."""

    activity: Float[np.ndarray, "prompts modules"]
    order: Int[np.ndarray, " prompts"]
    sizes: Int[np.ndarray, " modules"]

    @property
    def choice(self) -> Int[np.ndarray, " choice"]:
        """The prompts that choose."""
        return self.order[: len(self.order) // 2]

    @property
    def score(self) -> Int[np.ndarray, " score"]:
        """The prompts that score."""
        return self.order[len(self.order) // 2 :]

    def own(self, module: int, half: Int[np.ndarray, " half"]) -> Bool[np.ndarray, " half"]:
        """Which prompts of a half are the module's."""
        return most_active(self.activity[half, module], self.sizes[module] / self.sizes.sum())


_Found = list[tuple[Candidate, Float[np.ndarray, " _prompts"]]]
"""A module's candidates, each with how far it applies to each held-out prompt."""


def _scored(
    found: list[_Found], halves: _Halves, n_permutations: int, generator: np.random.Generator
) -> tuple[ScoredLabels, ...]:
    """Score all candidates, choose one per module, and correct its p-value over the modules."""
    scored = [_score_module(k, found, halves, n_permutations, generator) for k in range(len(found))]
    chosen = [max(each, key=lambda one: one.choice_auc, default=None) for each in scored]
    p_holm = holm(np.array([np.nan if best is None else best.p_value for best in chosen]))
    titles: list[str] = []
    labels = []
    n_prompts = len(halves.score)
    fewest = n_prompts
    for k, (of_module, best) in enumerate(zip(scored, chosen, strict=True)):
        fits = bool(p_holm[k] <= SIGNIFICANT)
        titles.append(label_title(best, fits, k, titles))
        n_own = int(halves.own(k, halves.score).sum())
        fewest = min(fewest, n_own, n_prompts - n_own)
        corrected = None if best is None else float(p_holm[k])
        labels.append(ScoredLabels(titles[-1], tuple(of_module), corrected, n_prompts, n_own))
    n_tests = sum(best is not None for best in chosen)
    least = max(1 / (1 + n_permutations), 1 / comb(n_prompts, fewest))
    if n_tests and least * n_tests > SIGNIFICANT:
        warn_user(
            f"No label can be shown to fit: with {n_prompts} prompts that score, {n_permutations} "
            f"permutations and {n_tests} modules, the smallest corrected p-value is "
            f"{min(least * n_tests, 1):.2g}. Pass more held-out prompts, or a larger "
            "n_permutations."
        )
    return tuple(labels)


def _score_module(
    module: int,
    found: list[_Found],
    halves: _Halves,
    n_permutations: int,
    generator: np.random.Generator,
) -> list[ScoredLabel]:
    """Score one module's candidates on both halves."""
    if not found[module]:
        return []
    choosing, scoring = halves.choice, halves.score
    own_choice, own = halves.own(module, choosing), halves.own(module, scoring)
    matches = np.stack([match for _, match in found[module]])
    p_values = permutation_p_values(matches[:, scoring], own, n_permutations, generator)
    scored = []
    for (each, match), p_value in zip(found[module], p_values, strict=True):
        low, high = auc_interval(match[scoring], own)
        others = [
            float(auc(other[scoring], own))
            for k, of_module in enumerate(found)
            for one, other in of_module
            if k != module and one.kind == each.kind
        ]
        scored.append(
            ScoredLabel(
                kind=each.kind,
                label=each.label,
                choice_auc=float(auc(match[choosing], own_choice)),
                auc=float(auc(match[scoring], own)),
                ci_low=low,
                ci_high=high,
                auc_others=float(np.mean(others)) if others else None,
                p_value=float(p_value),
            )
        )
    return scored


def _topics(modules: ModuleSet, name: str) -> tuple[Topic, ...]:
    if modules.topics is None:
        raise ModulesError(
            f"{name} should have topics, which labels are made of; they have none. Find them: "
            "tlm.with_topics(modules, model)."
        )
    return modules.topics


def _core_topics(cores: ModuleSet, modules: ModuleSet) -> tuple[Topic, ...]:
    if len(cores) != len(modules) or not cores.units.same_hooks(modules.units):
        raise ModulesError(
            f"cores should be the cores of these {len(modules)} modules, on the same units; got "
            f"{len(cores)} of {cores.model_name!r}. Pass tlm.with_topics(found.cores, model), with "
            "found = tlm.causal_cores(...)."
        )
    return _topics(cores, "cores")


def _held_out(
    modules: ModuleSet, acts: ActivationMatrix | ActivationStore
) -> Int[np.ndarray, " rows"]:
    """The rows of the held-out prompts, each prompt once.

    Raises:
        ModulesError: If there are too few, or some are among the modules' samples.
    """
    for name, samples in (("acts", acts.samples), ("modules", modules.samples)):
        if "prompt" not in samples:
            raise ModulesError(
                f"The samples of {name} should have a column 'prompt'; they have "
                f"{list(samples.columns)}. Labels are compared with prompts: keep them."
            )
    texts = as_texts(acts.samples["prompt"]).reset_index(drop=True)
    seen = set(as_texts(modules.samples["prompt"]))
    n_seen = int(texts.isin(seen).sum())
    if n_seen:
        raise ModulesError(
            f"acts should hold other prompts than the modules were discovered on; {n_seen} of "
            f"{len(texts)} are among their samples. Discover on a part of the prompts: train, test "
            "= tlm.split_by_category(acts)."
        )
    rows = np.flatnonzero(~texts.duplicated().to_numpy())
    if len(rows) < LEAST_PROMPTS:
        raise ModulesError(
            f"acts should hold at least {LEAST_PROMPTS} different prompts; they hold {len(rows)}. "
            "Collect more: 20 per module are a fair number."
        )
    return rows


def _evidence(
    topics: Sequence[Topic], written: Sequence[Topic], scorable: Bool[np.ndarray, " modules"]
) -> list[LabelEvidence]:
    """What a labeller gets of each module that can be scored."""
    return [
        LabelEvidence(
            module=k,
            topic=topics[k],
            written=tuple(token.token for token in written[k].promoted),
            other_prompts=tuple(
                topic.prompts[0]
                for other, topic in enumerate(topics)
                if other != k and topic.prompts
            ),
        )
        for k in np.flatnonzero(scorable).tolist()
    ]
