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
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.topic import Context, Topic, topic_label
from tl_modules.runtime.arguments import checked
from tl_modules.tables.labels import warn_spelling
from tl_modules.tables.prompt_frames import prompt_frame

_Result = TypeVar("_Result")

_NO_MODEL = (
    "Contexts and tokens need the model; none was passed. Call tlm.with_topics(modules, model)."
)


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
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ModuleSet:
    """Describe what each module is about: a label, words, prompts and tokens.

    The samples give the shares of categories, the top prompts, and the words that distinguish the
    module's prompts from other modules' prompts (c-TF-IDF). The model adds the tokens of the top
    prompts that drive the module most, and the tokens that its output direction promotes and
    suppresses, compared with random units (a logit lens). The label consists of a category and the
    most distinctive words. The category is the one that a user gave the module, or else the
    category of more than half of its samples; a tie shows both names, ``"coding / math"``. A topic
    says what drives a module; only causal tests say what the module does.

    Args:
        modules: The modules; their samples need a column ``prompt``.
        model: The model that the modules were discovered in; without it, topics describe samples
            only.
        n_words: The largest number of distinctive words per module.
        n_prompts: The number of top prompts per module.
        n_contexts: The largest number of top tokens per module.
        n_tokens: The largest number of promoted, and of suppressed, tokens per module.
        n_controls: Sets of random units to compare with, at least 3.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Cut prompts after this many tokens.
        seed: Seeds the random units.
        progress: Show progress bars.

    Returns:
        The same modules with ``topics``. A part that cannot be computed is empty, and the topic's
        ``notes`` give the reason.

    Raises:
        ModulesError: If the samples have no prompts, the modules belong to another model, or an
            option is not valid.
    """
    counts = {"n_words": n_words, "n_prompts": n_prompts, "n_contexts": n_contexts}
    for name, value in {**counts, "n_tokens": n_tokens}.items():
        check_at_least(name, value, 1)
    check_at_least("n_controls", n_controls, 3)
    check_seed(seed)
    if "prompt" not in modules.samples:
        raise ModulesError(
            "The modules' samples should have a column 'prompt'; they have "
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
    for module, module_words in zip(modules, words, strict=True):
        # The labels so far are passed on, because labels should be unique.
        labels.append(topic_label(module.category_name, module_words, module.label, labels))
    return replace(
        modules,
        scored_labels=None,  # they are made of the old topics
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


def _or_note(find: Callable[[], _Result], otherwise: _Result, notes: list[str]) -> _Result:
    """Return the result of ``find``, or the default together with a note of the reason."""
    try:
        return find()
    except NotReadable as error:
        notes.append(str(error))
        return otherwise
