"""Prompts, the project's own and a user's, and small real models to try things on.

Nothing here needs a model hub.
"""

from tl_modules.data.corpora import load_prompts
from tl_modules.data.infinity_instruct import select_abilities
from tl_modules.data.prompt_files import read_prompts
from tl_modules.data.wheel_models import load_demo_model

__all__ = ["load_demo_model", "load_prompts", "read_prompts", "select_abilities"]
