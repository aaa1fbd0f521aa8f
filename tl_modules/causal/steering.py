"""Steering with a measure: what scaling each module does to losses and to generated text."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from tqdm.auto import tqdm

from tl_modules.causal.controls import ControlKind
from tl_modules.causal.experiment import ablation_of
from tl_modules.causal.metrics import Task, make_task
from tl_modules.causal.options import Options
from tl_modules.causal.own_categories import sample_labels, warn_own_categories
from tl_modules.causal.own_words import Score, repeated_share, scores_of
from tl_modules.causal.prompt_runs import Intervention, UnitRun, no_intervention, run_task
from tl_modules.causal.row_limits import RowLimit
from tl_modules.causal.steering_numbers import TextNumbers, loss_row, text_row
from tl_modules.causal.steering_table import steering_table
from tl_modules.causal.trials import Runs, prepare_runs, seed_keys
from tl_modules.causal.written_texts import Writer, WrittenTexts, changed_at, start_tokens
from tl_modules.errors import ModulesError, check_at_least, shown
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.prepared_units import AblatedUnits
from tl_modules.interventions.target import Target, as_targets
from tl_modules.models.batch_sizes import BatchSize, batch_size_of
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LossOn
from tl_modules.runtime.arguments import checked
from tl_modules.tables.prompt_frames import categories_of, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units

FACTORS = (0.0, 0.5, 1.5, 2.0, 3.0)
"""What units are multiplied by, by default."""


@checked
@measures
def steering_effects(  # noqa: PLR0913 - the options of one experiment, all by keyword
    model: HookedModel,
    modules: Target | Iterable[Target],
    prompts: Prompts,
    *,
    factors: Sequence[int | float] = FACTORS,
    starts: Prompts | None = None,
    words: Mapping[int | str, Iterable[str]] | None = None,
    scorer: Callable[[str], float] | None = None,
    max_lost: float = 0.5,
    n_new_tokens: int = 20,
    temperature: float = 0.0,
    loss_on: LossOn = "prompt",
    positions: Touched = "content",
    n_controls: int = 19,
    controls: ControlKind = "layer",
    exclude: Units | None = None,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Scale each module by several factors, and measure what that does to losses and to text.

    Steering is worth its name if text turns to the module's topic and stays fluent. For each module
    and factor this measures the loss on held-out prompts of the own and the other categories, how
    much of newly written text is about the module (its score), and the text's loss for the model
    without steering (its fluency). Matched controls are scaled by the same factor. The how-to
    "Steer with a measure" explains the columns and their limits.

    Args:
        model: The model that the activations were collected from; it writes by ``generate``.
        modules: A ``ModuleSet``, some modules, one, cores, or other sets of units (``UnitTarget``).
        prompts: Strings, or a frame with ``prompt`` and ``category``.
        factors: What the units' activations are multiplied by: 0 removes them, 1 changes nothing.
        starts: Prompts to continue, whole; by default the first 16 tokens of eight of ``prompts``,
            of each category in turn.
        words: The own words of some modules, by label. By default they are the words of the
            module's topic (``with_topics``) and up to 50 words that distinguish the prompts of its
            own category (c-TF-IDF). The score is the share of a text's words that are own words,
            each of which counts once.
        scorer: Gives a text's score, in place of words: ``scorer(text)`` is a finite number, the
            higher, the more the text is about the module. It gets what was written after the start.
        max_lost: How much fluency a factor may cost, in nats per token.
        n_new_tokens: The largest number of tokens that are written after each start.
        temperature: The temperature of sampling; 0 takes the likeliest token. Sampled texts are
            written one at a time, which takes several times as long.
        loss_on: The tokens over which the loss of ``prompts`` is averaged; see ``module_effects``.
            A column ``separator`` is read too. Fluency is always of the written tokens.
        positions: ``"content"`` changes no special token and no attention sink of a prompt;
            ``"all"`` changes every token. Every new token is changed.
        n_controls: Controls per module; the smallest p-value is ``1 / (1 + n_controls)``.
        controls: The property that controls share with the module; see ``module_effects``. A factor
            moves a unit in proportion to its activation: ``"magnitude"`` gives controls that are
            moved as far, which matters for cores.
        exclude: Units to leave out of modules and controls.
        batch_size: Rows of a forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Truncate prompts to this many tokens.
        seed: Seeds controls, sampling and bootstrap.
        progress: Show a progress bar.

    Returns:
        One row per module and factor:

        - ``module``, ``category`` (its own), ``factor``;
        - ``own_effect``, ``other_effect`` and ``selectivity``, their difference: the rise of the
          loss on prompts of the own category, and its mean over the others, nats per token;
        - ``score`` and ``score_clean`` (means over the texts, with and without steering),
          ``score_rise``;
        - ``text_loss`` and ``text_loss_clean`` (nats per written token, for the model without
          steering), and ``lost``, their difference;
        - ``repeated`` and ``repeated_clean``: the share of word pairs that occur earlier in their
          text, which ``lost`` does not punish;
        - ``steers``: whether, at a factor above 1, the score rises beyond the controls'
          (``score_rise_p_bh`` at most 0.05) while less than ``max_lost`` is lost;
        - ``text``: what was written after the first start;
        - ``n``, ``n_starts``, ``n_controls``, ``n_units``, ``control_units``, ``controls``,
          ``positions``.

        ``own_effect``, ``other_effect``, ``selectivity``, ``score_rise`` and ``lost`` each have
        ``_ci_low``, ``_ci_high`` (95 % bootstrap over prompts or starts), ``_control_mean``,
        ``_control_std`` and ``_p_value`` (one-sided: controls at least as high; for ``score_rise``
        at factors below 1, at least as low). ``selectivity`` and ``score_rise`` also have
        ``_p_holm`` and ``_p_bh``, corrected over the modules within a factor.
        ``attrs["sentence"]`` says which modules steer, and at which factors.

    Raises:
        ModulesError: If an argument does not fit, the model cannot generate, a target is no set of
            units, a loss is not finite, or ``scorer`` returns no finite number. What ``scorer``
            itself raises is passed on.

    Example::

        table = tlm.steering_effects(model, modules, held_out, factors=[0.5, 2, 3])
        print(table.attrs["sentence"])
    """
    factors = _checked_factors(factors)
    check_at_least("n_new_tokens", n_new_tokens, 1)
    for name, value in (("temperature", temperature), ("max_lost", max_lost)):
        if not (np.isfinite(value) and value >= 0):
            raise ModulesError(f"{name} should be a finite number of at least 0; got {value}.")
    options = Options(
        metric="loss",
        loss_on=loss_on,
        separator=None,
        method="scale",
        reference=None,
        factor=factors[0],
        positions=positions,
        keep_only=False,
        n_controls=n_controls,
        controls=controls,
        exclude=exclude,
        batch_size=batch_size,
        max_tokens=max_tokens,
        seed=seed,
        progress=progress,
    )
    targets = as_targets(modules)
    # Once, before anything runs: all that follows reads the labels of this frame.
    frame = labelled(prompt_frame(prompts), *sample_labels(targets))
    scores = scores_of(targets, frame, words, scorer)
    options = options.sized(model, frame)
    task = make_task(
        *(model, frame, "loss", options.n_rows, max_tokens, positions), loss_on=loss_on
    )
    ablation = ablation_of(model, frame, task, options)
    runs = prepare_runs(model, targets, ablation, seed_keys(targets, seed), None)
    _check_scalable(runs)
    drawn = [each.controls(0, n_controls) for each in runs]  # the first draw refuses options
    warn_own_categories(targets, frame, n_controls=n_controls)
    tokens = start_tokens(model, starts, frame)
    longest = max(map(len, tokens)) + n_new_tokens
    n_rows = batch_size_of(model, batch_size, longest, writes=True)
    content = changed_at(model, tokens, positions, n_rows)
    writer = Writer(model, tokens, content, n_new_tokens, temperature, seed, n_rows)
    limits = RowLimit(options.n_rows), RowLimit(n_rows)
    n_runs = 1 + len(factors) * sum(1 + len(controls) for controls in drawn)
    total = (len(frame) + len(tokens)) * n_runs
    with tqdm(total=total, desc="steer", unit="text", disable=not progress) as bar:
        written = writer.written([], limits[1], bar.update)
        # First, so that what a user's function refuses is known before all else runs.
        # A user's function may be slow, and is the same for all modules: one reading will do.
        if scorer is None:
            texts = [_read(written, score) for score in scores]
        else:
            texts = [_read(written, scores[0])] * len(scores)
        clean = run_task(model, task, [no_intervention], limits[0], bar.update)
        sweep = _Sweep(model, task, writer, categories_of(frame), clean[0], limits, bar.update)
        rows = [
            row
            for of_target, of_controls, score, clean_texts in zip(
                runs, drawn, scores, texts, strict=True
            )
            for row in sweep.rows(of_target, of_controls, score, clean_texts, factors)
        ]
    table = pd.DataFrame(rows).assign(controls=controls, positions=positions, **options.loss_column)
    return steering_table(table, max_lost)


def _checked_factors(factors: Sequence[int | float]) -> list[float]:
    found = list(factors)
    numbers = [each for each in found if isinstance(each, Real) and np.isfinite(float(each))]
    if len(set(map(float, numbers))) < len(found) or not found:
        raise ModulesError(
            "factors should be finite numbers, at least one, and each once; got "
            f"{[each if isinstance(each, Real) else shown(each) for each in found]}. "
            f"{list(FACTORS)} is usual."
        )
    return [float(each) for each in found]


def _check_scalable(runs: Sequence[Runs]) -> None:
    """Refuse targets that keep their own way of intervening."""
    for each in runs:
        if not isinstance(each.target, AblatedUnits):
            raise ModulesError(
                "modules should be sets of units without a method of their own, which can be "
                f"scaled; {each.target.label!r} is not. Leave it out, or test it with "
                "module_effects."
            )


@dataclass(frozen=True, eq=False)
class _Sweep:
    """The prompts and starts of one experiment, and how they are run."""

    model: HookedModel
    task: Task
    writer: Writer
    categories: Shaped[np.ndarray, " prompts"]
    clean: Float[np.ndarray, " prompts"]
    """Each prompt's loss without an intervention."""

    limits: tuple[RowLimit, RowLimit]
    """The rows of a pass over prompts, and of one that writes."""

    done: Callable[[int], object]
    """Called with the number of texts after each pass."""

    def rows(
        self,
        of_target: Runs,
        of_controls: Sequence[Intervention],
        score: Score,
        clean_texts: TextNumbers,
        factors: Sequence[float],
    ) -> list[dict[str, object]]:
        """The table's rows of one target."""
        trial, seed = of_target.trial(len(of_controls)), self.writer.seed
        sizes = trial.control_sizes
        rows = []
        for factor in factors:
            sets = [_scaled(run, factor) for run in (of_target.of_target(), *of_controls)]
            runs = [UnitRun(each) for each in sets]
            losses = run_task(self.model, self.task, runs, self.limits[0], self.done)
            written = self.writer.written(sets, self.limits[1], self.done)
            row: dict[str, object] = {"module": trial.label, "category": trial.category}
            row["factor"] = factor
            rises = losses - self.clean
            row |= loss_row(self.categories, self.clean, rises, trial.category, seed)
            row |= text_row(_read(written, score), clean_texts, factor, seed)
            row |= {"text": written.texts[0][0], "n": len(self.categories)}
            row |= {"n_starts": len(self.writer.starts), "n_controls": len(sizes)}
            row["n_units"] = trial.size
            row["control_units"] = float(np.mean(sizes)) if sizes else float("nan")
            rows.append(row)
        return rows


def _scaled(run: Intervention, factor: float) -> AblatedUnits:
    """The units of a target or a control, scaled by a factor."""
    assert isinstance(run, UnitRun)
    units = run.target
    assert isinstance(units, AblatedUnits)
    return replace(units, ablation=replace(units.ablation, factor=factor))


def _read(written: WrittenTexts, score: Score) -> TextNumbers:
    """Score the texts, and look for repetition in them."""
    scores, repeats = (
        np.array([[read(text) for text in texts] for texts in written.texts], dtype=np.float64)
        for read in (score, repeated_share)
    )
    return TextNumbers(scores, written.losses, repeats)
