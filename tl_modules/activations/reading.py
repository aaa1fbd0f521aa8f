"""The definition of a matrix's values: the quantity, the aggregate, and the tokens that count."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tl_modules.errors import ModulesError, check_at_least, check_choice, check_type, shown
from tl_modules.models.logit_probes import N_PROBES
from tl_modules.models.loss_tokens import LOSS_ON, LossOn
from tl_modules.saving.checked_json import checked_flag, checked_whole_number
from tl_modules.tables.text import check_whole, shortened

Weight = Literal["activation", "attribution", "top_logit", "effect", "activation_effect"]
"""The quantity. ``activation``: a unit's activation a. ``attribution``: a x the gradient, with
respect to a, of the summed next-token loss of the tokens that ``loss_on`` names, in nats.
``top_logit``: a x the gradient of the prompt's largest logits, summed over tokens. ``effect``: root
mean square, over 8 random probes of the prompt's logits, of a x the probe's gradient.
``activation_effect``: the geometric mean of |a| and ``effect``."""

Aggregate = Literal["mean", "rms", "max", "fraction_active"]
"""The aggregate over a prompt's tokens. ``mean``: mean |a| (arXiv 2603.17823). ``rms``: root of the
mean square. ``max``: largest |a|. ``fraction_active``: share of tokens with a > 0."""

CountedTokens = Literal["all", "content", "last", "answer"]
"""The tokens of a prompt that count. ``all``: all tokens, with BOS and the chat template.
``content``: the prompt's own text. ``last``: the last token. ``answer``: the prompt's answer."""

WEIGHTS: tuple[Weight, ...] = get_args(Weight)
_QUANTITIES: dict[Weight, str] = {
    "activation": "|activation|",
    "attribution": "|attribution|",
    "top_logit": "|effect on the top logit|",
    "effect": "|effect on the logits|",
    "activation_effect": "sqrt(|activation| x |effect on the logits|)",
}

_LOSSES: dict[LossOn, str] = {
    "prompt": "",
    "answer": " to the answer's loss",
    "all": " to the loss of prompt and answer",
}

_LONGEST_SYSTEM = 60
"""The characters of a system prompt that a reading's description shows."""

AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)
TOKENS: tuple[CountedTokens, ...] = get_args(CountedTokens)


@dataclass(frozen=True)
class Reading:
    """How a matrix's values were computed. Values of different readings are not comparable."""

    weight: Weight = "activation"
    """One of ``WEIGHTS``."""

    aggregate: Aggregate = "mean"
    """One of ``AGGREGATES``."""

    tokens: CountedTokens = "all"
    """One of ``TOKENS``."""

    chat: bool = False
    """Whether prompts were put into the tokenizer's chat template."""

    probe_seed: int = 0
    """Draws the random probes of ``"effect"`` and ``"activation_effect"``."""

    system: str | None = None
    """The system prompt of the chat template; None for the template's own, if it has one."""

    loss_on: LossOn = "prompt"
    """The tokens whose loss ``"attribution"`` takes; ``"answer"`` and ``"all"`` read answers."""

    def __post_init__(self) -> None:
        """Validate the fields, each and together."""
        check_choice("weight", self.weight, WEIGHTS)
        check_choice("aggregate", self.aggregate, AGGREGATES)
        check_choice("tokens", self.tokens, TOKENS)
        check_at_least("probe_seed", self.probe_seed, 0)
        _check_system(self.system, self.chat)
        check_choice("loss_on", self.loss_on, LOSS_ON)
        if self.loss_on != "prompt" and self.weight != "attribution":
            raise ModulesError(
                "loss_on chooses the tokens whose loss weight='attribution' takes; "
                f"weight={self.weight!r} takes none; got loss_on={self.loss_on!r}. Leave loss_on "
                "out, or pass weight='attribution'."
            )
        if self.probe_seed and not self.has_probes:
            raise ModulesError(
                "probe_seed draws the probes of weight='effect' and 'activation_effect'; "
                f"weight={self.weight!r} has none. Leave probe_seed out."
            )
        if self.needs_gradients and self.aggregate == "fraction_active":
            raise ModulesError(
                "aggregate='fraction_active' counts tokens where a unit is active; "
                f"weight={self.weight!r} measures what a unit does. Choose one of the two."
            )
        if self.weight == "attribution" and self.tokens in ("last", "answer"):
            raise ModulesError(
                "weight='attribution' measures the loss of next tokens, and no token follows the "
                f"last one; got tokens={self.tokens!r}. Use tokens='all' or 'content', and "
                "loss_on='answer' for the loss of answers."
            )

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> "Reading":
        """Rebuild a reading from what ``to_dict`` returned.

        Raises:
            ModulesError: If the description is malformed.
        """
        try:
            reading = cls(**described)
            checked_flag(reading.chat)
            checked_whole_number(reading.probe_seed)
        except TypeError as error:
            raise ModulesError(f"The file's reading is malformed: {error}.") from error
        return reading

    @property
    def is_magnitude(self) -> bool:
        """Whether the values are magnitudes of activations."""
        return self.weight == "activation" and self.aggregate != "fraction_active"

    @property
    def needs_gradients(self) -> bool:
        """Whether the values take a backward pass."""
        return self.weight != "activation"

    @property
    def has_probes(self) -> bool:
        """Whether the values depend on random probes of the logits."""
        return self.weight in ("effect", "activation_effect")

    @property
    def reads_answers(self) -> bool:
        """Whether prompts run with their answers."""
        return self.tokens == "answer" or self.loss_on != "prompt"

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        """Describe the reading in a phrase, such as "mean |activation|".

        >>> str(Reading(aggregate="max", tokens="content", chat=True))
        'max |activation| over content tokens in chat form'
        """
        value = "fraction active" if self.aggregate == "fraction_active" else self._sized()
        where = "" if self.tokens == "all" else f" over {self.tokens} tokens"
        form = " in chat form" if self.chat else ""
        if self.system is not None:
            form += f" with system prompt {shortened(self.system, _LONGEST_SYSTEM)!r}"
        return value + where + form

    def _sized(self) -> str:
        probes = f" by {N_PROBES} probes of seed {self.probe_seed}" if self.has_probes else ""
        return f"{self.aggregate} {_QUANTITIES[self.weight]}{_LOSSES[self.loss_on]}{probes}"


def _check_system(system: str | None, chat: bool) -> None:
    """Refuse a system prompt that is no text, or that has no chat template to stand in."""
    if system is None:
        return
    check_type(system, str, "system should be a text", "Leave system out for none.")
    check_whole([system], "system prompt")
    if not chat:
        raise ModulesError(
            "system should come with chat=True, for it stands in the chat template; got "
            f"system={shown(system)} alone. Pass chat=True, or put the text into the prompts."
        )
