"""How far modules move between two runs while one of them is patched."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.causal.token_runs import Rows, check_pairs
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.interventions.copy_edits import CopyEdits
from tl_modules.interventions.replacements import Sources
from tl_modules.interventions.resident import Resident
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import FwdHooks, HookedModel, HookFn, flat
from tl_modules.models.token_arrays import TokenArray, Tokens
from tl_modules.modules.module import Module, as_list
from tl_modules.units import Units


def nodes_of_graph(model: HookedModel, modules: Iterable[Module]) -> list[Module]:
    """At least two modules of the model, each with units.

    Raises:
        ModulesError: If there are fewer, or one is of another model or has no unit.
    """
    listed = as_list(modules)
    check_at_least("the number of modules", len(listed), 2)
    for module in listed:
        module.units.check_model(model)
        if not module.n_units:
            raise ModulesError(
                f"Every module should have units; module {module.label} has none. Leave it out."
            )
    return listed


def rows_of_runs(
    model: HookedModel,
    clean_tokens: Tokens,
    corrupted_tokens: Tokens,
    attention_mask: TokenArray | None,
    batch_size: BatchSize,
) -> tuple[Rows, Rows]:
    """The clean and the corrupted prompts.

    Raises:
        ModulesError: If they are malformed or differ in shape.
    """
    clean, corrupted = (
        Rows.given(model, name, tokens, attention_mask, batch_size)
        for name, tokens in (
            ("clean_tokens", clean_tokens),
            ("corrupted_tokens", corrupted_tokens),
        )
    )
    check_pairs(clean.tokens, corrupted.tokens)
    return clean, corrupted


class PairOfRuns:
    """The two runs' activations, and hooks that read how far each module moved between them."""

    def __init__(
        self,
        modules: Sequence[Module],
        clean: Mapping[str, torch.Tensor],
        corrupted: Mapping[str, torch.Tensor],
        attention_mask: torch.Tensor | None,
    ) -> None:
        """Prepare.

        Args:
            modules: The modules.
            clean: The clean run's activations by hook point.
            corrupted: The corrupted run's.
            attention_mask: True where a token is real.
        """
        units = modules[0].units
        widths = units.coordinates().widths
        self._mask = attention_mask
        self._padding = None
        if attention_mask is not None:
            self._padding = Resident(~attention_mask.cpu()[..., None])
        self._clean, self._corrupted = (
            {
                name: flat(run[name], width)
                for name, width in zip(units.hook_names, widths, strict=True)
            }
            for run in (clean, corrupted)
        )
        members = np.zeros((sum(widths), len(modules)), dtype=np.float32)
        for place, module in enumerate(modules):
            members[module.units.coordinates().flat(), place] = 1
        parts = np.split(members, np.cumsum(widths)[:-1])
        self._members = {
            name: torch.from_numpy(part).to(self._clean[name].device)
            for name, part in zip(units.hook_names, parts, strict=True)
        }
        self._change = {
            name: self._real(self._clean[name].float() - self._corrupted[name].float())
            for name in self._members
        }
        squares: Float[torch.Tensor, "batch modules"] = torch.stack(
            [
                ((change**2).sum(1) @ self._members[name]).cpu()
                for name, change in self._change.items()
            ]
        ).sum(0)
        self.squares = squares.double().numpy()
        for squares_of, module in zip(self.squares.sum(axis=0), modules, strict=True):
            if not np.isfinite(squares_of):
                raise ModulesError(
                    f"Activations should be finite, and their squares; module {module.label}'s "
                    "are not in one of the runs. Run the model in a wider dtype (float32)."
                )
        still = np.flatnonzero(self.squares.sum(axis=0) == 0)
        if len(still):
            raise ModulesError(
                f"Every module's activations should differ between the runs; module "
                f"{modules[still[0]].label}'s do not. Leave it out, or use other prompts."
            )

    @classmethod
    def between(cls, modules: Sequence[Module], clean: Rows, corrupted: Rows) -> "PairOfRuns":
        """Run the model on both.

        Args:
            modules: The modules.
            clean: The clean prompts.
            corrupted: The corrupted ones.
        """
        names = modules[0].units.hook_names
        runs = clean.activations(names), corrupted.activations(names)
        return cls(modules, *runs, clean.attention_mask)

    def of_prompts(self, prompts: Int[np.ndarray, " prompts"]) -> "PairOfRuns":
        """The runs of some of the prompts.

        Args:
            prompts: Their rows.
        """
        found, rows = copy.copy(self), torch.from_numpy(prompts)
        found._clean, found._corrupted, found._change = (
            {name: values[rows.to(values.device)] for name, values in of.items()}
            for of in (self._clean, self._corrupted, self._change)
        )
        if self._mask is not None:
            found._mask = self._mask[rows.to(self._mask.device)]
            found._padding = Resident(~found._mask.cpu()[..., None])
        found.squares = self.squares[prompts]
        return found

    def patches(self, sets: Sequence[Units], *, direct: bool) -> "Patches":
        """Patches of sets of units from the clean run.

        Args:
            sets: The sets.
            direct: Hold all other units at the corrupted run's values.
        """
        sources = [(list(sets), self._clean)]
        if direct:
            sources.append(([units.complement() for units in sets], self._corrupted))
        edits = [
            CopyEdits(some, "patch", Sources(source=source), attention_mask=self._mask)
            for some, source in sources
        ]
        return Patches(self, edits)

    @property
    def hook_names(self) -> list[str]:
        """The hook points of the modules' units."""
        return list(self._members)

    def moved(
        self, name: str, activation: Float[torch.Tensor, "_rows pos *axes"], n_copies: int
    ) -> Float[torch.Tensor, "copies batch modules"]:
        """How far the part of each module at one hook point moved towards the clean run."""
        before = self._corrupted[name].float()
        copies = flat(activation.float(), before.shape[-1]).unflatten(0, (n_copies, -1))
        change = self._real(copies - before)
        return (change * self._change[name]).sum(2) @ self._members[name]

    def _real(
        self, change: Float[torch.Tensor, "*copies batch pos coordinates"]
    ) -> Float[torch.Tensor, "*copies batch pos coordinates"]:
        """A change, 0 at padding."""
        if self._padding is None:
            return change
        return change.masked_fill(self._padding.on(change.device), 0)


class Patches:
    """Hooks that patch sets of units, and read how far each module moved before it is patched."""

    def __init__(self, pair: PairOfRuns, edits: Sequence[CopyEdits]) -> None:
        """Keep the runs and the edits, which act one after the other."""
        self._pair = pair
        self._edits = edits
        self._passes: list[list[Float[torch.Tensor, "copies batch modules"]]] = []

    def hooks(self, first: int, last: int) -> FwdHooks:
        """Hooks of some sets for one pass, which should then be run."""
        parts: list[Float[torch.Tensor, "copies batch modules"]] = []
        self._passes.append(parts)

        def reader(name: str) -> HookFn:
            def read(activation: torch.Tensor, hook: Any = None) -> None:
                del hook
                parts.append(self._pair.moved(name, activation, last - first))

            return read

        reads: FwdHooks = [(name, reader(name)) for name in self._pair.hook_names]
        return reads + [hook for edits in self._edits for hook in edits.hooks(first, last)]

    def moved(self) -> Float[np.ndarray, "sets batch modules"]:
        """How far each module moved under each set, over the passes that were run."""
        # Read at the end, so that a GPU is not waited for at each hook point.
        sums = [torch.stack([part.cpu().double() for part in each]).sum(0) for each in self._passes]
        return torch.cat(sums).numpy()
