"""How activations are read into a matrix: what a value is, and over which tokens."""

from dataclasses import asdict, dataclass
from typing import Any

from tl_modules.errors import ModulesError, check_choice
from tl_modules.saving.checked_json import checked_flag

WEIGHTS = ("activation", "attribution")
"""``activation``: a unit's activation a. ``attribution``: a x gradient of the prompt's summed
next-token loss by it, in nats."""

AGGREGATES = ("mean", "rms", "max", "fraction_active")
"""What becomes of a prompt's tokens. ``mean``: mean |a| (arXiv 2603.17823). ``rms``: root of the
mean square. ``max``: largest |a|. ``fraction_active``: share of tokens with a > 0."""

TOKENS = ("all", "content", "last", "answer")
"""Which tokens of a prompt count. ``all``: every one, BOS and chat template too. ``content``: the
prompt's own text alone. ``last``: the last one. ``answer``: those of the prompt's answer."""


@dataclass(frozen=True)
class Reading:
    """How a matrix's values came about; matrices of different readings do not compare."""

    weight: str = "activation"
    """One of ``WEIGHTS``."""

    aggregate: str = "mean"
    """One of ``AGGREGATES``."""

    tokens: str = "all"
    """One of ``TOKENS``."""

    chat: bool = False
    """Whether prompts stood in the tokenizer's chat template."""

    def __post_init__(self) -> None:
        """Refuse what is no reading."""
        check_choice("weight", self.weight, WEIGHTS)
        check_choice("aggregate", self.aggregate, AGGREGATES)
        check_choice("tokens", self.tokens, TOKENS)
        if self.weight == "attribution" and self.aggregate == "fraction_active":
            raise ModulesError(
                "aggregate='fraction_active' counts tokens where a unit is active; "
                "weight='attribution' says what it does to the loss. Choose one of the two."
            )
        if self.weight == "attribution" and self.tokens in ("last", "answer"):
            raise ModulesError(
                f"weight='attribution' says what a unit does to the next tokens' loss, and from a "
                f"last token none is predicted; got tokens={self.tokens!r}. Use 'all' or 'content'."
            )

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> "Reading":
        """A reading from what ``to_dict`` returned.

        Raises:
            ModulesError: If it is malformed.
        """
        try:
            reading = cls(**described)
            checked_flag(reading.chat)
        except TypeError as error:
            raise ModulesError(f"The file's reading is malformed: {error}.") from error
        return reading

    @property
    def is_magnitude(self) -> bool:
        """Whether values say how large activations are."""
        return self.weight == "activation" and self.aggregate != "fraction_active"

    def to_dict(self) -> dict[str, Any]:
        """Its fields, JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        """A phrase, such as "mean |activation|".

        >>> str(Reading(aggregate="max", tokens="content", chat=True))
        'max |activation| over content tokens in chat form'
        """
        value = "fraction active" if self.aggregate == "fraction_active" else self._sized()
        where = "" if self.tokens == "all" else f" over {self.tokens} tokens"
        return value + where + (" in chat form" if self.chat else "")

    def _sized(self) -> str:
        return f"{self.aggregate} |{self.weight}|"
