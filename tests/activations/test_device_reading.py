"""Reading on a device: the exact values nearly, in few kernels, and nothing waited for.

No GPU is needed. The path that GPUs take runs on the CPU, or on torch's meta device, which knows
shapes alone: whatever would wait for a device's numbers fails there.
"""

import itertools
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tl_modules as tlm
from tests.activations.test_odd_values import Huge
from tests.activations.test_resume import contents
from tests.conftest import WORDS
from tests.plain import Plain, digits
from tests.toy import SinkToy
from tl_modules.activations import (
    batch_runner,
    batch_values,
    chunk_runs,
    chunk_values,
    device_values,
    pieces,
)
from tl_modules.activations.aggregate import left_out, reduced
from tl_modules.activations.device_reduction import CountedTokens, token_sizes
from tl_modules.activations.interrupted import Interrupted
from tl_modules.activations.reading import AGGREGATES, Reading
from tl_modules.models.batches import batches
from tl_modules.units import site_units

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def on_device(monkeypatch):
    """Take the CPU for a device that is not waited for."""
    monkeypatch.setattr(batch_runner, "reads_on_device", lambda model: True)


@pytest.fixture
def questions():
    """Three chunks of prompts of many lengths."""
    return [" ".join(WORDS[(k * 7 + j) % 40] for j in range(k % 11 + 2)) for k in range(36)]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunk_values, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunk_values, "LEAST_PROMPTS", 13)


def on_a_device(activation, span, counted, content, aggregate):
    tokens = CountedTokens(counted, counted & content, all_count=bool(counted.all()))
    masked = tokens.masked(activation)
    sizes = token_sizes(masked, span, aggregate)
    return tokens.averaged(sizes, aggregate), tokens.sums(masked)


# Values.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("aggregate", "span"),
    # No unit of several coordinates is active.
    [
        (each, span)
        for each in AGGREGATES
        for span in (1, 4)
        if (each, span) != ("fraction_active", 4)
    ],
)
@pytest.mark.parametrize("padded", [True, False])
def test_values_and_sums_are_the_exact_ones_up_to_float32(aggregate, span, dtype, padded):
    generator = torch.Generator().manual_seed(0)
    activation = torch.randn(5, 90, 24, generator=generator).to(dtype)
    counted = torch.rand(5, 90, generator=generator) > 0.3 * padded
    content = torch.rand(5, 90, generator=generator) > 0.2
    if padded:
        activation[~counted] = torch.nan
        activation[0, ~counted[0]] = torch.inf
    left = left_out(counted, content)
    exact = reduced(activation, span, counted, left, aggregate, wide=True)
    values, sums = on_a_device(activation, span, counted, content, aggregate)
    np.testing.assert_allclose(values, exact.values, rtol=1e-5)
    sizes = activation.double().masked_fill(~counted[..., None], 0).abs().sum((0, 1))
    assert ((sums - exact.sums.sum(0)).abs() <= 5e-6 * sizes).all()
    assert sums.dtype == torch.float64


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_at_a_token_that_counts_stays_none(aggregate, bad):
    activation = torch.ones(2, 5, 4)
    activation[1, 2, 3] = bad
    every = torch.ones(2, 5, dtype=torch.bool)
    values, sums = on_a_device(activation, 1, every, every, aggregate)
    assert not torch.isfinite(values.sum() + sums.sum())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"aggregate": "max", "units": "attn_heads"},
        {"aggregate": "rms", "units": "mlp+resid", "tokens": "content"},
        {"aggregate": "fraction_active", "tokens": "last"},
        {"weight": "attribution"},
        {"weight": "activation_effect", "aggregate": "rms"},
    ],
)
def test_a_matrix_is_the_cpus_up_to_float32(model, questions, options, small_chunks, monkeypatch):
    found = []
    for is_forced in (False, True):
        monkeypatch.setattr(batch_runner, "reads_on_device", lambda model, f=is_forced: f)
        found.append(tlm.collect(model, questions, batch_size=5, progress=False, **options))
    exact, own = found
    np.testing.assert_allclose(own.values, exact.values, rtol=1e-5, atol=1e-7)
    assert own.samples.equals(exact.samples)
    largest = np.abs(exact.values).max()
    np.testing.assert_allclose(own.unit_means, exact.unit_means, atol=1e-5 * largest)
    np.testing.assert_allclose(own.content_means, exact.content_means, atol=1e-5 * largest)


def test_a_bad_prompt_is_named(on_device):
    prompts = ["1 2 3", "4 5 6", "8 9", "1 1", "7 1", "1 2"]
    with pytest.raises(tlm.ModulesError, match=r"finite; at 'blocks\.0.*sample 4 it is nan"):
        tlm.collect(Plain(bad_token=7), prompts, batch_size=2, progress=False)


def test_what_overflows_float32_is_added_up_in_float64(on_device, monkeypatch):
    prompts, runs = ["4 4 4 4 4", "4 4"], []
    exact = batch_runner.batch_values
    monkeypatch.setattr(
        batch_runner, "batch_values", lambda *args: runs.append(args) or exact(*args)
    )
    acts = tlm.collect(Huge(), prompts, aggregate="max", progress=False)
    np.testing.assert_allclose(acts.unit_means, [0.4, 0.8, 2.8e38, 4e37], rtol=1e-5)
    assert len(runs) == 1


def test_sinks_that_a_later_layer_shows_are_left_out_and_then_looked_for_first(
    on_device, monkeypatch
):
    prompts = ["1 1 1 50 1 1", "20 1 1 1", "1 1 50 1 1", "1 1 1"]
    kinds, queued = [], batch_runner.queued

    def noted(*args, sinks_first):
        kinds.append(sinks_first)
        return queued(*args, sinks_first=sinks_first)

    monkeypatch.setattr(batch_runner, "queued", noted)
    acts = tlm.collect(SinkToy(), prompts, batch_size=1, progress=False)
    np.testing.assert_allclose(acts.content_means, [0.1, 0.2, 0.7, 0.1], rtol=1e-6)
    e = (15 * 0.1 + 5.0 + 2.0 + 5.0) / 18
    np.testing.assert_allclose(acts.unit_means, np.array([1, 2, 7, 1]) * e, rtol=1e-6)
    # The first prompt runs again while the second waits, which found its sink too late as well.
    assert kinds == [False, False, True, True, True, True]


# Work: kernels, uploads, waiting.


class Counted(TorchDispatchMode):
    """Counts operators that make a new tensor, those that upload one, and those that wait."""

    waiting = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal")

    def __init__(self):
        """Nothing was counted yet."""
        super().__init__()
        self.n_made = self.n_uploads = self.n_waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count one operator. A view, and ``to`` of a tensor that is there, make nothing."""
        given = [place(part) for part in flattened(args)]
        out = func(*args, **(kwargs or {}))
        is_new = any(place(part) not in given for part in flattened([out]))
        self.n_made += is_new or func.name().endswith("_")
        to_meta = any(part.is_meta for part in flattened([out]))
        self.n_uploads += to_meta and any(not part.is_meta for part in flattened(args))
        self.n_waits += func.name().startswith(self.waiting)
        return out


def flattened(values):
    for value in values:
        if torch.is_tensor(value):
            yield value
        elif isinstance(value, list | tuple):
            yield from flattened(value)


def place(tensor):
    return tensor.untyped_storage()._cdata


def in_hooks(module, monkeypatch, run):
    """What each hook of a run does."""
    read_hooks, counts = module.read_hooks, []

    def counting(model, batch, units, take, finder=None, past=None):
        def counted(*args):
            with Counted() as count:
                take(*args)
            counts.append(count)

        read_hooks(model, batch, units, counted, finder, past)

    with monkeypatch.context() as patched:
        patched.setattr(module, "read_hooks", counting)
        run()
    return counts


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 4),
        ({"aggregate": "rms"}, 4),
        ({"aggregate": "max"}, 4),
        ({"aggregate": "fraction_active"}, 5),
        ({"units": "attn_heads"}, 5),
        ({"units": "attn_heads", "aggregate": "rms"}, 4),
    ],
)
def test_a_hook_does_at_most_five_operators_for_any_batch(
    model, questions, options, most, monkeypatch
):
    for batch_size, is_forced in itertools.product((4, 36), (True, False)):
        monkeypatch.setattr(batch_runner, "reads_on_device", lambda model, f=is_forced: f)
        run = partial(
            tlm.collect, model, questions, batch_size=batch_size, progress=False, **options
        )
        counts = in_hooks(device_values if is_forced else batch_values, monkeypatch, run)
        made = [count.n_made for count in counts]
        if not is_forced:
            assert min(made) > 2 * most  # as before, on the CPU, for the same bits in any batch
            continue
        assert max(made[1:3]) <= most  # the first hook prepares the batch's masks
        assert made[0] <= most + 4
        assert not any(count.n_waits for count in counts)


@pytest.mark.parametrize(("aggregate", "most"), [("mean", 4), ("fraction_active", 5)])
def test_no_copy_of_16_bit_activations_is_made_on_a_gpu(aggregate, most):
    every = torch.ones(2, 50, dtype=torch.bool, device="meta")
    tokens = CountedTokens(every, every, all_count=False)
    activation = torch.empty(2, 50, 24, dtype=torch.bfloat16, device="meta")
    for _ in range(2):
        with Counted() as count:
            masked = tokens.masked(activation)
            sizes, sums = token_sizes(masked, 1, aggregate), tokens.sums(masked)
    assert count.n_made == most
    assert masked.dtype == torch.bfloat16
    assert (sizes.dtype, sums.dtype) == (torch.float32, torch.float64)


def test_a_batch_without_padding_is_not_masked(model, monkeypatch, on_device):
    run = partial(tlm.collect, model, ["the cat sat"] * 5, progress=False)
    counts = in_hooks(device_values, monkeypatch, run)
    assert [count.n_made for count in counts[1:]] == [3, 3]


class Elsewhere(SinkToy):
    """The toy on a device whose numbers nobody may ask for."""

    def __init__(self):
        """Put it there."""
        super().__init__()
        self.cfg.device = "meta"


@pytest.mark.parametrize("sinks_first", [False, True])
def test_a_batch_is_queued_with_two_uploads_and_without_waiting(sinks_first):
    model, made = Elsewhere(), []
    units, reading = site_units(model, "mlp"), Reading()
    for n_tokens, n_prompts in ((5, 3), (40, 9)):
        lists = [torch.arange(n_tokens - row % 3) for row in range(n_prompts)]
        (batch,) = batches(lists, n_prompts)
        with Counted() as count:
            queued = device_values.queued(model, batch, units, reading, sinks_first=sinks_first)
        queued.copy_to(torch.empty(n_prompts, 4))
        assert count.n_uploads == 2
        made.append(count.n_made)
    assert made[0] == made[1]
    # On a CPU the values are asked for in every batch.
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        batch_values.batch_values(model, batch, units, reading)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_cuda_reports_no_waiting_while_a_batch_is_queued():
    model = SinkToy()
    model.cfg.device = "cuda"
    (batch,) = batches([torch.arange(40 - row) for row in range(9)], 9)
    options = {"units": site_units(model, "mlp"), "reading": Reading()}
    rows = chunk_runs.host_memory((9, 4), torch.float32, torch.device("cuda"))
    for mode in ("default", "error"):  # the first run loads kernels and pins memory
        torch.cuda.set_sync_debug_mode(mode)
        try:
            queued = device_values.queued(model, batch, **options, sinks_first=True)
            queued.copy_to(rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        totals = queued.totals()
    model.cfg.device = "cpu"
    exact = batch_values.batch_values(model, batch, **options)
    np.testing.assert_allclose(rows, exact.values, rtol=1e-5)
    np.testing.assert_allclose(totals.sums, exact.sums.sum(0), rtol=1e-5)
    assert totals.n_content == int(exact.n_content.sum())


def test_a_batch_is_queued_before_the_one_before_is_waited_for(
    model, questions, small_chunks, on_device, monkeypatch
):
    """Also from one chunk to the next; and the buffers of two chunks are enough."""
    order, rows, most = [], [], 0
    queued, totals = batch_runner.queued, device_values.Queued.totals
    memory = chunk_runs.host_memory

    def queue(*args, **options):
        order.append("queue")
        return queued(*args, **options)

    def wait(self):
        order.append("wait")
        return totals(self)

    def held(*args):
        nonlocal most
        found = memory(*args)
        rows.append(weakref.ref(found))
        most = max(most, sum(ref() is not None for ref in rows))
        return found

    monkeypatch.setattr(batch_runner, "queued", queue)
    monkeypatch.setattr(device_values.Queued, "totals", wait)
    monkeypatch.setattr(chunk_runs, "host_memory", held)
    tlm.collect(model, questions, batch_size=8, progress=False)
    assert order == ["queue", *["queue", "wait"] * 5, "wait"]
    assert (len(rows), most) == (3, 2)
    monkeypatch.setattr(batch_runner, "reads_on_device", lambda model: False)
    rows, most = [], 0
    tlm.collect(model, questions, batch_size=8, progress=False)
    assert (len(rows), most) == (3, 1)


def test_the_tokenizer_is_called_a_few_times_for_hundreds_of_prompts(model, questions, monkeypatch):
    calls = []
    kind = type(model.tokenizer)
    call = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda *a, **k: calls.append(a) or call(*a, **k))
    tlm.collect(model, questions * 9, progress=False)
    assert 0 < len(calls) < 30  # a few trials, and one call for the prompts


# Memory, pieces and stores.


def test_halves_and_reruns_keep_the_order(on_device, monkeypatch):
    queued = batch_runner.queued
    expected = tlm.collect(Plain(), digits(11), batch_size=1, progress=False)

    def short(model, batch, *rest, **options):
        if batch.tokens.numel() > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found = queued(model, batch, *rest, **options)
        if 4 in batch.rows:
            found._record._source[-3] = torch.inf  # as if it had overflowed
        return found

    monkeypatch.setattr(batch_runner, "queued", short)
    with pytest.warns(UserWarning, match="Memory ran out at a batch of"):
        found = tlm.collect(Plain(), digits(11), batch_size=5, progress=False)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6)
    np.testing.assert_allclose(found.unit_means, expected.unit_means, rtol=1e-6, atol=1e-7)
    assert found.samples.equals(expected.samples)


def test_an_interrupted_run_resumes_from_its_pieces(
    model, questions, on_device, monkeypatch, tmp_path
):
    prompts, options = questions * 2, {"batch_size": 6, "progress": False}
    queued, sizes = batch_runner.queued, []

    def stopping(model, batch, *rest, **options):
        if len(sizes) == 10:
            raise KeyboardInterrupt
        sizes.append(len(batch.rows))
        return queued(model, batch, *rest, **options)

    tlm.collect(model, prompts, store=tmp_path / "whole", **options)
    with monkeypatch.context() as patched:
        patched.setattr(batch_runner, "queued", stopping)
        with pytest.raises(Interrupted, match="Interrupted after 54 of 72 prompts"):
            tlm.collect(model, prompts, store=tmp_path / "acts", **options)
    assert len(list((tmp_path / "acts").glob(pieces.EVERY))) == 3
    store = tlm.collect(model, prompts, store=tmp_path / "acts", **options)
    assert contents(tmp_path / "acts") == contents(tmp_path / "whole")
    assert store.samples["row"].nunique() == 72
