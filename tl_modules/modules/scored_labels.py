"""A module's labels with their scores: whether each tells its prompts from others."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tl_modules.errors import ModulesError, check_choice
from tl_modules.saving.checked_json import (
    checked_entries,
    checked_number,
    checked_text,
    checked_whole_number,
)
from tl_modules.tables.effects_frame import SIGNIFICANT
from tl_modules.tables.text import shortened

LabelKind = Literal["labeller", "category", "words", "contexts", "tokens"]
"""Where a label comes from: the user's callable, the category of the module's samples, the
distinctive words of its prompts, the words at which it is most active, or the tokens that it
writes."""
LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)

_LONGEST = 60  # characters of the label in "no label fits"


@dataclass(frozen=True)
class ScoredLabel:
    """One candidate label of a module, and how well it tells the module's prompts from others."""

    kind: LabelKind
    """Where the label comes from."""

    label: str
    """Its text."""

    choice_auc: float
    """The AUROC on the prompts that choose among the candidates, from 0 to 1; 0.5 is chance."""

    auc: float
    """The AUROC on the prompts that score; they choose nothing."""

    ci_low: float
    """The lower end of the 95 % interval of ``auc``."""

    ci_high: float
    """The upper end of the 95 % interval of ``auc``."""

    auc_others: float | None
    """The mean ``auc`` of the other modules' labels of the same kind on this module's prompts; None
    if no other module has one."""

    p_value: float
    """One-sided: the share of permutations of the prompts whose AUROC is at least as high. It is
    not corrected."""


@dataclass(frozen=True, repr=False)
class ScoredLabels:
    """A module's candidate labels, as ``with_labels`` scores them on held-out prompts."""

    title: str
    """The module's name, unique in the set: the chosen label if it fits, or else
    ``"no label fits (best: does, asks; AUROC 0.52)"``."""

    candidates: tuple[ScoredLabel, ...]
    """The candidates; none if nothing could be scored."""

    p_holm: float | None
    """The p-value of the chosen label, corrected over the set's modules (Holm 1979); None without
    candidates."""

    n_prompts: int
    """The number of prompts that score."""

    n_own: int
    """The number of these that count as the module's own: those that drive it most."""

    @property
    def chosen(self) -> ScoredLabel | None:
        """The candidate with the highest ``choice_auc``, the first among equals."""
        return max(self.candidates, key=lambda label: label.choice_auc, default=None)

    @property
    def fits(self) -> bool:
        """Whether the chosen label's AUROC is beyond chance: ``p_holm`` is at most 0.05."""
        return self.p_holm is not None and self.p_holm <= SIGNIFICANT

    @property
    def line(self) -> str:
        """The title and the chosen label's score, as the report shows them."""
        best = self.chosen
        if best is None:
            return self.title
        others = "" if best.auc_others is None else f"; other modules' labels {best.auc_others:.2f}"
        return (
            f"{self.title}: AUROC {best.auc:.2f} [{best.ci_low:.2f}, {best.ci_high:.2f}] on "
            f"{self.n_prompts} held-out prompts, p = {self.p_holm:.2g} after correction{others}"
        )

    def __repr__(self) -> str:
        """One line, not every number."""
        return f"ScoredLabels({self.line!r}, {len(self.candidates)} candidates)"

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self) | {"candidates": [asdict(label) for label in self.candidates]}

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> "ScoredLabels":
        """Rebuild labels from what ``to_dict`` returned.

        Raises:
            ModulesError: If the description is malformed.
        """
        try:
            p_holm = described["p_holm"]
            labels = cls(
                title=checked_text(described["title"]),
                candidates=checked_entries(described["candidates"], _label),
                p_holm=None if p_holm is None else checked_number(p_holm),
                n_prompts=checked_whole_number(described["n_prompts"]),
                n_own=checked_whole_number(described["n_own"]),
            )
            if (labels.p_holm is None) != (not labels.candidates):
                raise ValueError("p_holm is of a chosen label, and there is none")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModulesError(
                f"The file's scored labels are malformed: {error!r}. Score the labels again, or "
                "fetch an intact copy."
            ) from error
        return labels


def label_title(
    chosen: ScoredLabel | None, fits: bool, number: int, others: Collection[str]
) -> str:
    """A module's name after its labels are scored.

    Args:
        chosen: The chosen label, if there is a candidate.
        fits: Whether its score is beyond chance.
        number: The module's.
        others: The other modules' names, which it should differ from.
    """
    if chosen is None:
        title = f"no label fits (module {number})"
    elif fits:
        title = chosen.label
    else:
        best = shortened(chosen.label, _LONGEST)
        title = f"no label fits (best: {best}; AUROC {chosen.auc:.2f})"
    while title in others:
        title = f"{title} ({number})"
    return title


def _label(described: Any) -> ScoredLabel:
    check_choice("kind", described["kind"], LABEL_KINDS)
    others = described["auc_others"]
    numbers = ("choice_auc", "auc", "ci_low", "ci_high", "p_value")
    return ScoredLabel(
        kind=described["kind"],
        label=checked_text(described["label"]),
        auc_others=None if others is None else checked_number(others),
        **{name: checked_number(described[name]) for name in numbers},
    )
