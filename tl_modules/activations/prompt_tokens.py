"""Which tokens a prompt becomes, and which of them count."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Int
from jinja2 import TemplateError

from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.models.answers import answers_of, join, tokenise_with_answers, warn_merged
from tl_modules.models.hooked_model import HookedModel, check_causal, check_model
from tl_modules.models.tokens import check_context, special_ids, tokenise

_TokenLists = list[Int[torch.Tensor, " _pos"]]
_Counted = list[Bool[torch.Tensor, " _pos"]]

# Stands for the prompt where a template is looked at: a character of private use.
_STAND_IN = "\ue000"


def prompt_tokens(
    model: HookedModel, frame: pd.DataFrame, reading: Reading, max_tokens: int | None
) -> tuple[_TokenLists, _Counted]:
    """Each prompt's tokens, and which of them count.

    Args:
        model: The model.
        frame: What ``prompt_frame`` returned, with ``answer`` to read answers.
        reading: In what form prompts stand, and which tokens count.
        max_tokens: Cut prompts after so many tokens. In chat form the prompt's own text is cut,
            never the template.

    Returns:
        One tensor a prompt each.

    Raises:
        ModulesError: If a prompt has no such token, does not fit the model's context in chat form,
            the tokenizer has no chat template, or gradients of a next-token loss are asked of a
            model that is not causal.
    """
    if reading.weight == "attribution":
        check_causal(model, "weight='attribution'")
    if reading.tokens == "answer" and max_tokens is not None:
        raise ModulesError(
            "max_tokens would cut the answers off that tokens='answer' reads. Leave it out."
        )
    if reading.chat:
        return _in_chat(model, frame, reading.tokens, max_tokens)
    if reading.tokens == "answer":
        token_lists, starts = tokenise_with_answers(model, frame)
        return token_lists, [
            torch.arange(len(tokens)) >= int(start)
            for tokens, start in zip(token_lists, starts, strict=True)
        ]
    # The loss needs a token to predict.
    least = 1 if reading.weight == "activation" else 2
    token_lists = tokenise(model, frame["prompt"].tolist(), max_tokens, least)
    if reading.tokens == "content":
        return token_lists, _content(model, token_lists)
    return token_lists, [_all_or_last(len(tokens), reading.tokens) for tokens in token_lists]


def _all_or_last(length: int, tokens: str) -> Bool[torch.Tensor, " _pos"]:
    positions = torch.arange(length)
    return positions >= (length - 1 if tokens == "last" else 0)


def _content(model: HookedModel, token_lists: _TokenLists) -> _Counted:
    """All tokens but the special ones at a text's beginning and end, whoever put them there."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    special = set(getattr(tokenizer, "all_special_ids", ()))
    # These stand for a part of the text.
    special -= special_ids(tokenizer, "unk", "mask")
    special |= special_ids(tokenizer, "bos", "cls", "eos", "sep")
    found = []
    for row, tokens in enumerate(token_lists):
        own = torch.tensor([number not in special for number in tokens.tolist()])
        after_first, before_last = own.cumsum(0) > 0, own.flip(0).cumsum(0).flip(0) > 0
        found.append(after_first & before_last)
        _check_any(row, found[-1], "content")
    return found


def _check_any(row: int, counted: Bool[torch.Tensor, " _pos"], tokens: str) -> None:
    if not bool(counted.any()):
        raise ModulesError(
            f"Every prompt should hold at least one token that counts; prompt {row} has none to "
            f"read with tokens={tokens!r}. Drop it, or raise max_tokens."
        )


def _in_chat(
    model: HookedModel, frame: pd.DataFrame, tokens: str, max_tokens: int | None
) -> tuple[_TokenLists, _Counted]:
    """Each prompt as the user's turn in the tokenizer's chat template, up to the reply."""
    chat = _Chat(model)
    prompts = frame["prompt"].tolist()
    if max_tokens is not None:
        check_at_least("max_tokens", max_tokens, 1)
        prompts = [chat.cut(prompt, max_tokens) for prompt in prompts]
    # The template stands between prompt and answer: no separator does.
    answers = answers_of(frame) if tokens == "answer" else None
    token_lists, counted, merged = [], [], []
    for row, prompt in enumerate(prompts):
        numbers, content = chat.encode(row, prompt)
        chosen = content if tokens == "content" else _all_or_last(len(numbers), tokens)
        if answers is not None:
            start = len(numbers)
            numbers, apart = chat.answered(row, prompt, numbers, answers[row])
            chosen = torch.arange(len(numbers)) >= start
            merged += [row] * apart
        what, remedy = f"In chat form prompt {row} with its answer", "Shorten it."
        if answers is None:
            what = f"In chat form prompt {row}"
            remedy = "Pass max_tokens=... to cut the prompts' own text."
        check_context(model, len(numbers), what, remedy)
        _check_any(row, chosen, tokens)
        token_lists.append(numbers)
        counted.append(chosen)
    if merged and answers is not None:
        warn_merged([chat.text(row, prompt) for row, prompt in enumerate(prompts)], answers, merged)
    return token_lists, counted


class _Chat:
    """A tokenizer's chat template, and where a prompt stands in it."""

    def __init__(self, model: HookedModel) -> None:
        check_model(model)
        self._model = model
        self._tokenizer: Any = getattr(model, "tokenizer", None)
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModulesError(
                "chat=True needs a tokenizer with a chat template; the model's has none. Use an "
                "instruction-tuned model, give its tokenizer a template, or leave chat=True out."
            )
        if not getattr(self._tokenizer, "is_fast", False):
            raise ModulesError(
                "chat=True needs a fast tokenizer, which tells where each token stands in the "
                "text; the model's is a slow one. Load it with use_fast=True."
            )
        self._before, found, self._after = self._render(_STAND_IN).partition(_STAND_IN)
        if not found:
            raise ModulesError(
                "The tokenizer's chat template should hold the user's message; it leaves it out. "
                "Set model.tokenizer.chat_template to one that does."
            )

    def cut(self, prompt: str, max_tokens: int) -> str:
        """The text of its first tokens."""
        offsets = self._encode(prompt)[1]
        return prompt if len(offsets) <= max_tokens else prompt[: offsets[max_tokens - 1][1]]

    def text(self, row: int, prompt: str) -> str:
        """The prompt in the template.

        Raises:
            ModulesError: If the template puts another text around it than around others.
        """
        text = self._render(prompt)
        start, stop = len(self._before), len(text) - len(self._after)
        if not (text.startswith(self._before) and text.endswith(self._after) and start <= stop):
            raise ModulesError(
                f"The tokenizer's chat template should put the same text around every prompt; "
                f"around prompt {row} ({prompt!r}) it puts another. Set model.tokenizer."
                "chat_template to one that does not look at the text."
            )
        return text

    def encode(
        self, row: int, prompt: str
    ) -> tuple[Int[torch.Tensor, " _pos"], Bool[torch.Tensor, " _pos"]]:
        """The tokens of a prompt in the template; which are the prompt's."""
        text = self.text(row, prompt)
        start, stop = len(self._before), len(text) - len(self._after)
        numbers, offsets = self._encode(text)
        content = [first < stop and last > start for first, last in offsets]
        return torch.tensor(numbers), torch.tensor(content)

    def answered(
        self, row: int, prompt: str, numbers: Int[torch.Tensor, " _pos"], answer: str
    ) -> tuple[Int[torch.Tensor, " _longer"], bool]:
        """The tokens of a prompt in the template and its answer, as ``join`` gives them."""
        text = self.text(row, prompt)
        both = torch.tensor(self._encode(text + answer)[0])
        return join(self._model, numbers, both, (text, answer), f"prompt {row}")

    def _render(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise ModulesError(
                f"The tokenizer's chat template does not take a single user's message: {error}. "
                "Set model.tokenizer.chat_template to one that does."
            ) from error

    def _encode(self, text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        # The template holds the special tokens itself.
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found["input_ids"], found["offset_mapping"]
