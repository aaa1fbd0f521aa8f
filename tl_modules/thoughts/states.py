"""Chains of thought on multiple-choice questions, read state by state."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import ModulesError, check_at_least, check_seed, check_type
from tl_modules.interpret.values_by_token import run_values
from tl_modules.interventions.measuring import measures
from tl_modules.models.hooked_model import HookedModel, check_causal
from tl_modules.modules.module_set import ModuleSet, check_module_set
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.thoughts.chains import (
    Chain,
    ask_in,
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
from tl_modules.thoughts.thoughts import Thoughts, names_of_columns

ASK = "{question}\nPossible answers:\n{choices}\nLet us think step by step."
"""How a question is asked, unless told otherwise."""

LEAD = " The answer is"
"""What stands between a state and a choice, unless told otherwise."""


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
    ask: Annotated[str, Elsewhere("a text")] = ASK,
    lead: Annotated[str, Elsewhere("a text")] = LEAD,
    separator: str = " ",
    chat: bool = False,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> Thoughts:
    """Follow chains of thought: how far each state is from each answer of a multiple choice.

    Landscape of Thoughts (Zhou et al. 2025, arXiv 2503.22165, section 2), with modules beside it. A
    chain is cut into thoughts ``t_1 .. t_n`` at the ends of its sentences and lines; state ``s_i``
    is the question with the first ``i`` of them. Its distance to a choice ``c_j`` of ``|c_j|``
    tokens is the choice's perplexity after it,

        ``d(s_i, c_j) = p(c_j | s_i) ** (-1 / |c_j|)``,

    and a state's features are its distances to all choices over their sum. The correct choice comes
    first, so that questions compare. A state's uncertainty is the entropy of its features; it is
    consistent if its nearest choice is also nearest to the chain's last state.

    Two things differ from the paper: ``lead`` stands between a state and a choice (``lead=""``
    leaves it out), and a choice as a landmark lies equally far from all others.

    How near a choice is says how likely its words are: a choice of frequent words is near to every
    state. Compare with step 0, the question alone.

    Args:
        model: The model.
        questions: A frame with ``prompt``, ``choices`` (a list of texts, as many for each question)
            and ``answer`` (one of them); ``load_prompts("choices")`` is one. ``id`` and
            ``category`` are kept. Rows with the same ``id`` are chains of the same question.
        modules: Modules of the same model, to read beside the distances.
        chains: Chains to follow in place of the model's own: one text a row of ``questions``.
        n_chains: How many chains the model writes on each question.
        n_new_tokens: Tokens of a chain at most; it ends at the first special token.
        temperature: Of sampling; 0 always takes the likeliest token, so one chain a question.
        ask: How a question is asked: a text with ``{question}`` and, where wanted, ``{choices}``.
        lead: What stands after a state, before the separator and a choice; it is not measured.
        separator: What stands between the lead and each choice, measured as part of the choice;
            without ``chat`` also between a question and its text of ``chains``. All texts are run
            exactly as given.
        chat: Ask in the tokenizer's chat template; the chain is the reply.
        batch_size: Texts in a forward pass.
        seed: Seeds the sampling. Another kind of device draws other chains from it: pass
            ``chains`` to compare states between devices.
        progress: Show progress bars.

    Returns:
        The states.

    Raises:
        ModulesError: If the questions are malformed, the model is not causal or cannot write, a
            text does not fit its context, the modules are another model's or know no magnitudes, or
            an option is out of range.
    """
    check_causal(model, "thought_states")
    check_seed(seed)
    check_at_least("n_chains", n_chains, 1)
    check_at_least("n_new_tokens", n_new_tokens, 1)
    check_at_least("batch_size", batch_size, 1)
    _check_temperature(temperature, n_chains)
    check_type(lead, str, "lead should be a text", 'Pass lead="" for none.')
    check_type(separator, str, "separator should be a text", 'Pass separator="" for none.')
    if modules is not None:
        check_module_set(modules)
        modules.units.check_model(model)
    frame = question_frame(questions)
    asked = ask_in(frame, ask)
    led, choices = choice_tokens(model, frame["in_order"].tolist(), lead, separator)
    if chains is None:
        _check_once(frame)
        starts = question_tokens(model, asked, chat=chat)
        check_room(model, starts, n_new_tokens, led, choices)
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
        made = given_chains(model, asked, chains, numbers, separator=separator, chat=chat)
    states = _labels(frame, made)
    before = [chain.tokens[:end] for chain in made for end in chain.ends]
    own_choices = [choices[chain.row] for chain in made for _ in chain.ends]
    losses = choice_losses(model, before, led, own_choices, batch_size, progress=progress)
    _add_distances(states, losses)
    spans = [zip(chain.ends, chain.ends[1:], strict=False) for chain in made]
    own = [
        [(first, chain.tokens[first:last]) for first, last in each]
        for chain, each in zip(made, spans, strict=True)
    ]
    tokens = [chain.tokens for chain in made]
    of_thoughts = mean_losses(model, tokens, own, batch_size, desc="thoughts", progress=progress)
    known = [value for own in of_thoughts for value in (np.nan, *np.exp(own))]
    states["thought_perplexity"] = np.array(known, dtype=float)
    if modules is not None:
        values = _module_values(model, modules, made, batch_size, progress=progress)
        states[names_of_columns("module", len(modules))] = values
    return Thoughts(states, len(frame["in_order"][0]), 0 if modules is None else len(modules))


def _check_temperature(temperature: float, n_chains: int) -> None:
    if not 0 <= temperature < np.inf:
        raise ModulesError(f"temperature should be 0 or a positive number; got {temperature}.")
    if n_chains > 1 and temperature == 0:
        raise ModulesError(
            f"Without sampling all chains of a question are the same; got n_chains={n_chains} with "
            "temperature=0. Set temperature=1.0, or n_chains=1."
        )


def _check_once(frame: pd.DataFrame) -> None:
    again = frame.loc[frame["id"].duplicated(), "id"].tolist()
    if again:
        raise ModulesError(
            f"Every question should have an id of its own; got {again[0]!r} twice. Set "
            "n_chains for more chains of a question."
        )


def _labels(frame: pd.DataFrame, made: list[Chain]) -> pd.DataFrame:
    """The states' rows, without what is measured."""
    rows = [(chain, step) for chain in made for step in range(len(chain.ends))]
    own = frame.loc[[chain.row for chain, _ in rows]].reset_index(drop=True)
    columns = [name for name in ("id", "category") if name in frame.columns]
    return own[[*columns, "in_order"]].assign(
        chain=[chain.number for chain, _ in rows],
        step=[step for _, step in rows],
        thought=[
            chain.thoughts[step - 1] if step else prompt
            for (chain, step), prompt in zip(rows, own["prompt"], strict=True)
        ],
    )


def _add_distances(states: pd.DataFrame, losses: Float[np.ndarray, "states choices"]) -> None:
    """What follows from the distances, as columns."""
    n_choices = losses.shape[1]
    # Over their sum before they are large: a perplexity may be more than a float holds.
    features = np.exp(losses - losses.max(axis=1, keepdims=True))
    features /= features.sum(axis=1, keepdims=True)
    states[names_of_columns("distance", n_choices)] = features
    with np.errstate(over="ignore"):
        states[names_of_columns("perplexity", n_choices)] = np.exp(losses)
    nearest = losses.argmin(axis=1)
    in_order = states.pop("in_order")
    states["nearest"] = [own[at] for own, at in zip(in_order, nearest, strict=True)]
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
    batch_size: int,
    *,
    progress: bool,
) -> Float[np.ndarray, "states modules"]:
    """Each module's mean value over the tokens of each state's last thought, or of the question."""
    token_lists = [chain.tokens for chain in made]
    found: dict[int, np.ndarray] = {}
    for number, values in run_values(model, modules, token_lists, batch_size, progress=progress):
        # A prompt's first token is an outlier whatever it is (see token_values).
        starts = [min(1, made[number].ends[0] - 1), *made[number].ends[:-1]]
        spans = zip(starts, made[number].ends, strict=True)
        means = [values[first:last].mean(axis=0, dtype=float) for first, last in spans]
        found[number] = np.stack(means)
    return np.concatenate([found[number] for number in range(len(made))])
