"""Write the neurons of modules as a list that Neuronpedia takes."""

import json
from collections.abc import Iterable
from pathlib import Path

from tl_modules.errors import ModulesError
from tl_modules.modules.module import Module
from tl_modules.report.neurons import name_of, neurons_of
from tl_modules.runtime.arguments import checked
from tl_modules.saving import files


@checked
def write_neuronpedia_list(
    path: str | Path, modules: Module | Iterable[Module], *, model_id: str
) -> Path:
    """Write the neurons of modules or cores as a list of features for Neuronpedia.

    The file is a JSON array of ``{"modelId", "layer", "index", "description"}``: what Neuronpedia's
    ``POST /api/list/new-with-features`` takes as ``features`` and ``POST /api/list/add-features``
    as ``featuresToAdd`` (https://www.neuronpedia.org/api-doc), the second at most 100 at a time.
    All values are texts; the first reads ``index`` as the number that it writes. A layer's
    bare number is Neuronpedia's source of that layer's neurons; the description is the module's
    number and title. Neuronpedia shows those neurons alone that it has data on, which is so for a
    few models.

    Args:
        path: The JSON file.
        modules: A ``ModuleSet`` (``causal_cores(...).cores`` is one), some modules of one, or one.
        model_id: Neuronpedia's name of the model, such as ``"gpt2-small"``.

    Returns:
        The path of the file.

    Raises:
        ModulesError: If a unit is no neuron, modules share neurons or belong to different models,
            ``model_id`` is empty, or the file cannot be written.

    Example::

        tlm.write_neuronpedia_list("math.json", found.cores["math"], model_id="gpt2-small")
    """
    if not model_id.strip():
        raise ModulesError(
            "model_id should be Neuronpedia's name of the model; it is empty. Take it from the "
            "model's page: neuronpedia.org/gpt2-small has 'gpt2-small'."
        )
    entries = [
        {
            "modelId": model_id,
            "layer": str(layer),
            "index": str(unit),
            "description": name_of(module),
        }
        for module, neurons in neurons_of(modules)
        for layer, unit in zip(neurons["layer"], neurons["unit"], strict=True)
    ]
    files.write_bytes(path, json.dumps(entries, indent=1).encode())
    return files.checked_path(path)
