"""Copies to and from a GPU neither wait for it nor outrun it. A record of calls takes its place."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import torch

from tl_modules.activations import host_copies
from tl_modules.activations.host_copies import HostCopy, host_memory
from tl_modules.models.batches import uploaded


def test_a_tensor_that_is_there_is_not_copied():
    tensor = torch.ones(3)
    assert uploaded(tensor, None) is tensor
    assert uploaded(tensor, "cpu") is tensor
    assert uploaded(tensor, torch.device("meta")).is_meta


def test_cuda_gets_pinned_copies_that_are_not_waited_for(monkeypatch):
    called = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: called.append("pin") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: called.append((a, k)) or self)
    uploaded(torch.ones(3), "cuda")
    assert called == ["pin", ((torch.device("cuda"),), {"non_blocking": True})]


def test_a_copy_from_another_device_is_made_when_it_is_waited_for():
    source, target = torch.ones(3, 2), host_memory((3, 2), torch.float32, torch.device("cpu"))
    copied = HostCopy(source, target)
    source += 1
    np.testing.assert_array_equal(copied.wait(), np.full((3, 2), 2))
    source += 1
    np.testing.assert_array_equal(copied.wait(), np.full((3, 2), 2))


def test_cuda_copies_after_the_kernels_so_far_on_a_stream_of_its_own(monkeypatch):
    called = []

    def noted(name):
        return lambda *args, **kwargs: called.append((name, *args, kwargs))

    class OnCuda(torch.Tensor):
        device = torch.device("cuda")
        record_stream = noted("record_stream")

    class Pinned(torch.Tensor):
        copy_ = noted("copy_")

    event = SimpleNamespace(synchronize=noted("synchronize"))
    stream = SimpleNamespace(
        wait_stream=noted("wait_stream"), record_event=lambda: called.append("event") or event
    )
    monkeypatch.setattr(host_copies, "_beside", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"current of {device}")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    source, target = torch.ones(2).as_subclass(OnCuda), torch.ones(2).as_subclass(Pinned)
    copied = HostCopy(source, target)
    names = [call if isinstance(call, str) else call[0] for call in called]
    assert names == ["wait_stream", "copy_", "record_stream", "event"]
    assert called[0][1] == "current of cuda"
    assert called[1][2] is source
    assert called[1][3] == {"non_blocking": True}
    assert called[2][2] is stream
    assert copied._source is None  # its memory is free for the next batch
    called.clear()
    assert copied.wait() is target
    assert called == [("synchronize", {})]
