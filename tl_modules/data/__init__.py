"""Load prompts (the project's own, or a user's files) and small real models for trials.

Nothing here needs a model hub.
"""

from tl_modules.data.corpora import load_prompts
from tl_modules.data.infinity_instruct import select_abilities
from tl_modules.data.prompt_files import read_prompts
from tl_modules.data.wheel_models import load_demo_model

__all__ = ["load_demo_model", "load_prompts", "read_prompts", "select_abilities"]
