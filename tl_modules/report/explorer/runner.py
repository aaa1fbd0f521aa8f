"""Runs the model for a question, step by step, so that a notebook can show progress and stop."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.errors import ModulesError
from tl_modules.interpret.token_texts import NotReadable, pieces_of, skipped_ids, text_of
from tl_modules.interpret.values_by_token import run_values
from tl_modules.interventions.hooks import hooked, unit_hooks
from tl_modules.interventions.measuring import check_measurable
from tl_modules.interventions.replacements import Method
from tl_modules.interventions.strata import Strata
from tl_modules.models.content_tokens import content_tokens
from tl_modules.models.generation import check_room, continued, text_end
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.losses import token_losses
from tl_modules.models.runs import forward
from tl_modules.models.tokens import tokenise
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.explorer.outcome import RUNS, Outcome, losses_table
from tl_modules.report.explorer.question import Asked, Question

N_LIKELIEST = 6
"""How many of each run's likeliest next tokens are shown."""

_Chosen = Int[np.ndarray, " chosen"]
"""Positions of units in the set's units."""

_Source = dict[str, torch.Tensor] | None
"""Another prompt's activations by hook point, for ``"patch"``."""

_N_PIECE = 8  # tokens written between two looks at the stop button
_METHODS: dict[str, Method] = {"ablate": "mean", "scale": "scale", "patch": "patch"}
_SAID = {"clean": "the unchanged model", "changed": "the changed modules", "control": "a control"}


@dataclass(frozen=True, eq=False)
class Step:
    """Where a run of the steps is."""

    done: int
    total: int
    what: str
    """What comes next."""

    outcome: Outcome | None = None
    """What is known so far."""


@dataclass(frozen=True, eq=False)
class _Read:
    """A prompt as the unchanged model reads it."""

    text: str
    tokens: Int[torch.Tensor, " _pos"]
    content: Bool[torch.Tensor, "1 _pos"]
    """True where units are changed."""
    logits: Float[torch.Tensor, "1 _pos _vocab"]
    pieces: list[str]


class Runner:
    """Runs one model. What it knows of the last prompt is kept for the next question."""

    def __init__(self, model: HookedModel, seed: int) -> None:
        """Take the model, and the seed of the controls."""
        self.model = model
        self._seed = seed
        self._read: _Read | None = None
        self._values: tuple[ModuleSet, str, Float[np.ndarray, "_pos _modules"] | None] | None = None
        self._written: dict[tuple[str, int], str] = {}

    def steps(self, asked: Asked) -> Iterator[Step]:
        """Answer a question, and yield before each step and at the end.

        Args:
            asked: The question, and the set that it is asked of.

        Yields:
            How far the run is; from the second half on with an outcome.

        Raises:
            ModulesError: If the prompt has no tokens, a value does not fit the model, or the other
                prompt of ``"patch"`` has another number of tokens.
        """
        modules, question, changed = asked.modules, asked.question, asked.units
        generator = np.random.default_rng([self._seed, question.control])
        strata = Strata.by_layer(modules.units)
        control = strata.draw(modules.units.select(changed), generator).flat()
        n_texts = len(RUNS) if question.n_new_tokens else 0
        total = 4 + n_texts
        check_measurable(self.model)
        yield Step(0, total, "reading the prompt")
        read = self._clean(question.prompt)
        check_room(self.model, len(read.tokens), question.n_new_tokens)
        yield Step(1, total, "measuring the modules' activity")
        activity = self._activity(modules, read, question.chosen)
        hooks: dict[str, FwdHooks] = {"clean": []}
        source = self._source(changed, modules, question, len(read.tokens))
        logits = {"clean": read.logits}
        for number, (run, units) in enumerate((("changed", changed), ("control", control)), 2):
            yield Step(number, total, f"running {_SAID[run]}")
            hooks[run] = self._hooks(units, modules, question, source, read.content)
            logits[run] = self._logits(read.tokens, hooks[run])
        outcome = self._outcome(asked, read, activity, logits)
        texts: dict[str, str] = {}
        for number, run in enumerate(RUNS[:n_texts], 4):
            yield Step(number, total, f"writing with {_SAID[run]}", outcome)
            chosen = {"clean": None, "changed": changed, "control": control}[run]
            for text in self._writing(read, chosen, modules, question, source):
                texts[run] = text
                outcome = replace(outcome, texts=_texts(texts))
                yield Step(number, total, f"writing with {_SAID[run]}", outcome)
        yield Step(total, total, "done", replace(outcome, is_whole=True))

    def _clean(self, prompt: str) -> _Read:
        """Read the prompt, unless it is the last one."""
        if self._read is None or self._read.text != prompt:
            [tokens] = tokenise(self.model, [prompt])
            mask = torch.ones(1, len(tokens), dtype=torch.bool)
            content = content_tokens(self.model, tokens[None], mask).cpu()
            pieces = pieces_of(self.model, tokens.tolist())
            logits = self._logits(tokens, [])
            self._read = _Read(prompt, tokens, content, logits, pieces)
            self._written.clear()
        return self._read

    def _logits(
        self, tokens: Int[torch.Tensor, " _pos"], hooks: FwdHooks
    ) -> Float[torch.Tensor, "1 _pos _vocab"]:
        mask = torch.ones(1, len(tokens), dtype=torch.bool)
        return forward(self.model, tokens[None], mask, hooks).float().cpu()

    def _activity(
        self, modules: ModuleSet, read: _Read, chosen: tuple[int, ...]
    ) -> Float[np.ndarray, " _pos"]:
        """The chosen modules' activity at each token, weighted by their units; NaN if unknown."""
        if self._values is None or self._values[0] is not modules or self._values[1] != read.text:
            values = None
            try:
                runs = run_values(self.model, modules, [read.tokens], 1, progress=False)
                [(_, values)] = list(runs)
            except NotReadable:  # the modules hold no mean |activation|
                pass
            self._values = (modules, read.text, values)
        values = self._values[2]
        if values is None or not chosen:
            return np.full(len(read.tokens), np.nan)
        weights = np.array([modules[k].n_units for k in chosen], dtype=np.float64)
        weighted = values[:, list(chosen)].astype(np.float64) @ weights
        return weighted / max(weights.sum(), 1.0)

    def _source(
        self, chosen: _Chosen, modules: ModuleSet, question: Question, n_tokens: int
    ) -> _Source:
        """The activations that ``"patch"`` puts in; None for other kinds."""
        if question.kind != "patch":
            return None
        if not question.other_prompt.strip():
            raise ModulesError("A patch needs another prompt to take values from. Type one.")
        [tokens] = tokenise(self.model, [question.other_prompt])
        if len(tokens) != n_tokens:
            raise ModulesError(
                f"The other prompt should have as many tokens as the prompt, {n_tokens}; it has "
                f"{len(tokens)}. Add or drop words."
            )
        units = modules.units.select(chosen)
        names = [units.hook_names[hook] for hook, _ in units.by_hook()]
        device = getattr(self.model.cfg, "device", None)
        with torch.inference_mode():
            _, cache = self.model.run_with_cache(tokens[None].to(device), names_filter=names)
        return {name: cache[name] for name in names}

    def _hooks(
        self,
        chosen: _Chosen,
        modules: ModuleSet,
        question: Question,
        source: _Source,
        positions: Bool[torch.Tensor, "1 _pos"],
    ) -> FwdHooks:
        """The hooks that change units at some positions."""
        if not len(chosen):
            return []
        factor = question.factor if question.kind == "scale" else None
        return unit_hooks(
            modules.units.select(chosen),
            _METHODS[question.kind],
            modules,
            source=source,
            factor=factor,
            positions=positions,
        )

    def _outcome(
        self,
        asked: Asked,
        read: _Read,
        activity: Float[np.ndarray, " _pos"],
        logits: dict[str, Float[torch.Tensor, "1 _pos _vocab"]],
    ) -> Outcome:
        """The tables of the runs."""
        ids = read.tokens.tolist()
        special = skipped_ids(self.model)
        mask = torch.ones(1, len(ids), dtype=torch.bool)
        losses = {
            run: token_losses(values, read.tokens[None], mask)[0].double().numpy()
            for run, values in logits.items()
        }
        first = np.full(1, np.nan)  # nothing predicts the first token
        tokens = pd.DataFrame(
            {
                "token": pd.Series(read.pieces, dtype="str"),
                "special": [at == 0 or token in special for at, token in enumerate(ids)],
                "activity": activity,
                "effect": np.concatenate([first, losses["changed"] - losses["clean"]]),
                "control": np.concatenate([first, losses["control"] - losses["clean"]]),
            }
        )
        next_tokens, table = self._next_tokens(logits), losses_table(losses)
        return Outcome(asked, tokens, next_tokens, table, _texts({}), is_whole=False)

    def _next_tokens(self, logits: dict[str, Float[torch.Tensor, "1 _pos _vocab"]]) -> pd.DataFrame:
        """The likeliest next tokens of the unchanged and of the changed model."""
        likely = {run: values[0, -1].double().softmax(0) for run, values in logits.items()}
        k = min(N_LIKELIEST, len(likely["clean"]))
        shown = [likely[run].topk(k).indices for run in ("clean", "changed")]
        ids = torch.cat(shown).unique()
        ids = ids[likely["clean"][ids].argsort(descending=True, stable=True)]
        texts = [pieces_of(self.model, [token])[0] for token in ids.tolist()]
        columns = {run: values[ids].numpy() for run, values in likely.items()}
        return pd.DataFrame({"token": pd.Series(texts, dtype="str"), **columns})

    def _writing(
        self,
        read: _Read,
        chosen: _Chosen | None,
        modules: ModuleSet,
        question: Question,
        source: _Source,
    ) -> Iterator[str]:
        """Write after the prompt, the likeliest token each time, and yield the text as it grows."""
        key = (read.text, question.n_new_tokens)
        if chosen is None and key in self._written:
            yield self._written[key]
            return
        n_prompt = len(read.tokens)
        if source is not None:
            source = {name: _padded(one, question.n_new_tokens) for name, one in source.items()}
        tokens, left, text = read.tokens, question.n_new_tokens, ""
        while left:
            n_new = min(_N_PIECE, left)
            # Tokens that are written are changed too, but nothing is there to patch in.
            n_after = len(tokens) - n_prompt + n_new
            after = torch.full((1, n_after), source is None)
            positions = torch.cat([read.content, after], dim=1)
            hooks: FwdHooks = []
            if chosen is not None:
                hooks = self._hooks(chosen, modules, question, source, positions)
            before = len(tokens)
            with hooked(self.model, hooks):
                tokens = continued(self.model, tokens, n_new, remedy="Write 0 tokens.")
            end = text_end(self.model, tokens, before)
            left = left - n_new if end == len(tokens) else 0
            tokens = tokens[:end]
            # Decoded with the prompt: some tokenizers trim a text's leading space.
            given, whole = (text_of(self.model, t.tolist()) for t in (read.tokens, tokens))
            text = whole[len(given) :]
            yield text
        if chosen is None:
            self._written[key] = text


def _padded(values: torch.Tensor, n: int) -> torch.Tensor:
    """Activations with n more positions, which are never read: hooks ask for the whole length."""
    return torch.cat([values, values[:, :1].expand(-1, n, *values.shape[2:])], dim=1)


def _texts(texts: dict[str, str]) -> pd.DataFrame:
    """What each run wrote so far."""
    index = pd.Index(list(texts), name="run", dtype="str")
    return pd.DataFrame({"text": pd.Series(list(texts.values()), index=index, dtype="str")})
