"""Prepare the card of each module for the page: topic, layers, top prompts."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from tl_modules.interpret.token_texts import NotReadable
from tl_modules.interpret.values_by_token import token_values
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module import Module
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.topic import Topic, clear_tokens
from tl_modules.plots.tokens import token_spans
from tl_modules.tables.text import shortened, visible

_LONGEST = 400  # characters shown of a prompt
_MAX_TOKENS = 80  # tokens of a prompt that the model runs
_MANY = 30  # more modules than this show fewer prompts each
_MIN_SHARE = 0.02  # smaller shares of a category are not listed


@dataclass(frozen=True)
class Bar:
    """One layer's bar in a module's histogram, in the units of the SVG drawing."""

    layer: int
    x: float
    width: float
    height: float
    expected: float
    count: int


@dataclass(frozen=True)
class Card:
    """The content of one module's card, as the template needs it."""

    module: Module
    name: str
    shares: Markup
    bars: list[Bar]
    prompts: list[Markup]
    words: Markup
    promoted: Markup
    suppressed: Markup
    label: str


def module_cards(
    modules: ModuleSet, model: HookedModel | None, *, progress: bool = True
) -> list[Card]:
    """Prepare one card per module.

    Args:
        modules: The modules.
        model: The model that colours the prompts' tokens. Without it, or if the modules do not hold
            their units' means, prompts are plain text.
        progress: Show a progress bar while the model runs.
    """
    n_prompts = 5 if len(modules) <= _MANY else 2
    prompts = {module.label: _top_prompts(module, n_prompts) for module in modules}
    as_html = _coloured(modules, prompts, model, progress=progress)
    return [_card(module, as_html[module.label]) for module in modules]


def _card(module: Module, prompts: list[Markup]) -> Card:
    """Prepare a module's card."""
    topic = module.topic
    return Card(
        module=module,
        name=module_label(module),
        shares=_shares(topic),
        bars=_histogram(module),
        prompts=prompts,
        words=_words(topic),
        promoted=_tokens(topic, "promoted"),
        suppressed=_tokens(topic, "suppressed"),
        label=_label(module),
    )


def module_label(module: Module) -> str:
    """Return the module's title, cut to fit into a heading."""
    return shortened(visible(module.title or ""), 80)


def _label(module: Module) -> str:
    """Return the module's label with its score on held-out prompts; empty without one."""
    labels = module.scored_labels
    return "" if labels is None else shortened(visible(labels.line), _LONGEST)


def _top_prompts(module: Module, n_prompts: int) -> list[str]:
    """Return the module's strongest prompts."""
    if "prompt" not in module.samples:
        return []
    return [str(prompt) for prompt in module.samples["prompt"].head(n_prompts)]


def _coloured(
    modules: ModuleSet,
    prompts_of: dict[int, list[str]],
    model: HookedModel | None,
    *,
    progress: bool,
) -> dict[int, list[Markup]]:
    """Return each module's prompts as HTML, with coloured tokens if the model can run."""
    plain = {
        label: [escape(shortened(visible(prompt), _LONGEST)) for prompt in prompts]
        for label, prompts in prompts_of.items()
    }
    # One run over all modules' prompts: token_values computes every module on every prompt.
    texts = [prompt for prompts in prompts_of.values() for prompt in prompts]
    if model is None or not texts:
        return plain
    try:
        values = token_values(model, modules, texts, max_tokens=_MAX_TOKENS, progress=progress)
    except NotReadable:
        return plain
    coloured, start = {}, 0
    for label, prompts in prompts_of.items():
        of_module = values.loc[start : start + len(prompts) - 1]
        # token_spans escapes the tokens, so the result is safe as Markup.
        spans = token_spans(of_module, label) if prompts else []
        coloured[label] = [Markup(text) for text in spans]
        start += len(prompts)
    return coloured


def _shares(topic: Topic | None) -> Markup:
    """List the categories with more than a few of the module's samples."""
    categories = {} if topic is None else topic.categories
    kept = [(name, share) for name, share in categories.items() if share >= _MIN_SHARE]
    return _listed([name for name, _ in kept], [f" {share:.0%}" for _, share in kept])


def _words(topic: Topic | None) -> Markup:
    """List the topic's distinctive words."""
    return _listed([] if topic is None else [word.word for word in topic.words])


def _tokens(topic: Topic | None, name: str) -> Markup:
    """List the tokens that the output direction promotes or suppresses beyond chance."""
    return _listed([] if topic is None else clear_tokens(getattr(topic, name), topic.chance_z))


def _listed(texts: list[str], notes: list[str] | None = None) -> Markup:
    """Join texts with their notes; ``bdi`` keeps right-to-left texts from reordering the rest."""
    pairs = zip(texts, [""] * len(texts) if notes is None else notes, strict=True)
    item = Markup("<bdi>{}</bdi>{}")
    return Markup(", ").join(
        item.format(shortened(visible(text), 40), note) for text, note in pairs
    )


def _histogram(module: Module, width: float = 360.0, height: float = 60.0) -> list[Bar]:
    """Return one bar per layer with the count expected by chance; the tallest is full height."""
    of_hook = np.asarray(module.units.layers)
    layers = np.unique(of_hook)
    places = np.searchsorted(layers, of_hook)
    counts = np.bincount(places[module.units.hook], minlength=len(layers))
    widths = np.bincount(places, weights=module.units.widths, minlength=len(layers))
    expected = module.n_units * widths / widths.sum()
    tallest = max(float(counts.max()), float(expected.max()), 1.0)
    step = width / len(counts)
    return [
        Bar(layer, step * place, 0.85 * step, height * count / tallest, height * e / tallest, count)
        for place, (layer, count, e) in enumerate(
            zip(layers.tolist(), counts.tolist(), expected.tolist(), strict=True)
        )
    ]
