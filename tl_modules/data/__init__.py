"""The project's own prompts, and a small real model to try things on."""

from tl_modules.data.corpora import load_prompts
from tl_modules.data.demo_model import load_demo_model

__all__ = ["load_demo_model", "load_prompts"]
