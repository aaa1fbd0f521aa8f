"""What two devices may differ in, and what not."""

import numpy as np
import pandas as pd
import torch


def check_alike(here, there, *, rtol, atol):
    """Fail unless two tables agree: everything but floats exactly, floats within rounding."""
    assert isinstance(there, pd.DataFrame)
    assert list(here.columns) == list(there.columns)
    assert len(here) == len(there)
    for column in here.select_dtypes("float"):
        values = (here[column].to_numpy(float), there[column].to_numpy(float))
        np.testing.assert_allclose(*values, rtol=rtol, atol=atol, err_msg=column)


def n_agreeing(model, here, there, *, tie):
    """How many tokens two greedy texts of one beginning share.

    Fails unless both texts' next tokens lie within ``tie`` of the model's likeliest, in logits,
    where the texts part: there rounding may choose, and anywhere else it may not. Where one text
    ends before the other, that is where they part, and the model's two likeliest count.
    """
    shared = min(len(here), len(there))
    differ = (here[:shared] != there[:shared]).nonzero().flatten().tolist()
    if not differ and len(here) == len(there):
        return len(here)
    place = differ[0] if differ else shared
    with torch.no_grad():
        logits = model(here[None, :place].to(model.cfg.device))[0, -1].float()
    likeliest = logits.topk(2)
    chosen = likeliest.indices if place == shared else torch.stack([here[place], there[place]])
    lead = float(likeliest.values[0] - logits[chosen.to(logits.device)].min())
    assert lead <= tie, f"the texts part at token {place}, where the likeliest leads by {lead:.3g}"
    return place
