"""Read chains of thought on multiple-choice questions state by state."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError, check_at_least, check_seed, check_type
from tl_modules.interpret.values_by_token import run_values
from tl_modules.interventions.measuring import measures
from tl_modules.models.batch_sizes import BatchSize, check_batch_size
from tl_modules.models.hooked_model import HookedModel, check_causal
from tl_modules.modules.module_set import ModuleSet, check_module_set
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.thoughts.chains import (
    Chain,
    given_chains,
    question_tokens,
    written_chains,
)
from tl_modules.thoughts.choices import (
    check_room,
    choice_losses,
    choice_tokens,
    mean_losses,
    question_frame,
)
from tl_modules.thoughts.styles import Style, ask_in
from tl_modules.thoughts.thoughts import Thoughts, names_of_columns

LEAD = " The answer is"
"""The default text between a state and a choice."""


@checked
@measures
def thought_states(  # noqa: PLR0913 - the options of one run, all by keyword
    model: HookedModel,
    questions: Prompts,
    *,
    modules: ModuleSet | None = None,
    chains: Annotated[Sequence[str] | None, Elsewhere("texts")] = None,
    n_chains: int = 1,
    n_new_tokens: int = 60,
    temperature: float = 0.0,
    style: Annotated[Style | str, Elsewhere("a style or a template")] = "cot",
    lead: Annotated[str, Elsewhere("a text")] = LEAD,
    separator: str = " ",
    chat: bool = False,
    system: str | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Thoughts:
    """Follow chains of thought, to see how each thought moves the model between the answers.

    The method is Landscape of Thoughts (Zhou et al. 2025, arXiv 2503.22165, section 2); the how-to
    "Follow a chain of thought" explains it and names two departures. State ``s_i`` is the question
    with its first ``i`` thoughts (sentences or lines). Its distance to a choice is the choice's
    perplexity after the state. A choice of frequent words is near every state, so compare with step
    0 (the question alone).

    ``style="lot"`` is Language of Thoughts (Liu et al. 2025, arXiv 2505.12896): models overlook a
    premise that is implicit or comes late, unless they are told to observe, expand and echo all
    relevant information before they reason. The abstract, the code's readme and a summary were
    read, not the paper. This prompt (in our own words) is what is here; the paper's causal models,
    its data sets and its variants with only one of the instructions are not.
    ``load_prompts("premises")`` has questions of the project's own of both kinds, and
    ``Thoughts.beside`` compares two styles.

    Args:
        model: The model.
        questions: A frame with ``prompt``, ``choices`` (a list of texts) and ``answer`` (one of the
            choices), such as ``load_prompts("choices")``; ``id`` and ``category`` are kept. Rows
            with the same ``id`` are chains of one question.
        modules: Modules of the same model, to read beside the distances.
        chains: Texts to follow instead of generated chains, one per row of ``questions``.
        n_chains: The number of generated chains per question.
        n_new_tokens: The largest number of tokens of a chain; an end of text ends it earlier.
        temperature: The temperature of sampling; 0 takes the likeliest token.
        style: How a question is asked. ``"direct"`` asks for the answer alone, ``"cot"`` to think
            step by step, ``"lot"`` to observe, expand and echo all relevant information before
            that. Any other text is a template with ``{question}`` and, optionally, ``{choices}``.
        lead: The unscored text between a state and the separator.
        separator: The text before each choice, scored with the choice. Without ``chat``, it also
            separates a question from its text in ``chains``.
        chat: Ask in the tokenizer's chat template; the chain is the reply.
        system: The template's system prompt; default: the template's own, if any.
        batch_size: Texts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        seed: Seeds the sampling. CPUs and GPUs draw different chains; pass ``chains`` to compare.
        progress: Show progress bars.

    Returns:
        The states.

    Raises:
        ModulesError: If a question is malformed, the model is not causal or cannot generate, a text
            exceeds its context, the modules belong to another model or hold no magnitudes, or an
            option is out of range.
    """
    check_causal(model, "thought_states")
    check_seed(seed)
    check_at_least("n_chains", n_chains, 1)
    check_at_least("n_new_tokens", n_new_tokens, 1)
    check_batch_size(batch_size)
    _check_temperature(temperature, n_chains)
    check_type(lead, str, "lead should be a text", 'Pass lead="" for none.')
    check_type(separator, str, "separator should be a text", 'Pass separator="" for none.')
    if modules is not None:
        check_module_set(modules)
        modules.units.check_model(model)
    form = Reading(chat=chat, system=system)
    frame = question_frame(questions)
    asked = ask_in(frame, style)
    lead_tokens, choices = choice_tokens(model, frame["in_order"].tolist(), lead, separator)
    if chains is None:
        _check_unique_ids(frame)
        starts = question_tokens(model, asked, form)
        check_room(model, starts, n_new_tokens, lead_tokens, choices)
        made = written_chains(
            model,
            starts,
            n_chains=n_chains,
            n_new_tokens=n_new_tokens,
            temperature=temperature,
            seed=seed,
            progress=progress,
        )
    else:
        numbers = frame.groupby("id").cumcount().tolist()
        made = given_chains(model, asked, chains, numbers, separator=separator, form=form)
    states = _labels(frame, made)
    before = [chain.tokens[:end] for chain in made for end in chain.ends]
    of_states = [choices[chain.row] for chain in made for _ in chain.ends]
    losses = choice_losses(model, before, lead_tokens, of_states, batch_size, progress=progress)
    _add_distances(states, losses)
    thoughts = [
        [(first, chain.tokens[first:last]) for first, last in pairwise(chain.ends)]
        for chain in made
    ]
    tokens = [chain.tokens for chain in made]
    of_thoughts = mean_losses(
        model, tokens, thoughts, batch_size, desc="thoughts", progress=progress
    )
    # Step 0 is the question, which has no thought.
    perplexities = [value for losses in of_thoughts for value in (np.nan, *np.exp(losses))]
    states["thought_perplexity"] = np.array(perplexities, dtype=float)
    if modules is not None:
        values = _module_values(model, modules, made, batch_size, progress=progress)
        states[names_of_columns("module", len(modules))] = values
    return Thoughts(states, len(frame["in_order"][0]), 0 if modules is None else len(modules))


def _check_temperature(temperature: float, n_chains: int) -> None:
    if not 0 <= temperature < np.inf:
        raise ModulesError(
            f"temperature should be 0 or a positive number; got {temperature}. 0 takes the "
            "likeliest token; 1.0 samples from the model's own distribution."
        )
    if n_chains > 1 and temperature == 0:
        raise ModulesError(
            f"n_chains should be 1 with temperature=0, because all chains would be equal; got "
            f"{n_chains}. Set temperature=1.0, or n_chains=1."
        )


def _check_unique_ids(frame: pd.DataFrame) -> None:
    repeated = frame.loc[frame["id"].duplicated(), "id"].tolist()
    if repeated:
        raise ModulesError(
            f"Every question should have a unique id; got {repeated[0]!r} twice. Set n_chains for "
            "more chains of a question."
        )


def _labels(frame: pd.DataFrame, made: list[Chain]) -> pd.DataFrame:
    """Return one row per state with its question, chain, step and thought."""
    rows = [(chain, step) for chain in made for step in range(len(chain.ends))]
    questions = frame.loc[[chain.row for chain, _ in rows]].reset_index(drop=True)
    columns = [name for name in ("id", "category") if name in frame.columns]
    return questions[[*columns, "in_order"]].assign(
        chain=[chain.number for chain, _ in rows],
        step=[step for _, step in rows],
        thought=[
            chain.thoughts[step - 1] if step else prompt
            for (chain, step), prompt in zip(rows, questions["prompt"], strict=True)
        ],
    )


def _add_distances(states: pd.DataFrame, losses: Float[np.ndarray, "states choices"]) -> None:
    """Add the distances, and the columns that follow from them."""
    n_choices = losses.shape[1]
    # Subtracting the largest loss first keeps exp from overflowing.
    features = np.exp(losses - losses.max(axis=1, keepdims=True))
    features /= features.sum(axis=1, keepdims=True)
    states[names_of_columns("distance", n_choices)] = features
    with np.errstate(over="ignore"):
        states[names_of_columns("perplexity", n_choices)] = np.exp(losses)
    nearest = losses.argmin(axis=1)
    in_order = states.pop("in_order")
    states["nearest"] = [texts[number] for texts, number in zip(in_order, nearest, strict=True)]
    states["is_correct"] = nearest == 0
    of_chain = np.cumsum(states["step"].to_numpy() == 0) - 1
    last = np.flatnonzero(np.diff(of_chain, append=-1))
    states["consistent"] = nearest == nearest[last][of_chain]
    logs = np.log(features, where=features > 0, out=np.zeros_like(features))
    states["uncertainty"] = -(features * logs).sum(axis=1)


def _module_values(
    model: HookedModel,
    modules: ModuleSet,
    made: list[Chain],
    batch_size: BatchSize,
    *,
    progress: bool,
) -> Float[np.ndarray, "states modules"]:
    """Average each module's values over each state's last thought, or over the question."""
    token_lists = [chain.tokens for chain in made]
    of_chain: dict[int, np.ndarray] = {}
    for number, values in run_values(model, modules, token_lists, batch_size, progress=progress):
        # A prompt's first token is left out, because it is an outlier (see token_values).
        starts = [min(1, made[number].ends[0] - 1), *made[number].ends[:-1]]
        spans = zip(starts, made[number].ends, strict=True)
        means = [values[first:last].mean(axis=0, dtype=float) for first, last in spans]
        of_chain[number] = np.stack(means)
    return np.concatenate([of_chain[number] for number in range(len(made))])
