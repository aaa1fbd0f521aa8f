"""Finding a module of a set: by its label, and by a unit that belongs to it."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex, cast

from tl_modules.errors import ModulesError, check_at_least, shown
from tl_modules.modules.labels import BACKGROUND
from tl_modules.units import Units

if TYPE_CHECKING:
    from tl_modules.modules.module import Module
    from tl_modules.modules.module_set import ModuleSet


class UnitPlace(NamedTuple):
    """Where a unit belongs: what ``ModuleSet.find`` returns."""

    module: "Module | None"
    """The unit's module; None if the unit was set aside."""

    score: float
    """The unit's mean on the module's samples minus its largest mean on another module's samples,
    in normalised activation (see ``ModuleSet.unit_scores``); NaN if the set has no scores."""

    runner_up: "Module | None"
    """The module on whose samples the unit is next most active; None if the set has no runners-up,
    as in a file of an earlier version."""


class NoSuchModule(ModulesError, IndexError):
    """Raised for a module that a set does not have.

    It is an IndexError too, because Python's sequence protocol ends an iteration on one.
    """


def position_of(
    units: Units, layer: SupportsIndex, unit: SupportsIndex, hook_name: str | None
) -> int:
    """The position of one unit among units.

    Args:
        units: The units.
        layer: The unit's layer.
        unit: The unit's number at its hook point.
        hook_name: Its hook point, where the units have several in that layer.

    Returns:
        Its position, from 0.

    Raises:
        ModulesError: If there is no such layer, hook point or unit, or if several hook points of
            the layer could be meant.
    """
    layer, unit = _count("layer", layer), _count("unit", unit)
    points = [
        point
        for point, name in enumerate(units.hook_names)
        if units.layers[point] == layer and hook_name in (None, name)
    ]
    if not points:
        asked = f"layer {shown(layer)}"
        asked = asked if hook_name is None else f"{hook_name!r} in {asked}"
        raise ModulesError(
            f"The modules have no units of {asked}. Their layers go from {min(units.layers)} to "
            f"{max(units.layers)}, at hook points such as {units.hook_names[0]!r}."
        )
    if len(points) > 1:
        raise ModulesError(
            f"Layer {layer} has {len(points)} hook points: "
            f"{', '.join(repr(units.hook_names[point]) for point in points)}. Name one as "
            "hook_name=."
        )
    (point,) = points
    if unit >= units.widths[point]:
        raise ModulesError(
            f"unit should be below {units.widths[point]}, the number of units at "
            f"{units.hook_names[point]!r}; got {shown(unit)}."
        )
    places = ((units.hook == point) & (units.index == unit)).nonzero()[0]
    if not len(places):
        raise ModulesError(f"Unit {unit} of layer {layer} is not among the units of this set.")
    return int(places[0])


def place_of(modules: "ModuleSet", at: int) -> UnitPlace:
    """Where the unit at a position of the set's units belongs."""
    scores, runners_up = modules.unit_scores, modules.unit_runners_up
    label = int(modules.unit_labels[at])
    runner_up = BACKGROUND if runners_up is None else int(runners_up[at])
    return UnitPlace(
        None if label == BACKGROUND else modules[label],
        float("nan") if scores is None else float(scores[at]),
        None if runner_up == BACKGROUND else modules[runner_up],
    )


def _count(name: str, value: SupportsIndex) -> int:
    check_at_least(name, cast(int, value), 0)
    return int(value)


def names_of(module: "Module") -> tuple[str | None, ...]:
    """The names that a module can be looked up by, the most specific first."""
    topic = None if module.topic is None else module.topic.label
    return module.title, topic, module.category_title, module.category


def labelled(names: Sequence[tuple[str | None, ...]], label: str) -> int:
    """Which module a label names.

    Args:
        names: The names of each module, the most specific first.
        label: The label.

    Returns:
        The module's number. A more specific name wins: a topic's label over a category.

    Raises:
        NoSuchModule: If no module has that name.
        ModulesError: If several modules have it.
    """
    for kind in zip(*names, strict=True):
        numbers = [number for number, name in enumerate(kind) if name == label]
        if len(numbers) == 1:
            return numbers[0]
        if numbers:
            raise ModulesError(
                f"{len(numbers)} modules have the label {label!r}: {', '.join(map(str, numbers))}. "
                "Pass the number of one."
            )
    known = sorted({name for kind in names for name in kind if name is not None})
    if not known:
        raise NoSuchModule(
            f"No module has the label {label!r}; these modules have neither topics nor "
            "categories. Pass a number, or name their topics with tlm.with_topics."
        )
    alike = get_close_matches(label, known, n=3) or known[:12]
    raise NoSuchModule(
        f"No module has the label {label!r}. Labels are {', '.join(map(repr, alike))}."
    )


def number_of(n_modules: int, k: object) -> int:
    """A module's number from 0, of a number that may count from the end.

    Raises:
        NoSuchModule: If there is no such module.
    """
    if not isinstance(k, int) or isinstance(k, bool) or not -n_modules <= k < n_modules:
        raise NoSuchModule(
            f"Modules are numbered 0..{n_modules - 1}, or -1..-{n_modules} from the end; got "
            f"{shown(k)}."
        )
    return k % n_modules
