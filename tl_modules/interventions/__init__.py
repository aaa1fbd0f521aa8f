"""Changes of chosen units at chosen positions while a model runs.

A `Target` is anything that causal tests can intervene on.
"""

from tl_modules.interventions.attachments import attached, detach_all
from tl_modules.interventions.target import Target

__all__ = [
    "Target",
    "attached",
    "detach_all",
]
