"""Each prompt's tokens, and which of them count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from jinja2 import TemplateError

from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.models.answers import answers_of, join, tokenise_with_answers, warn_merged
from tl_modules.models.content_tokens import textless_ids
from tl_modules.models.hooked_model import HookedModel, check_causal, check_model
from tl_modules.models.loss_tokens import check_answered
from tl_modules.models.tokens import check_context, tokenise

_TokenLists = list[Int[torch.Tensor, " _pos"]]

# Rendered in place of a prompt and of a system prompt, to find the text around them. No template
# holds these characters, for their meaning is left to private use.
_STAND_IN, _SYSTEM_STAND_IN = "\ue000", "\ue001"


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """Tokenised prompts, or prompts with answers, and which of their tokens count."""

    token_lists: _TokenLists
    """The tokens of each prompt, and of its answer if answers are read."""

    counted: list[Bool[torch.Tensor, " _pos"]]
    """True at each prompt's tokens that count."""

    answer_starts: Int[np.ndarray, " prompts"] | None = None
    """The position of each answer's first token, or of the separator's; None without answers."""


def prompt_tokens(
    model: HookedModel, frame: pd.DataFrame, reading: Reading, max_tokens: int | None
) -> PromptTokens:
    """Tokenise prompts as a reading asks.

    Args:
        model: The model.
        frame: What ``prompt_frame`` returned; with a column ``answer`` to read answers.
        reading: Whether prompts are in chat form, after which system prompt, which tokens count,
            and whether prompts are read with their answers.
        max_tokens: Truncate prompts to this many tokens. In chat form the prompt's own text is
            truncated, never the template or its system prompt.

    Raises:
        ModulesError: If a prompt has no token that counts or, in chat form, does not fit the
            model's context; if the tokenizer has no chat template, or one without a place for the
            system prompt; or if a reading with gradients is asked of a model that is not causal.
    """
    if reading.needs_gradients:
        check_causal(model, f"weight={reading.weight!r}")
    if reading.tokens == "answer" and max_tokens is not None:
        raise ModulesError(
            "max_tokens would cut off the answers that tokens='answer' reads. Leave max_tokens out."
        )
    check_answered(frame, reading.loss_on, max_tokens)
    if reading.chat:
        return _in_chat(model, frame, reading, max_tokens)
    if reading.reads_answers:
        token_lists, starts = tokenise_with_answers(model, frame)
        prompt_lengths = starts.tolist()
    else:
        # An attribution needs a next token whose loss it measures.
        least = 2 if reading.weight == "attribution" else 1
        token_lists = tokenise(model, frame["prompt"].tolist(), max_tokens, least)
        starts, prompt_lengths = None, [len(tokens) for tokens in token_lists]
    counted, textless = [], textless_ids(getattr(model, "tokenizer", None))
    for row, (tokens, length) in enumerate(zip(token_lists, prompt_lengths, strict=True)):
        content = _content(tokens[:length], textless) if reading.tokens == "content" else None
        counted.append(_counts(len(tokens), length, reading, content))
        _check_any(row, counted[-1], reading.tokens)
    return PromptTokens(token_lists, counted, starts)


def _counts(
    length: int,
    prompt_length: int,
    reading: Reading,
    content: Bool[torch.Tensor, " _prompt"] | None,
) -> Bool[torch.Tensor, " _pos"]:
    """Mark the tokens that count in a prompt, with its answer if answers are read.

    Args:
        length: The number of tokens.
        prompt_length: The number of tokens before the answer.
        reading: Which tokens count.
        content: The content of the prompt's tokens, if content counts. An answer is no content.
    """
    if content is not None:
        return torch.nn.functional.pad(content, (0, length - prompt_length))
    first = {"all": 0, "last": length - 1, "answer": prompt_length}[reading.tokens]
    return torch.arange(length) >= first


def _content(
    tokens: Int[torch.Tensor, " _prompt"], textless: set[int]
) -> Bool[torch.Tensor, " _prompt"]:
    """Mark all tokens between the special tokens at a prompt's beginning and end.

    It does not matter whether the tokenizer or the user wrote the special tokens.
    """
    is_text = torch.tensor([number not in textless for number in tokens.tolist()])
    # A special token inside the text counts: it has text tokens on both sides.
    return (is_text.cumsum(0) > 0) & (is_text.flip(0).cumsum(0).flip(0) > 0)


def _check_any(row: int, counted: Bool[torch.Tensor, " _pos"], tokens: str) -> None:
    """Refuse a prompt without a token that counts."""
    if not bool(counted.any()):
        raise ModulesError(
            f"Every prompt should hold at least one token that counts; prompt {row} has none to "
            f"read with tokens={tokens!r}. Drop that prompt, or raise max_tokens."
        )


def _in_chat(
    model: HookedModel, frame: pd.DataFrame, reading: Reading, max_tokens: int | None
) -> PromptTokens:
    """Put each prompt into the tokenizer's chat template as the user's turn, up to the reply."""
    chat = _Chat(model, reading.system)
    prompts = frame["prompt"].tolist()
    if max_tokens is not None:
        check_at_least("max_tokens", max_tokens, 1)
        prompts = [chat.cut(prompt, max_tokens) for prompt in prompts]
    # In chat form the template, and no separator, stands between a prompt and its answer.
    answers = answers_of(frame) if reading.reads_answers else None
    token_lists, counted, merged, starts = [], [], [], []
    for row, prompt in enumerate(prompts):
        numbers, content = chat.encode(row, prompt)
        starts.append(len(numbers))
        if answers is not None:
            numbers, is_merged = chat.answered(row, prompt, numbers, answers[row])
            merged += [row] * is_merged
        own = content if reading.tokens == "content" else None
        counts = _counts(len(numbers), starts[-1], reading, own)
        what, remedy = f"In chat form prompt {row} with its answer", "Shorten it."
        if answers is None:
            what = f"In chat form prompt {row}"
            remedy = "Pass max_tokens=... to cut the prompts' own text."
        check_context(model, len(numbers), what, remedy)
        _check_any(row, counts, reading.tokens)
        token_lists.append(numbers)
        counted.append(counts)
    if merged and answers is not None:
        rendered = [chat.rendered(row, prompt) for row, prompt in enumerate(prompts)]
        warn_merged(rendered, answers, merged)
    return PromptTokens(token_lists, counted, None if answers is None else np.array(starts))


class _Chat:
    """A tokenizer's chat template, and the text that it puts before and after a prompt.

    The system prompt is part of this text.
    """

    def __init__(self, model: HookedModel, system: str | None) -> None:
        check_model(model)
        self._model, self._system = model, system
        self._tokenizer: Any = getattr(model, "tokenizer", None)
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModulesError(
                "chat=True needs a tokenizer with a chat template; the model's has none. Use an "
                "instruction-tuned model, give its tokenizer a template, or leave chat=True out."
            )
        if not getattr(self._tokenizer, "is_fast", False):
            raise ModulesError(
                "chat=True needs a fast tokenizer, which reports each token's place in the text; "
                "the model's is a slow one. Load it with use_fast=True."
            )
        # The last one is the user's message, even if the system prompt holds the same character.
        self._before, stand_in, self._after = self._render(_STAND_IN, system).rpartition(_STAND_IN)
        if not stand_in:
            raise ModulesError(
                "The tokenizer's chat template should hold the user's message; it leaves the "
                "message out. Set model.tokenizer.chat_template to one that holds it."
            )
        # Some templates pass over a system prompt without a word.
        if system is not None and _SYSTEM_STAND_IN not in self._render(_STAND_IN, _SYSTEM_STAND_IN):
            raise ModulesError(
                "The tokenizer's chat template should hold the system prompt; it leaves the system "
                "prompt out. Leave system out, put its text into the prompts, or set "
                "model.tokenizer.chat_template to one that holds it."
            )

    def cut(self, prompt: str, max_tokens: int) -> str:
        """The text of a prompt's first tokens."""
        offsets = self._encode(prompt)[1]
        return prompt if len(offsets) <= max_tokens else prompt[: offsets[max_tokens - 1][1]]

    def rendered(self, row: int, prompt: str) -> str:
        """The prompt in the template.

        Raises:
            ModulesError: If the template puts another text around this prompt than around others.
        """
        text = self._render(prompt, self._system)
        start, stop = len(self._before), len(text) - len(self._after)
        if not (text.startswith(self._before) and text.endswith(self._after) and start <= stop):
            raise ModulesError(
                "The tokenizer's chat template should put the same text around every prompt; "
                f"around prompt {row} ({prompt!r}) it puts another text. Set model.tokenizer."
                "chat_template to one that does not depend on the prompt."
            )
        return text

    def encode(
        self, row: int, prompt: str
    ) -> tuple[Int[torch.Tensor, " _pos"], Bool[torch.Tensor, " _pos"]]:
        """The tokens of a prompt in the template, and a mask of the prompt's own tokens."""
        text = self.rendered(row, prompt)
        start, stop = len(self._before), len(text) - len(self._after)
        numbers, offsets = self._encode(text)
        # A token that holds both template and prompt counts as the prompt's.
        content = [first < stop and last > start for first, last in offsets]
        return torch.tensor(numbers), torch.tensor(content)

    def answered(
        self, row: int, prompt: str, numbers: Int[torch.Tensor, " _pos"], answer: str
    ) -> tuple[Int[torch.Tensor, " _longer"], bool]:
        """The tokens of a prompt in the template with its answer.

        Returns:
            What ``join`` returns: the tokens, and whether tokenising both texts at once would
            merge the prompt's end with the answer's beginning.
        """
        text = self.rendered(row, prompt)
        both = torch.tensor(self._encode(text + answer)[0])
        return join(self._model, numbers, both, (text, answer), f"prompt {row}")

    def _render(self, prompt: str, system: str | None) -> str:
        messages = [{"role": "user", "content": prompt}]
        asked, remedy = "a single user's message", ""
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
            asked = "a system prompt and a user's message"
            remedy = "Leave system out, put its text into the prompts, or set "
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise ModulesError(
                f"The tokenizer's chat template should take {asked}; got {error}. "
                f"{remedy or 'Set '}model.tokenizer.chat_template to one that takes it."
            ) from error

    def _encode(self, text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        # The template writes the special tokens itself.
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoded["input_ids"], encoded["offset_mapping"]
