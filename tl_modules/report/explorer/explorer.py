"""``explore``: modules to play with in a notebook, and the object that it returns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import ModulesError, check_seed, check_type, shown
from tl_modules.interventions.measuring import measures
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.tokens import check_tokenizer
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.explorer.outcome import Outcome
from tl_modules.report.explorer.payload import core_curves, payload
from tl_modules.report.explorer.runner import Runner, Step
from tl_modules.report.explorer.session import Kind, Question, Session
from tl_modules.report.explorer.static import static_html
from tl_modules.runtime.arguments import checked
from tl_modules.tables.verdicts import verdict_sentence

if TYPE_CHECKING:
    from tl_modules.report.explorer.widget import ExplorerWidget

_Action = Callable[[Session, Mapping[str, Any]], bool]
"""What does what the page asks for, and says whether the model has to run again."""

_HOW_TO_INSTALL = (
    "The interactive page needs anywidget: pip install anywidget (it is in the extra 'viz'), then "
    "restart the kernel. This is the same state without controls; explorer.run(...) changes it."
)
_NO_SCRIPTS = "Buttons and sliders show where widgets run, such as in JupyterLab."


@runtime_checkable
class HasCores(Protocol):
    """What ``causal_cores`` returned."""

    @property
    def table(self) -> pd.DataFrame:
        """A row per module, ranking and size."""
        ...

    @property
    def units(self) -> pd.DataFrame:
        """A row per unit of a core, with its score."""
        ...


@checked
@measures
def explore(
    model: HookedModel,
    modules: ModuleSet,
    effects: pd.DataFrame | None = None,
    *,
    cores: HasCores | None = None,
    ranking: Float[np.ndarray, " units"] | None = None,
    prompt: str | None = None,
    seed: int = 0,
) -> "Explorer":
    """Show modules on a page in the notebook, on which one can intervene and edit.

    Choose modules and a prompt. The page colours the prompt's tokens by how active the modules are
    or by what the intervention does to each token's loss. It shows next-token probabilities, the
    loss and, on request, the text that the model writes: unchanged, with the modules ablated,
    scaled or patched, and with a control, as many random units of the same layers. Units are
    changed at content tokens, as in ``module_effects``. Modules can be renamed, merged, split and
    given other units; ``.modules`` is the set as edited.

    The page is an anywidget (extra ``viz``) and fetches nothing from a network. Where widgets do
    not run, the same state shows as tables, and ``.run(...)`` changes it.

    Args:
        model: The model that the modules were discovered in.
        modules: The modules.
        effects: What ``module_effects`` returned for them: the page shows each module's verdict.
        cores: What ``causal_cores`` returned for them: the page draws the curve of each module's
            cores, and takes their units first.
        ranking: A score of every unit of the site, such as ``UnitEstimates.contrast(category)``. A
            module's core of n units is its n highest. By default the scores of ``cores``, then
            each unit's fit (``Module.scores``), which says little about its importance.
        prompt: The first prompt; by default the first module's strongest one.
        seed: Seeds the controls.

    Returns:
        An ``Explorer``, which a notebook shows as the last expression of a cell.

    Raises:
        ModulesError: If the modules belong to another model, the model has no tokenizer, the
            effects or the ranking belong to other modules, or the prompt has no tokens.

    Example::

        explorer = tlm.explore(model, modules, effects)
        explorer  # play with it
        edited = explorer.modules
    """
    modules.units.check_model(model)
    check_tokenizer(model)
    check_seed(seed)
    sentence = ""
    if effects is not None:
        modules = modules.with_effects(effects)
        sentence = verdict_sentence(effects)
    if cores is not None:
        check_type(
            cores.table, pd.DataFrame, "cores should be what causal_cores returned", "Pass it whole."
        )
    word = "the scores passed as ranking="
    if ranking is None and cores is not None:
        ranking = _ranking_of(cores, modules)
        word = "the score of the causal core, then fit"
    elif ranking is None:
        word = "fit to the topic, which says little about importance"
    first = prompt if prompt is not None else _first_prompt(modules)
    session = Session(modules, Question(prompt=first), ranking)
    about = {
        "sentence": sentence,
        "ranking": word,
        "cores": {} if cores is None else core_curves(cores.table),
    }
    explorer = Explorer(session, Runner(model, seed), about)
    if first:
        explorer.run()
    return explorer


class Explorer:
    """Modules to play with: what ``explore`` returns."""

    def __init__(self, session: Session, runner: Runner, about: Mapping[str, Any]) -> None:
        """Hold the parts; ``explore`` makes them."""
        self._session = session
        self._runner = runner
        self._about = dict(about)
        self._outcome: Outcome | None = None
        self._widget: ExplorerWidget | None = None

    @property
    def modules(self) -> ModuleSet:
        """The set as edited.

        Scores, verdicts and the objective are kept where the edits leave them true; elsewhere they
        are missing (NaN, None).
        """
        return self._session.modules

    @property
    def history(self) -> tuple[str, ...]:
        """The edits that led to ``modules``, one line each."""
        return self._session.history

    @property
    def outcome(self) -> Outcome | None:
        """What the last run found; None before the first."""
        return self._outcome

    def run(  # noqa: PLR0913 - a question's fields, all by keyword
        self,
        *,
        prompt: str | None = None,
        chosen: Sequence[int] | None = None,
        kind: Kind | None = None,
        factor: float | None = None,
        other_prompt: str | None = None,
        core_size: int | None = None,
        n_new_tokens: int | None = None,
        control: int | None = None,
    ) -> Outcome:
        """Change the question, run the model, and update the page.

        Args:
            prompt: The prompt.
            chosen: The numbers of the modules that are changed together.
            kind: What becomes of their units: ``"ablate"`` (their means), ``"scale"`` (times
                ``factor``), ``"patch"`` (their values on ``other_prompt``).
            factor: The factor of ``"scale"``.
            other_prompt: The prompt of ``"patch"``; it has as many tokens as ``prompt``.
            core_size: How many units of a single chosen module to change, first in its ranking.
            n_new_tokens: How many tokens the model writes; 0 for none.
            control: The number of the random control: another number draws another one.

        Returns:
            What was found. What is None stays as it was.

        Raises:
            ModulesError: If a value does not fit.
        """
        given = {
            "prompt": prompt,
            "chosen": chosen,
            "kind": kind,
            "factor": factor,
            "other_prompt": other_prompt,
            "core_size": core_size,
            "n_new_tokens": n_new_tokens,
            "control": control,
        }
        self._session.ask(**{name: value for name, value in given.items() if value is not None})
        for _ in self.steps():
            pass
        assert self._outcome is not None
        return self._outcome

    def merge(self, numbers: Sequence[int]) -> None:
        """Merge modules into the first of them.

        Args:
            numbers: Two modules or more.

        Raises:
            ModulesError: If there are fewer, or fewer than two modules would be left.
        """
        self._session.merge(numbers)
        self._again()

    def split(self, k: int, *, n: int | None = None, layer: int | None = None) -> None:
        """Split a module in two; the new one is the last of the set, and has no samples.

        Args:
            k: The module.
            n: It keeps the first n units of its ranking.
            layer: It keeps its units up to this layer.

        Raises:
            ModulesError: If not exactly one of ``n`` and ``layer`` is given, or one part is empty.
        """
        self._session.split(k, n=n, layer=layer)
        self._again()

    def move(self, units: Sequence[tuple[int, int]], to: int | None) -> None:
        """Move units into a module, or out of all modules.

        Args:
            units: Pairs ``(layer, unit)``.
            to: The module; None for none.

        Raises:
            ModulesError: If there is no such unit or module, or nothing to move.
        """
        self._session.move(self._session.positions_of(_as_text(units)), to)
        self._again()

    def rename(self, k: int, name: str) -> None:
        """Name a module: the name becomes its topic's label. Its own category stays.

        Args:
            k: The module.
            name: The name, which no other module has.

        Raises:
            ModulesError: If the name does not fit.
        """
        self._session.rename(k, name)
        self._show()

    def keep_core(self, k: int, n: int) -> None:
        """Take all but the first n units of a module's ranking out of it.

        Args:
            k: The module.
            n: How many units it keeps.

        Raises:
            ModulesError: If it has no more units already.
        """
        self._session.keep_core(k, n)
        self._again()

    def pin(self, k: int) -> None:
        """Pin a module to the top of the list, or unpin it.

        Args:
            k: The module.
        """
        self._session.pin(k)
        self._show()

    def undo(self) -> None:
        """Take the last edit back.

        Raises:
            ModulesError: If there is none.
        """
        self._session.undo()
        self._again()

    def receive(self, message: Mapping[str, Any]) -> bool:
        """Do what the page asks for.

        Args:
            message: ``{"do": ...}`` with what the action needs. It is untrusted.

        Returns:
            Whether the model has to run again.

        Raises:
            ModulesError: If the page asks for what cannot be done.
        """
        act = _ACTIONS.get(str(message.get("do")))
        if act is None:
            raise ModulesError(f"The page asked for {shown(message.get('do'))}, which is unknown.")
        try:
            return act(self._session, message)
        except (KeyError, TypeError, AttributeError) as error:
            raise ModulesError(f"The page sent a malformed message: {error!r}.") from error

    def steps(self) -> Iterator[Step]:
        """Answer the question step by step, and keep what is found.

        Yields:
            How far the run is.

        Raises:
            ModulesError: If the question cannot be answered.
        """
        for step in self._runner.steps(self._session):
            if step.outcome is not None:
                self._outcome = step.outcome
            yield step
        self._show()

    def state(self) -> dict[str, Any]:
        """What the page shows, JSON-ready."""
        return payload(self._session, self._outcome, self._about)

    def _again(self) -> None:
        """Run the question again after an edit."""
        if self._session.question.prompt:
            self.run()
        else:
            self._show()

    def _show(self) -> None:
        """Update the page, if there is one."""
        if self._widget is not None:
            self._widget.show()

    def __repr__(self) -> str:
        """One line."""
        n = len(self.history)
        return f"Explorer({self.modules.n_modules} modules, {n} edit{'' if n == 1 else 's'})"

    def _repr_html_(self) -> str:
        """The state as tables, where widgets do not run."""
        return static_html(self.state(), _NO_SCRIPTS if _has_widgets() else _HOW_TO_INSTALL)

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> dict[str, Any]:
        """For Jupyter: the page, and the tables for where it does not run."""
        del include, exclude
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if _has_widgets():
            bundle |= self.widget().view()
        return bundle

    def widget(self) -> "ExplorerWidget":
        """The page as a widget, one for all the places where it is shown.

        Raises:
            ModulesError: If anywidget is not installed.
        """
        if not _has_widgets():
            raise ModulesError(_HOW_TO_INSTALL)
        from tl_modules.report.explorer.widget import ExplorerWidget

        if self._widget is None:
            self._widget = ExplorerWidget(self)
        return self._widget


def _ask(session: Session, message: Mapping[str, Any]) -> bool:
    session.ask(**message["question"])
    return bool(session.question.prompt)


def _pin(session: Session, message: Mapping[str, Any]) -> bool:
    session.pin(message["module"])
    return False


def _rename(session: Session, message: Mapping[str, Any]) -> bool:
    session.rename(message["module"], message["name"])
    return False


def _move(session: Session, message: Mapping[str, Any]) -> bool:
    typed = session.positions_of(message["typed"])
    listed = np.array(message["listed"], dtype=np.int64)
    session.move(np.concatenate([typed, listed]), message["to"])
    return True


def _edited(edit: Callable[[Session, Mapping[str, Any]], None]) -> _Action:
    """An edit after which the model runs again."""

    def act(session: Session, message: Mapping[str, Any]) -> bool:
        edit(session, message)
        return bool(session.question.prompt)

    return act


_ACTIONS: dict[str, _Action] = {
    "ask": _ask,
    "pin": _pin,
    "rename": _rename,
    "move": _edited(_move),
    "merge": _edited(lambda session, message: session.merge(message["modules"])),
    "split": _edited(
        lambda session, message: session.split(
            message["module"], n=message.get("n"), layer=message.get("layer")
        )
    ),
    "keep_core": _edited(lambda session, said: session.keep_core(said["module"], said["n"])),
    "undo": _edited(lambda session, _: session.undo()),
}
"""What the page may ask for."""


def _has_widgets() -> bool:
    return find_spec("anywidget") is not None


def _as_text(units: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{layer}:{unit}" for layer, unit in units)


def _first_prompt(modules: ModuleSet) -> str:
    """The first module's strongest prompt; empty if the samples have no prompts."""
    prompts = modules[0].samples.get("prompt")
    return "" if prompts is None or not len(prompts) else str(prompts.iloc[0])


def _ranking_of(cores: HasCores, modules: ModuleSet) -> Float[np.ndarray, " units"]:
    """The cores' units by their scores, above all others, which keep the order of their fit.

    Raises:
        ModulesError: If the cores belong to another model or site.
    """
    units, found = modules.units, cores.units
    fit = modules.unit_scores
    scores = np.zeros(len(units)) if fit is None else np.nan_to_num(fit.astype(np.float64), nan=-1e9)
    ranks = np.argsort(np.argsort(scores, kind="stable")) / len(scores)  # below 1
    starts = dict(zip(units.hook_names, np.cumsum((0, *units.widths)).tolist(), strict=False))
    if not set(found["hook_name"]) <= set(starts):
        raise ModulesError(
            "cores should be of these modules; they have units at other hook points. Find them "
            "with causal_cores(model, modules, ...)."
        )
    places = found["hook_name"].map(starts).to_numpy(dtype=np.int64) + found["unit"].to_numpy()
    ranks[places] = np.arange(len(found), 0, -1)  # highest score first in each module
    return ranks
