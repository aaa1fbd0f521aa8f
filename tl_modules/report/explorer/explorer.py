"""What ``explore`` returns: modules to play with, on a page or in Python."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

from tl_modules.errors import ModulesError
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.explorer.actions import act, edited
from tl_modules.report.explorer.outcome import Outcome
from tl_modules.report.explorer.payload import payload
from tl_modules.report.explorer.question import Asked, Kind, check_used
from tl_modules.report.explorer.runner import Runner, Step
from tl_modules.report.explorer.session import Session
from tl_modules.report.explorer.static import static_html
from tl_modules.runtime.arguments import Remedy, checked

if TYPE_CHECKING:
    from tl_modules.report.explorer.widget import ExplorerWidget

_HOW_TO_INSTALL = (
    "The interactive page needs anywidget: pip install anywidget (it is in the extra 'viz'), then "
    "restart the kernel. This is the same state without controls; explorer.run(...) changes it."
)
_Pairs = Annotated[
    Sequence[tuple[int, int]],
    Remedy("Pass pairs (layer, unit), such as [(12, 345)]."),
]
_NO_SCRIPTS = "Buttons and sliders show where widgets run, such as in JupyterLab."


class Explorer:
    """Modules to play with: what ``explore`` returns."""

    def __init__(self, session: Session, runner: Runner, about: Mapping[str, Any]) -> None:
        """Hold the parts; ``explore`` makes them."""
        self._session = session
        self._runner = runner
        self._about = dict(about)
        self._outcome: Outcome | None = None
        self._widget: ExplorerWidget | None = None
        self._number = 0  # of the newest run: earlier ones end before their next step
        self._progress: dict[str, int | str] = _progress()
        self._error = ""

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
        """What the last run found, with the question that it answers; None before the first."""
        return self._outcome

    @checked
    def run(
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

        A run that the page started ends without an answer.

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
            ModulesError: If a value does not fit, or the question does not use it, as a ``factor``
                without ``"scale"``. An error while the model runs leaves the last outcome, which
                the page marks as an earlier one. So does a stop, or another question, before there
                is an answer.
        """
        values = {
            "prompt": prompt,
            "chosen": chosen,
            "kind": kind,
            "factor": factor,
            "other_prompt": other_prompt,
            "core_size": core_size,
            "n_new_tokens": n_new_tokens,
            "control": control,
        }
        given = {name: value for name, value in values.items() if value is not None}
        question = self._session.with_changes(**given)
        check_used(question, given)
        self._session.question = question
        return self._run()

    def _run(self) -> Outcome:
        """Run all steps at once, and return what they found themselves."""
        found: Outcome | None = None
        for step in self.steps():
            found = step.outcome
        if found is None:
            raise ModulesError(
                "A run should go on until it has an answer; it was stopped, or another question "
                "replaced it. Run it again: explorer.run()."
            )
        return found

    @checked
    def merge(self, numbers: Sequence[int]) -> None:
        """Merge modules into the first of them.

        Args:
            numbers: Two modules or more.

        Raises:
            ModulesError: If there are fewer, or fewer than two modules would be left.
        """
        self._edit(lambda: self._session.merge(numbers))

    @checked
    def split(self, k: int, *, n: int | None = None, layer: int | None = None) -> None:
        """Split a module in two; the new one is the last of the set, and has no samples.

        Args:
            k: The module.
            n: It keeps the first n units of its ranking.
            layer: It keeps its units up to this layer.

        Raises:
            ModulesError: If not exactly one of ``n`` and ``layer`` is given, or one part is empty.
        """
        self._edit(lambda: self._session.split(k, n=n, layer=layer))

    @checked
    def move(self, units: _Pairs, to: int | None) -> None:
        """Move units into a module, or out of all modules.

        Args:
            units: Pairs ``(layer, unit)``.
            to: The module; None for none.

        Raises:
            ModulesError: If there is no such unit or module, or nothing to move.
        """
        self._edit(lambda: self._session.move(self._session.positions(units), to))

    @checked
    def rename(self, k: int, name: str) -> None:
        """Name a module: the name becomes its topic's label. Its own category stays.

        Args:
            k: The module.
            name: The name, which no other module has.

        Raises:
            ModulesError: If the name does not fit.
        """
        self._edit(lambda: self._session.rename(k, name))

    @checked
    def keep_core(self, k: int, n: int) -> None:
        """Take all but the first n units of a module's ranking out of it.

        Args:
            k: The module.
            n: How many units it keeps.

        Raises:
            ModulesError: If it has no more units already.
        """
        self._edit(lambda: self._session.keep_core(k, n))

    @checked
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
        self._edit(lambda: self._session.undo())

    def receive(self, message: Mapping[str, Any]) -> Iterator[Step] | None:
        """Do what the page asks for. What cannot be done is said in ``status``.

        Args:
            message: ``{"do": ...}`` with what the action needs. It is untrusted.

        Returns:
            The steps of the run that follows; None if none does, and a run in progress goes on.
        """
        try:
            then = act(self._session, message)
        except ModulesError as error:
            self._error = str(error)
            self._tell(self._progress)
            return None
        if message.get("do") not in ("pin", "stop"):
            self._error = ""  # it was of what was asked or edited before
        self._show()
        if then == "run":
            return self.steps()
        was_running = bool(self._progress["total"])
        if then == "stop":
            self._number += 1
        stopped = _progress(said="Stopped." if was_running else "")
        self._tell(stopped if then == "stop" else self._progress)
        return None

    def steps(self) -> Iterator[Step]:
        """Answer the question as it is now, step by step, and keep what is found.

        A run in progress ends before its next step, whoever started it.

        Returns:
            An iterator, which does one step for each item, and yields how far the run is.

        Raises:
            ModulesError: At a step: if the question cannot be answered.
        """
        self._number += 1
        self._error = ""
        self._tell(_progress(total=1, said="starting"))
        return self._steps(self._number, self._session.asked())

    def _steps(self, number: int, asked: Asked) -> Iterator[Step]:
        said, steps = "Stopped.", self._runner.steps(asked)
        try:
            while number == self._number:
                step = next(steps, None)
                if number != self._number:  # stopped or replaced during the step
                    break
                if step is None:
                    said = "Done."
                    break
                # Before it is shown: whoever sees it may stop the run, which is then the newer.
                self._progress = _progress(step.done, step.total, step.what)
                if step.outcome is not None and step.outcome is not self._outcome:
                    self._outcome = step.outcome
                    self._show()
                self._tell(self._progress)
                yield step
        except Exception as error:
            if number == self._number:
                is_refused = isinstance(error, ModulesError)
                said = ""
                self._error = str(error) if is_refused else f"{type(error).__name__}: {error}"
            raise
        finally:
            if number == self._number:
                self._progress = _progress(said=said)
                self._show()
                self._tell(self._progress)

    def status(self) -> dict[str, int | str]:
        """How far the run is, and the last error, until the next question or edit.

        Returns:
            ``done`` and ``total`` steps (0 without a run), ``said`` and ``error``.
        """
        return {**self._progress, "error": self._error}

    def state(self) -> dict[str, Any]:
        """What the page shows, JSON-ready."""
        return payload(self._session, self._outcome, self._about)

    def _edit(self, edit: Callable[[], object]) -> None:
        """Edit the set, and run the question again if it is then of other units."""
        then = edited(self._session, edit)
        self._error = ""
        self._show()
        if then == "run":
            self._run()
        else:
            self._tell(self._progress)

    def _tell(self, progress: dict[str, int | str]) -> None:
        """Keep how far the run is, and say it on the page, if there is one."""
        self._progress = progress
        if self._widget is not None:
            self._widget.show_status()

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

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
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


def _progress(done: int = 0, total: int = 0, said: str = "") -> dict[str, int | str]:
    return {"done": done, "total": total, "said": said}


def _has_widgets() -> bool:
    return find_spec("anywidget") is not None
