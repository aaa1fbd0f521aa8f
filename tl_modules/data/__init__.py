"""Prompts, the project's own and a user's, and a small real model to try things on."""

from tl_modules.data.corpora import load_prompts
from tl_modules.data.demo_model import load_demo_model
from tl_modules.data.infinity_instruct import select_abilities
from tl_modules.data.prompt_files import read_prompts

__all__ = ["load_demo_model", "load_prompts", "read_prompts", "select_abilities"]
