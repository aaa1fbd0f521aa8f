"""The units of a site, checked against how they are to be read."""

from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import HookedModel
from tl_modules.units import Units, site_units


def readable_units(model: HookedModel, site: str, reading: Reading) -> Units:
    """The units of a site of a model.

    Args:
        model: The model.
        site: The site; see ``collect``.
        reading: How values come about.

    Returns:
        All units of the site.

    Raises:
        ModulesError: If the model has no such site, or the reading does not apply to its units.
    """
    units = site_units(model, site)
    if reading.aggregate == "fraction_active" and max(units.spans) > 1:
        raise ModulesError(
            "aggregate='fraction_active' needs units that can be inactive; the length of a "
            "head's output is always above 0. Pass another aggregate=..., or units='attn_z'."
        )
    return units
