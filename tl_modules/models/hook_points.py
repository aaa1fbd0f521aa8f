"""Hook points of a model in a fixed order, and how many units each has; as JSON, too."""

from operator import mul
from typing import Any, NamedTuple

from tl_modules.errors import ModulesError
from tl_modules.saving.checked_json import checked_list, checked_text


class HookPoints(NamedTuple):
    """Hook points of a model, and the sizes of what units lie there."""

    names: tuple[str, ...]
    """The names, in column order."""

    layers: tuple[int, ...]
    """The layer of each hook point."""

    widths: tuple[int, ...]
    """How many units each hook point has."""

    spans: tuple[int, ...]
    """How many coordinates of each hook point's activation make one unit."""

    site: str | None = None
    """The name of the site, if the hook points are those of a named site."""

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> "HookPoints":
        """Rebuild hook points from what ``to_dict`` returned.

        Raises:
            ModulesError: If the description is malformed.
        """
        try:
            names, layers, widths = (
                tuple(checked_list(described[key])) for key in ("names", "layers", "widths")
            )
            spans = tuple(checked_list(described.get("spans", [1] * len(widths))))
            site = described.get("site")
            for name in names:
                checked_text(name).encode()
            well_formed = (
                len(names) == len(layers) == len(widths) == len(spans) > 0
                and (site is None or isinstance(site, str))
                and len(set(names)) == len(names)
                and all(type(number) is int and 0 <= number < 2**31 for number in layers)
                and all(type(number) is int and 0 < number < 2**31 for number in widths + spans)
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModulesError(
                f"The file's list of hook points is malformed: {error!r}."
            ) from error
        # Bounded before anything is allocated: the description may come from a hostile file.
        if not well_formed or sum(map(mul, widths, spans)) >= 2**28:
            raise ModulesError(
                "The file's list of hook points is malformed: it should give every hook point one "
                "name, one layer and one width. Save the file again."
            )
        return cls(names, layers, widths, spans, site)

    def to_dict(self) -> dict[str, Any]:
        """The hook points, JSON-ready."""
        return {
            "names": list(self.names),
            "layers": list(self.layers),
            "widths": list(self.widths),
            "spans": list(self.spans),
            "site": self.site,
        }

    @property
    def n_units(self) -> int:
        """How many units all hook points have."""
        return sum(self.widths)

    @property
    def n_coordinates(self) -> int:
        """How many coordinates all units have."""
        return sum(map(mul, self.widths, self.spans))

    def outline(self) -> str:
        """A short description for messages."""
        sizes = sorted(set(zip(self.widths, self.spans, strict=True)))
        shown = [str(width) if span == 1 else f"{width} x {span}" for width, span in sizes]
        return f"{len(self.names)} hook points of width {', '.join(shown)}"

    def same_as(self, other: "HookPoints") -> bool:
        """Whether both have the same names and sizes; layers and site may differ."""
        return (self.names, self.widths, self.spans) == (other.names, other.widths, other.spans)
