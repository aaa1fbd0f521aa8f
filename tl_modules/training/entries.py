"""Read and write the trained entries of a model's parameters as one vector."""

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
    """Parts of parameters: the rows of some neurons, or whole parameters."""

    names: tuple[str, ...]
    """The name of each part's parameter in ``model.named_parameters()``."""

    parameters: tuple[torch.nn.Parameter, ...]
    """The parameter of each part; a parameter with several parts is repeated."""

    rows: tuple[tuple[NeuronRows, Int[torch.Tensor, " _chosen"]] | None, ...]
    """The neurons' rows of each part; None for the whole parameter."""

    @classmethod
    def of(cls, model: HookedModel, units: Units | None) -> "Entries":
        """Take the entries of MLP neurons, or of every parameter that requires a gradient.

        Raises:
            ModulesError: If there are none, or as ``parameter_masks`` raises.
        """
        if units is None:
            named = parameters_of(model)
            entries = cls.whole(model, [name for name in named if named[name].requires_grad])
        else:
            parts = [
                (rows, torch.from_numpy(index).to(rows.parameter.device))
                for _, index, weights in neuron_rows(model, units)
                for rows in weights
            ]
            names = tuple(rows.name for rows, _ in parts)
            entries = cls(names, tuple(rows.parameter for rows, _ in parts), tuple(parts))
        if not entries.parameters:
            raise ModulesError(
                "Training needs at least one weight; the module has no units, or no parameter "
                "requires a gradient. Choose another module, or call requires_grad_(True)."
            )
        return entries

    @classmethod
    def whole(cls, model: HookedModel, names: Sequence[str]) -> "Entries":
        """Take whole parameters, whether or not they require a gradient.

        Raises:
            ModulesError: If the model has no parameter of a name.
        """
        named = parameters_of(model)
        missing = [name for name in names if name not in named]
        if missing:
            raise ModulesError(
                f"The model should have a parameter {missing[0]!r}; it has none. Use the model "
                "that was trained."
            )
        return cls(tuple(names), tuple(named[name] for name in names), (None,) * len(names))

    def gather(
        self, tensors: Sequence[Float[torch.Tensor, "..."]]
    ) -> Float[torch.Tensor, " entries"]:
        """Copy the entries of tensors that are laid out like the parameters into a new vector.

        The vector is on the first tensor's device: a large model may be on several devices.
        """
        parts = [
            tensor if part is None else part[0].of(tensor)[part[1]]
            for tensor, part in zip(tensors, self.rows, strict=True)
        ]
        return torch.cat([part.detach().flatten().to(tensors[0].device) for part in parts])

    def write(self, vector: Float[torch.Tensor, " entries"]) -> None:
        """Write a vector into the parameters' entries.

        Raises:
            ModulesError: If the vector's length differs from the number of entries.
        """
        # The length is checked before anything is written, so an error changes no weight.
        sizes = [
            parameter.numel() if part is None else len(part[1]) * part[0].shape[1]
            for parameter, part in zip(self.parameters, self.rows, strict=True)
        ]
        if sum(sizes) != len(vector):
            raise ModulesError(
                f"The model should have {len(vector):,} trained entries; it has {sum(sizes):,}. "
                "Use the model that was trained."
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
        """Compute d value / d entries; 0 if the value does not depend on an entry."""
        # A parameter may have several parts, but autograd should compute its gradient once.
        once = {id(parameter): parameter for parameter in self.parameters}
        gradients = torch.autograd.grad(value, list(once.values()), materialize_grads=True)
        # NeuronRows views assume the parameters' memory layout, which autograd does not promise.
        by_id = {
            key: torch.empty_like(parameter).copy_(gradient)
            for (key, parameter), gradient in zip(once.items(), gradients, strict=True)
        }
        return self.gather([by_id[id(parameter)] for parameter in self.parameters])

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Let the parameters require a gradient inside the ``with``, frozen ones too."""
        frozen = [parameter for parameter in self.parameters if not parameter.requires_grad]
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
