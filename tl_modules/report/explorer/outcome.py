"""What a question's runs found: tokens, next tokens, losses and texts, beside a control."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tl_modules.report.explorer.question import Asked, Question
from tl_modules.tables.html_tables import html_table


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """What the model does on a prompt: unchanged, with the modules changed, and with a control.

    The control is changed in the same way: as many random units of the same layers.
    """

    asked: Asked
    """What was asked, and of which set."""

    tokens: pd.DataFrame
    """One row per token of the prompt: ``token``, ``special`` (the first token too), ``activity``
    (the chosen modules' as ``token_values`` measures it; NaN where it cannot), ``effect`` and
    ``control`` (the rise of the token's own loss, in nats; NaN at the first token)."""

    next_tokens: pd.DataFrame
    """The likeliest next tokens: ``token``, and their probabilities ``clean``, ``changed`` and
    ``control``. The likeliest of the unchanged model come first."""

    losses: pd.DataFrame
    """One row per run, the index ``run``: the mean ``loss``, in nats per token, and its ``change``
    from the unchanged model. NaN if the prompt has one token."""

    texts: pd.DataFrame
    """What the model writes after the prompt, one row per run; empty if nothing was asked for."""

    is_whole: bool
    """Whether the run came to its end: a stopped one leaves texts unfinished."""

    @property
    def question(self) -> Question:
        """The question that the numbers answer."""
        return self.asked.question

    @property
    def n_units(self) -> int:
        """The number of changed units."""
        return len(self.asked.units)

    def __repr__(self) -> str:
        """One line."""
        changes = self.losses["change"]
        return (
            f"Outcome({self.n_units:,} units changed on {len(self.tokens)} tokens: loss "
            f"{changes['changed']:+.3f} nats per token, control {changes['control']:+.3f})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the tables."""
        return html_table(repr(self), self.losses, self.next_tokens)


RUNS = ("clean", "changed", "control")
"""The runs: of the unchanged model, with the modules changed, with the control changed."""


def losses_table(losses: dict[str, np.ndarray]) -> pd.DataFrame:
    """Tabulate mean losses, of each run's loss per token."""
    means = {run: float(values.mean()) if len(values) else np.nan for run, values in losses.items()}
    changes = [means[run] - means["clean"] for run in means]
    index = pd.Index(list(means), name="run")
    return pd.DataFrame({"loss": list(means.values()), "change": changes}, index=index)
