"""The options that every experiment on prompts shares."""

from dataclasses import dataclass
from typing import get_args

from tl_modules.causal.controls import ControlKind
from tl_modules.causal.metrics import MetricName
from tl_modules.errors import check_at_least, check_seed
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.replacements import HasUnitMeans, Method
from tl_modules.units import Units

POSITIONS: tuple[Touched, ...] = get_args(Touched)


@dataclass(frozen=True, eq=False, kw_only=True)
class Options:
    """What ``module_effects`` takes by keyword; its docstring describes each."""

    metric: MetricName
    separator: str | None
    method: Method
    reference: HasUnitMeans | None
    factor: float | None
    positions: Touched
    keep_only: bool
    n_controls: int | None
    """None: as many as each test needs."""

    controls: ControlKind
    exclude: Units | None
    batch_size: int
    max_tokens: int | None
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range; the public functions check the types.

        Raises:
            ModulesError: If a number is out of range.
        """
        if self.n_controls is not None:
            check_at_least("n_controls", self.n_controls, 0)
        check_at_least("batch_size", self.batch_size, 1)
        check_seed(self.seed)

    @property
    def touched(self) -> Touched:
        """The tokens at which units are changed. Patching needs no means, and changes them all."""
        return "all" if self.method == "patch" else self.positions

    @property
    def reads_answers(self) -> bool:
        """Whether the metric is one of answers."""
        return self.metric != "loss"
