"""The options that every experiment on prompts shares."""

from dataclasses import dataclass, replace
from typing import get_args

import pandas as pd

from tl_modules.causal.controls import ControlKind
from tl_modules.causal.metrics import MetricName, check_loss_on, reads_answers
from tl_modules.errors import check_at_least, check_seed
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.replacements import HasUnitMeans, Method
from tl_modules.models.batch_sizes import (
    BatchSize,
    batch_size_for_texts,
    batch_size_of,
    check_batch_size,
)
from tl_modules.models.hooked_model import HookedModel, check_model
from tl_modules.models.loss_tokens import LossOn
from tl_modules.models.tokens import check_tokenizer, read_texts
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
    batch_size: BatchSize
    max_tokens: int | None
    seed: int
    progress: bool
    loss_on: LossOn = "prompt"
    gradient_rows: int | None = None
    """Rows of a pass that a backward pass follows; None for ``batch_size``."""

    def __post_init__(self) -> None:
        """Refuse what is out of range or does not go together; types are checked elsewhere.

        Raises:
            ModulesError: If a number is out of range, or ``loss_on`` does not go with the metric.
        """
        check_loss_on(self.metric, self.loss_on)
        if self.n_controls is not None:
            check_at_least("n_controls", self.n_controls, 0)
        check_batch_size(self.batch_size)
        check_seed(self.seed)

    @property
    def n_rows(self) -> int:
        """Rows of a forward pass, after ``sized``."""
        assert self.batch_size != "auto"
        return self.batch_size

    @property
    def n_gradient_rows(self) -> int:
        """Rows of a pass that a backward pass follows, after ``sized``."""
        return self.n_rows if self.gradient_rows is None else self.gradient_rows

    def sized(self, model: HookedModel, frame: pd.DataFrame) -> "Options":
        """The same options with a number as batch size.

        Args:
            model: The model.
            frame: The prompts, which ``"auto"`` fits into free memory.
        """
        if self.batch_size != "auto":
            return self
        texts = frame["prompt"].tolist()
        if self.reads_answers and "answer" in frame:
            answers = frame["answer"].tolist()
            texts = [f"{text} {answer}" for text, answer in zip(texts, answers, strict=True)]
        # Most prompts are so short that they need not be tokenised to know that they fit.
        check_model(model)
        given = (model, texts, self.max_tokens)
        rows = batch_size_for_texts(*given)
        gradient_rows = batch_size_for_texts(*given, gradients=True)
        if rows is not None and gradient_rows is not None:
            return replace(self, batch_size=rows, gradient_rows=gradient_rows)
        check_tokenizer(model)
        # Without the warnings and refusals of ``tokenise``, which follow when the prompts are run.
        longest = max(len(read.tokens[: self.max_tokens]) for read in read_texts(model, texts))
        return replace(
            self,
            batch_size=batch_size_of(model, "auto", longest),
            gradient_rows=batch_size_of(model, "auto", longest, gradients=True),
        )

    @property
    def touched(self) -> Touched:
        """The tokens at which units are changed. Patching needs no means, and changes them all."""
        return "all" if self.method == "patch" else self.positions

    @property
    def reads_answers(self) -> bool:
        """Whether prompts are measured with their answers."""
        return reads_answers(self.metric, self.loss_on)

    @property
    def loss_column(self) -> dict[str, str]:
        """The column that says over which tokens the loss was averaged; none for prompts alone."""
        return {} if self.loss_on == "prompt" else {"loss_on": self.loss_on}
