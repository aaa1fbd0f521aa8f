"""The last ten formal and informal contrast prompts in other words, in the same order."""

import pandas as pd

_FORMAL = (
    "Your attendance at the celebration on the tenth of June would be a privilege for us.",
    "Admission may be denied to any individual as the directors see fit.",
    "Our records indicate that your balance has been negative for a number of weeks.",
    "Punctuality and suitable dress are required of everyone who takes part.",
    "The writer is deeply indebted to her fellow researchers for their generous support.",
    "Owing to adverse meteorological conditions, the outing will not take place.",
    "We confirm receipt of your documents, which the competent office will examine.",
    "Despite considerable obstacles, the work was concluded by the agreed date.",
    "Kindly direct any enquiries to the secretary by letter.",
    "During her years of service, the candidate proved to be highly capable.",
)
_INFORMAL = (
    "june 10th, big party, you better be there!",
    "they can kick anyone out if they feel like it, simple as that",
    "psst, you've been broke for weeks, just so you know",
    "be there on time, and please no sweatpants lol",
    "couldn't have done it without you lot, thanks a million",
    "weather's rubbish, so no trip today, sorry folks",
    "we've got your papers, hang on till someone checks them",
    "man, everything went wrong but yay, we made the deadline",
    "any questions? just shoot the secretary a message",
    "she totally rocked that job, no kidding",
)


def paraphrases() -> pd.DataFrame:
    """Return the prompts with their categories."""
    categories = ["formal"] * len(_FORMAL) + ["informal"] * len(_INFORMAL)
    return pd.DataFrame({"prompt": [*_FORMAL, *_INFORMAL], "category": categories})
