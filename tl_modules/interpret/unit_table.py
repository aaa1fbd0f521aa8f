"""A table of units: what each is sensitive to, what it writes, and through which activations."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interpret.lens import Written
from tl_modules.interpret.token_texts import NotReadable, pieces_of, skipped_ids, tokenizer_of
from tl_modules.interpret.unit_lens import unit_tokens
from tl_modules.interpret.unit_readings import UnitReadings, unit_readings
from tl_modules.interventions.hooks import UnitEdits
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans, means_of
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel, check_causal
from tl_modules.models.tokens import tokenise
from tl_modules.modules.topic import clear_tokens
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.tables.prompt_frames import categories_of, is_category, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.text import text_column, visible
from tl_modules.units import Units

_N_AROUND = 6
"""The number of context tokens kept on either side."""

_COLUMNS = ("polarity", "polarity_share", "activation", "promoted", "suppressed", "contexts")
_SIGNS = ("positive", "negative")


@checked
@measures
def describe_units(  # noqa: PLR0913 - the options of one table, all by keyword
    model: HookedModel,
    units: pd.DataFrame,
    prompts: Prompts,
    reference: HasUnitMeans,
    *,
    n_tokens: int = 5,
    n_contexts: int = 3,
    n_controls: int = 20,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Describe single units, such as the neurons of causal cores: a table for a paper.

    A gated neuron writes one direction where its activation is positive, and the opposite where it
    is negative. Its polarity says which of the two matters. Contexts and tokens are of that side.

    Args:
        model: The model.
        units: One row per unit with ``hook_name`` and ``unit``, such as ``CausalCores.units``. Its
            other columns stay.
        prompts: Strings, or a frame with ``prompt`` and ``category``.
        reference: Activations or modules, whose means the estimated effects are relative to.
        n_tokens: The largest number of promoted, and of suppressed, tokens.
        n_contexts: The largest number of contexts, each of another prompt.
        n_controls: Random directions per layer that tokens are compared with, at least 3.
        batch_size: Prompts per pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Cut prompts after this many tokens.
        seed: Seeds the random directions.
        progress: Show progress bars.

    Returns:
        The rows of ``units`` with ``polarity`` (``"positive"`` or ``"negative"``: the sign of the
        activations that most of the estimated effect of ablating the unit comes from, on prompts of
        the row's ``category`` if it has one), ``polarity_share`` (of the |effects| of both signs),
        ``activation`` (the largest of that sign), ``promoted`` and ``suppressed`` (tokens whose
        logits stand out from those of random directions), and ``contexts`` (text around the
        strongest token, ``<<marked>>``, of any category).

    Raises:
        ModulesError: If rows are not units of the reference, units have several coordinates
            (attention heads), or as in ``unit_estimates``.

    Example::

        tlm.describe_units(model, found.units.groupby("module").head(10), prompts, modules)
    """
    for name, value in {"n_tokens": n_tokens, "n_contexts": n_contexts}.items():
        check_at_least(name, value, 1)
    check_at_least("n_controls", n_controls, 3)
    check_seed(seed)
    check_causal(model, "describe_units")
    tokenizer_of(model)
    reference.units.check_model(model)
    chosen = _units_of(units, reference.units.every())
    UnitEdits(chosen, "mean", reference, of_content=True)  # refuses a lack of means
    means = np.asarray(means_of(reference, of_content=True)[1], dtype=np.float32)
    frame = labelled(prompt_frame(prompts))
    own = _own_prompts(units, frame)
    tokens = tokenise(model, frame["prompt"].tolist(), max_tokens, least=2)
    readings = unit_readings(
        *(model, chosen, means[chosen.coordinates().flat()], tokens, batch_size), progress=progress
    )
    effects = (readings.effects * own).sum(axis=1) / own.sum(axis=0)
    sides = (np.abs(effects[1]) > np.abs(effects[0])).astype(np.int64)
    options = {"n_tokens": n_tokens, "n_controls": n_controls, "seed": seed, "progress": progress}
    try:
        written = unit_tokens(model, chosen, 1 - 2 * sides, **options)
    except NotReadable as error:
        warn_user(f"The units' promoted and suppressed tokens are missing. {error}")
        written = [Written()] * len(chosen)
    texts = [_pieces(model, each.tolist()) for each in tokens]
    return units.assign(
        polarity=text_column(_SIGNS[side] for side in sides).array,
        polarity_share=_shares(effects),
        activation=_strongest(readings, sides),
        **{
            name: text_column(
                ", ".join(clear_tokens(getattr(each, name), each.chance_z)) or None
                for each in written
            ).array
            for name in ("promoted", "suppressed")
        },
        contexts=text_column(
            _contexts(readings, int(side), texts, unit, n_contexts)
            for unit, side in enumerate(sides)
        ).array,
    )


def _units_of(frame: pd.DataFrame, whole: Units) -> Units:
    """The units that a frame's rows name."""
    missing = [name for name in ("hook_name", "unit") if name not in frame.columns]
    taken = [name for name in _COLUMNS if name in frame.columns]
    if missing or not len(frame):
        raise ModulesError(
            f"units should have a row per unit, with its hook_name and unit; it has {len(frame)} "
            f"rows and lacks {missing}. Pass the units of causal_cores, or units.to_frame()."
        )
    if taken:
        raise ModulesError(
            f"units should not have the columns that are added; it has {taken}. Drop or rename "
            "them."
        )
    points = {name: number for number, name in enumerate(whole.hook_names)}
    hooks, numbers = frame["hook_name"].tolist(), frame["unit"].tolist()
    for hook, number in zip(hooks, numbers, strict=True):
        width = whole.widths[points[hook]] if hook in points else 0
        if not (isinstance(number, int) and 0 <= number < width):
            raise ModulesError(
                f"units should be units of the reference; it has none at {hook!r}, unit "
                f"{number!r}. The reference's are {whole.hook_points.outline()}."
            )
    several = {hook for hook in hooks if whole.spans[points[hook]] > 1}
    if several:
        raise ModulesError(
            f"units should have one coordinate each, whose sign is its polarity; those at "
            f"{sorted(several)[0]!r} are attention heads. Leave them out, or describe modules with "
            "tlm.with_topics."
        )
    starts = np.cumsum((0, *whole.widths))
    return whole.select(starts[[points[hook] for hook in hooks]] + np.array(numbers))


def _own_prompts(units: pd.DataFrame, frame: pd.DataFrame) -> Bool[np.ndarray, "prompts units"]:
    """Which prompts tell each unit's polarity: those of its row's category, or all."""
    if "category" not in units.columns or "category" not in frame.columns:
        return np.ones((len(frame), len(units)), dtype=bool)
    categories = categories_of(frame)
    names = units["category"].astype(str).tolist()
    of_category = {name: is_category(categories, name) for name in dict.fromkeys(names)}
    without = [name for name, rows in of_category.items() if not rows.any()]
    if without:
        raise ModulesError(
            f"prompts should have some of each unit's category; there are none of {without}. Add "
            "prompts, or drop the column 'category' of units, so that all prompts count."
        )
    return np.stack([of_category[name] for name in names], axis=1)


def _shares(effects: Float[np.ndarray, "2 units"]) -> Float[np.ndarray, " units"]:
    """The larger |effect| over the sum of both; NaN where both are 0."""
    sizes = np.abs(effects)
    total = sizes.sum(axis=0)
    return np.divide(sizes.max(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)


def _strongest(
    readings: UnitReadings, sides: Int[np.ndarray, " units"]
) -> Float[np.ndarray, " units"]:
    """Each unit's activation of the largest size, of its side; NaN if there is none."""
    values = np.take_along_axis(readings.largest, sides[None, None], axis=0)[0]
    strongest = np.where(sides == 1, values.min(axis=0), values.max(axis=0))
    return np.where(strongest == 0, np.nan, strongest)


def _contexts(
    readings: UnitReadings, side: int, texts: Sequence[list[str]], unit: int, n_contexts: int
) -> str | None:
    """The text around a unit's strongest tokens, one of a prompt, strongest first."""
    sizes = np.abs(readings.largest[side, :, unit])
    shown = [
        _window(texts[prompt], int(readings.positions[side, prompt, unit]))
        for prompt in np.argsort(-sizes, kind="stable")[:n_contexts]
        if sizes[prompt] > 0
    ]
    return " / ".join(shown) or None


def _pieces(model: HookedModel, tokens: list[int]) -> list[str]:
    """The text of each token; a special token has none."""
    special = skipped_ids(model)
    pairs = zip(tokens, pieces_of(model, tokens), strict=True)
    return ["" if token in special else piece for token, piece in pairs]


def _window(pieces: list[str], position: int) -> str:
    """A token, marked, with the text around it in one line."""
    # A character of several tokens is the piece of the last of them.
    at = next((at for at in range(position, len(pieces)) if pieces[at]), position)
    first, last = max(at - _N_AROUND, 0), at + 1 + _N_AROUND
    token = pieces[at].lstrip(" ") or pieces[at]  # a token may be a space
    space = " " * (len(pieces[at]) - len(token))
    before, after = "".join(pieces[first:at]).lstrip(" "), "".join(pieces[at + 1 : last])
    start, end = ("…" if any(cut) else "" for cut in (pieces[:first], pieces[last:]))
    said = visible(f"{start}{before}{space}<<{token}>>{after}{end}")
    return said.replace("\n", "\\n").replace("\t", "\\t")
