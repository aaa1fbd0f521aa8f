"""The project's own prompts, and small real models to try things on."""

from tl_modules.data.corpora import load_prompts
from tl_modules.data.wheel_models import load_demo_model

__all__ = ["load_demo_model", "load_prompts"]
