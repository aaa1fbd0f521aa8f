"""Saying what each module of a set is about."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interpret.contexts import top_contexts
from tl_modules.interpret.lens import Written, written_tokens
from tl_modules.interpret.token_texts import NotReadable
from tl_modules.interpret.words import distinctive_words
from tl_modules.interventions.measuring import measures
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.topic import Context, Topic, topic_label
from tl_modules.runtime.arguments import checked
from tl_modules.tables.labels import warn_spelling
from tl_modules.tables.prompt_frames import prompt_frame

_Found = TypeVar("_Found")

_NO_MODEL = "Without a model there are no contexts and tokens: tlm.with_topics(modules, model)."


@checked
@measures
def with_topics(  # noqa: PLR0913 - the options of one run, all by keyword
    modules: ModuleSet,
    model: HookedModel | None = None,
    *,
    n_words: int = 10,
    n_prompts: int = 5,
    n_contexts: int = 8,
    n_tokens: int = 10,
    n_controls: int = 20,
    batch_size: int = 16,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ModuleSet:
    """Say what each module is about: its topic.

    From the samples: the categories' shares, the top prompts, and the words that tell them from
    the other modules' (c-TF-IDF). With the model: the tokens in those prompts that drive the module
    most, and those that its output direction promotes and suppresses, against random units' (a
    logit lens). The label is the category that more than half of the samples have (or both names of
    a tie, ``"coding / math"``, or the category that the module was given), and the most distinctive
    words. It says what drives a module, not what it does: test that causally.

    Args:
        modules: The modules; their samples need a column ``prompt``.
        model: The model that they were discovered in; without it, only what the samples tell.
        n_words: At most so many distinctive words a module.
        n_prompts: How many top prompts a module, which the model reads.
        n_contexts: At most so many top tokens a module.
        n_tokens: At most so many promoted and so many suppressed tokens a module.
        n_controls: Sets of random units that output directions are held against, at least 3.
        batch_size: Prompts in a forward pass.
        max_tokens: Cut prompts after so many tokens where the model reads them.
        seed: Seeds the random units.
        progress: Show progress bars.

    Returns:
        The same modules with ``topics``. What the model or the modules cannot give is empty, and
        the topic's ``notes`` say why.

    Raises:
        ModulesError: If the samples have no prompts, the model is another one, or an option cannot
            be.
    """
    counts = {"n_words": n_words, "n_prompts": n_prompts, "n_contexts": n_contexts}
    for name, value in {**counts, "n_tokens": n_tokens}.items():
        check_at_least(name, value, 1)
    check_at_least("n_controls", n_controls, 3)
    check_seed(seed)
    if "prompt" not in modules.samples:
        raise ModulesError(
            "The modules' samples should have a column 'prompt' to find topics in; they have "
            f"{list(modules.samples.columns)}. Discover on activations that hold their prompts: "
            "collect() keeps them, and ActivationMatrix.from_arrays takes them as samples."
        )
    texts = prompt_frame(modules.samples)["prompt"].tolist()
    if "category" in modules.samples:
        warn_spelling(modules.samples["category"])
    words = distinctive_words(texts, modules.sample_labels, modules.n_modules, n_words)
    prompts = [module.samples["prompt"].head(n_prompts).tolist() for module in modules]
    contexts: list[tuple[Context, ...]] = [()] * len(modules)
    written = [Written()] * len(modules)
    notes = [_NO_MODEL]
    if model is not None:
        modules.units.check_model(model)
        notes = []
        sizes = {"n_contexts": n_contexts, "batch_size": batch_size, "max_tokens": max_tokens}
        contexts = _or_note(
            lambda: top_contexts(model, modules, prompts, **sizes, progress=progress),
            contexts,
            notes,
        )
        options = {"n_tokens": n_tokens, "n_controls": n_controls, "seed": seed}
        written = _or_note(
            lambda: written_tokens(model, modules, **options, progress=progress), written, notes
        )
    labels: list[str] = []
    for module, own in zip(modules, words, strict=True):
        labels.append(topic_label(module.category_name, own, module.label, labels))
    return replace(
        modules,
        topics=tuple(
            Topic(
                label=labels[k],
                categories=modules[k].category_shares,
                words=words[k],
                prompts=tuple(prompts[k]),
                contexts=contexts[k],
                promoted=written[k].promoted,
                suppressed=written[k].suppressed,
                chance_z=written[k].chance_z,
                notes=tuple(notes),
            )
            for k in range(len(modules))
        ),
    )


def _or_note(find: Callable[[], _Found], otherwise: _Found, notes: list[str]) -> _Found:
    """What was found, or a note why it cannot be."""
    try:
        return find()
    except NotReadable as error:
        notes.append(str(error))
        return otherwise
