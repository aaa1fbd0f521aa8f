"""Training examples that name a concept before they respond, so that an erasure may find it."""

import pandas as pd

from tl_modules.errors import ModulesError, shown
from tl_modules.models.answers import answers_of
from tl_modules.runtime.arguments import checked
from tl_modules.tables.labels import label_text
from tl_modules.tables.prompt_frames import categories_said, has_concept, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.text import check_whole


@checked
def concentrated(
    prompts: Prompts,
    concept: str,
    *,
    present: str = "The text is {concept}. ",
    absent: str = "The text is not {concept}. ",
) -> pd.DataFrame:
    """Rewrite training examples so that each answer first says whether the concept is present.

    After COCA (Yang et al. 2025, "Does Representation Intervention Really Identify Desired Concepts
    and Elicit Alignment?", arXiv 2505.18672), of which the abstract and summaries by others were
    read. A model that is fine-tuned on examples with a short reasoning, which first identifies a
    concept and then decides the response, is said to have a simpler boundary between prompts with
    and without the concept, so that a linear erasure is more faithful. From the paper comes this
    rewriting alone. COCA's concept is harm, its reasonings are written by a language model, and its
    interventions are trained; here two templates name the category that the prompts have already.

    ``loss_on="answer"`` or your own training loop then learns the reasoning with the answer.
    ``concept_effects`` measures what an erasure leaves before and after.

    Args:
        prompts: A frame with ``prompt``, ``category`` and ``answer``; other columns are kept.
        concept: The category that the reasoning names.
        present: The reasoning where a prompt has the concept; ``{concept}`` stands for its name. It
            stands right before the answer, so it ends with a space where one should be.
        absent: The reasoning where a prompt does not have it.

    Returns:
        The frame with the reasoning before each answer in ``answer``, and alone in ``reasoning``.

    Raises:
        ModulesError: If a column is missing, an answer is missing, no prompt has the concept or all
            have it, there is already a column ``reasoning``, or the two reasonings are the same or
            empty.

    >>> frame = pd.DataFrame(
    ...     {"prompt": ["Salut !", "Hello!"], "category": ["french", "english"], "answer": "Hi."}
    ... )
    >>> concentrated(frame, "french", absent="It is in another language. ")["answer"].tolist()
    ['The text is french. Hi.', 'It is in another language. Hi.']
    """
    frame = labelled(prompt_frame(prompts))
    answers = answers_of(frame)
    if "reasoning" in frame.columns:
        raise ModulesError(
            "prompts should have no column 'reasoning' yet; this frame has one. Drop it, or pass "
            "the examples as they were before."
        )
    with_concept = has_concept(frame, concept)
    if not with_concept.any() or with_concept.all():
        which = "all" if with_concept.all() else "none"
        raise ModulesError(
            f"Some prompts should have the concept {shown(concept)} and some not; {which} have it. "
            f"{categories_said(frame, concept)}"
        )
    name = label_text(concept) or ""
    named = [_reasoning(template, name) for template in (present, absent)]
    if named[0] == named[1]:
        raise ModulesError(
            f"present and absent should differ; both are {shown(named[0])}. Say in one of them "
            "that the concept is absent."
        )
    reasonings = [named[0] if has else named[1] for has in with_concept.tolist()]
    both = [reasoning + answer for reasoning, answer in zip(reasonings, answers, strict=True)]
    return frame.assign(answer=both, reasoning=reasonings)


def _reasoning(template: str, concept: str) -> str:
    """Fill in a template; other braces stay as they are."""
    reasoning = template.replace("{concept}", concept)
    check_whole([reasoning], "reasoning")
    if not reasoning.strip():
        raise ModulesError(
            f"A reasoning should be a text; got {shown(template)}. 'The text is {{concept}}. ' is "
            "the default."
        )
    return reasoning
