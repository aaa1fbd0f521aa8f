"""The trained entries of a model's parameters, as one vector."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import HookedModel
from tl_modules.training.masks import NeuronRows, neuron_rows, parameters_of
from tl_modules.units import Units


@dataclass(frozen=True, eq=False)
class Entries:
    """Parts of some parameters: rows that neurons have, or all of them."""

    names: tuple[str, ...]
    """The parameters' names in ``model.named_parameters()``."""

    parameters: tuple[torch.nn.Parameter, ...]
    """One a part; one that holds several is there as often."""

    rows: tuple[tuple[NeuronRows, Int[torch.Tensor, " _chosen"]] | None, ...]
    """Of each which neurons' rows count; None for all of it."""

    @classmethod
    def of(cls, model: HookedModel, units: Units | None) -> "Entries":
        """Those of some MLP neurons, or of every parameter that requires a gradient.

        Raises:
            ModulesError: If there are none, or as ``parameter_masks`` raises.
        """
        if units is None:
            named = parameters_of(model)
            found = cls.whole(model, [name for name in named if named[name].requires_grad])
        else:
            parts = [
                (rows, torch.from_numpy(index).to(rows.parameter.device))
                for _, index, every in neuron_rows(model, units)
                for rows in every
            ]
            names = tuple(rows.name for rows, _ in parts)
            found = cls(names, tuple(rows.parameter for rows, _ in parts), tuple(parts))
        if not found.parameters:
            raise ModulesError(
                "There should be something to train; the module has no units, or no parameter "
                "requires a gradient. Choose another module, or call requires_grad_(True)."
            )
        return found

    @classmethod
    def whole(cls, model: HookedModel, names: Sequence[str]) -> "Entries":
        """All of some parameters, whether or not they require a gradient.

        Raises:
            ModulesError: If the model has none of that name.
        """
        named = parameters_of(model)
        missing = [name for name in names if name not in named]
        if missing:
            raise ModulesError(
                f"The model should have a parameter {missing[0]!r}; it has none of that name. Use "
                "the model that was trained."
            )
        return cls(tuple(names), tuple(named[name] for name in names), (None,) * len(names))

    def gather(
        self, tensors: Sequence[Float[torch.Tensor, "..."]]
    ) -> Float[torch.Tensor, " entries"]:
        """The entries of tensors that are laid out like the parameters, as a new vector.

        It lies where the first of them does: a large model may lie on several devices.
        """
        chosen = [
            tensor if part is None else part[0].of(tensor)[part[1]]
            for tensor, part in zip(tensors, self.rows, strict=True)
        ]
        return torch.cat([each.detach().flatten().to(tensors[0].device) for each in chosen])

    def write(self, vector: Float[torch.Tensor, " entries"]) -> None:
        """Put a vector in the parameters' entries.

        Raises:
            ModulesError: If its length is another.
        """
        sizes = [
            parameter.numel() if part is None else len(part[1]) * part[0].shape[1]
            for parameter, part in zip(self.parameters, self.rows, strict=True)
        ]
        if sum(sizes) != len(vector):
            raise ModulesError(
                f"The model should have {len(vector):,} such entries; it has {sum(sizes):,}. Use "
                "the model that was trained."
            )
        with torch.no_grad():
            for parameter, part, values in zip(
                self.parameters, self.rows, vector.split(sizes), strict=True
            ):
                if part is None:
                    parameter.copy_(values.view_as(parameter))
                else:
                    rows, index = part
                    view = rows.of(parameter)
                    view[index] = values.view(len(index), -1).to(view)

    def gradient(self, value: Float[torch.Tensor, ""]) -> Float[torch.Tensor, " entries"]:
        """D value / d entries; 0 where the value does not depend on one."""
        once = {id(parameter): parameter for parameter in self.parameters}
        found = torch.autograd.grad(value, list(once.values()), materialize_grads=True)
        # Laid out like the parameters, which autograd does not promise.
        by_id = {
            key: torch.empty_like(parameter).copy_(gradient)
            for (key, parameter), gradient in zip(once.items(), found, strict=True)
        }
        return self.gather([by_id[id(parameter)] for parameter in self.parameters])

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Let the parameters require a gradient, also where they were frozen."""
        frozen = [parameter for parameter in self.parameters if not parameter.requires_grad]
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
