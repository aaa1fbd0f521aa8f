"""What a page says of each module."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from tl_modules.interpret.token_texts import NotReadable
from tl_modules.interpret.values_by_token import token_values
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import Module, ModuleSet
from tl_modules.modules.topic import Topic, clear_tokens
from tl_modules.plots.style import module_title
from tl_modules.plots.tokens import token_spans
from tl_modules.tables.text import shortened, visible

_LONGEST = 400  # characters of a prompt
_MAX_TOKENS = 80
_MANY = 30
_MIN_SHARE = 0.02


@dataclass(frozen=True)
class Bar:
    """One layer's bar in a module's histogram, in the drawing's own units."""

    layer: int
    x: float
    width: float
    height: float
    expected: float
    count: int


@dataclass(frozen=True)
class Card:
    """One module."""

    module: Module
    name: str
    shares: Markup
    bars: list[Bar]
    prompts: list[Markup]
    words: Markup
    promoted: Markup
    suppressed: Markup


def module_cards(
    modules: ModuleSet, model: HookedModel | None, *, progress: bool = True
) -> list[Card]:
    """A card for each module.

    Args:
        modules: The modules.
        model: Colours the prompts' tokens, if given and if the modules know their units' means.
        progress: Show a progress bar while the model runs.
    """
    n_prompts = 5 if len(modules) <= _MANY else 2
    chosen = {module.label: _top_prompts(module, n_prompts) for module in modules}
    shown = _coloured(modules, chosen, model, progress=progress)
    return [_card(module, shown[module.label]) for module in modules]


def _card(module: Module, prompts: list[Markup]) -> Card:
    """A module's card."""
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
    )


def module_label(module: Module) -> str:
    """Its topic's label, or else its category; not more than fits in a heading."""
    return shortened(visible(module_title(module) or ""), 80)


def _top_prompts(module: Module, n_prompts: int) -> list[str]:
    """Its strongest prompts."""
    if "prompt" not in module.samples:
        return []
    return [str(prompt) for prompt in module.samples["prompt"].head(n_prompts)]


def _coloured(
    modules: ModuleSet,
    chosen: dict[int, list[str]],
    model: HookedModel | None,
    *,
    progress: bool,
) -> dict[int, list[Markup]]:
    """Each module's prompts as HTML: coloured by the model's run, or only text."""
    plain = {
        label: [escape(shortened(visible(prompt), _LONGEST)) for prompt in prompts]
        for label, prompts in chosen.items()
    }
    texts = [prompt for prompts in chosen.values() for prompt in prompts]
    if model is None or not texts:
        return plain
    try:
        values = token_values(model, modules, texts, max_tokens=_MAX_TOKENS, progress=progress)
    except NotReadable:
        return plain
    found, start = {}, 0
    for label, prompts in chosen.items():
        own = values.loc[start : start + len(prompts) - 1]
        # Made of escaped tokens.
        found[label] = [Markup(spans) for spans in token_spans(own, label)] if prompts else []
        start += len(prompts)
    return found


def _shares(topic: Topic | None) -> Markup:
    """The categories that have more than a few of its samples."""
    categories = {} if topic is None else topic.categories
    kept = [(name, share) for name, share in categories.items() if share >= _MIN_SHARE]
    return _listed([name for name, _ in kept], [f" {share:.0%}" for _, share in kept])


def _words(topic: Topic | None) -> Markup:
    """Its distinctive words."""
    return _listed([] if topic is None else [word.word for word in topic.words])


def _tokens(topic: Topic | None, name: str) -> Markup:
    """The tokens that its output direction moves."""
    return _listed([] if topic is None else clear_tokens(getattr(topic, name), topic.chance_z))


def _listed(texts: list[str], notes: list[str] | None = None) -> Markup:
    """Texts with what is said of each, each in its own direction."""
    each = zip(texts, [""] * len(texts) if notes is None else notes, strict=True)
    item = Markup("<bdi>{}</bdi>{}")
    return Markup(", ").join(item.format(shortened(visible(text), 40), note) for text, note in each)


def _histogram(module: Module, width: float = 360.0, height: float = 60.0) -> list[Bar]:
    """Bars over the layers, each beside what chance would put there; the tallest is full height."""
    of_hook = np.asarray(module.units.layers)
    layers = np.unique(of_hook)
    places = np.searchsorted(layers, of_hook)
    counts = np.bincount(places[module.units.hook], minlength=len(layers))
    widths = np.bincount(places, weights=module.units.widths, minlength=len(layers))
    expected = module.n_units * widths / widths.sum()
    tallest = max(float(counts.max()), float(expected.max()), 1.0)
    step = width / len(counts)
    return [
        Bar(layer, step * at, 0.85 * step, height * count / tallest, height * e / tallest, count)
        for at, (layer, count, e) in enumerate(
            zip(layers.tolist(), counts.tolist(), expected.tolist(), strict=True)
        )
    ]
