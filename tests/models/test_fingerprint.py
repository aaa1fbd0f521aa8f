"""The checksum of a model sees every value of every tensor, wherever and however it lies."""

from types import SimpleNamespace

import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tests.saes.made import RESID, Random
from tl_modules.models import fingerprint as fingerprint_module
from tl_modules.models.fingerprint import _BLOCK, fingerprint, value_sum

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.complex64, torch.complex128),
]


def holder(**tensors):
    """A hooked model of some tensors."""
    return SimpleNamespace(
        cfg=SimpleNamespace(model_name="holder"),
        hook_dict={},
        named_parameters=lambda: list(tensors.items()),
        named_buffers=list,
        **dict.fromkeys(["run_with_cache", "run_with_hooks", "hooks", "to_tokens"], print),
    )


def by_definition(tensor):
    """Each word times its place's multiplier, one by one, in Python's integers."""
    within = fingerprint_module._multipliers(0, _BLOCK).tolist()
    of_block = fingerprint_module._multipliers(_BLOCK, 4).tolist()
    words = tensor.flatten().view(torch.int32).tolist()
    total = sum(
        word * within[place % _BLOCK] * of_block[place // _BLOCK]
        for place, word in enumerate(words)
    )
    total %= 2**64
    return total - 2**64 if total >= 2**63 else total


@pytest.mark.parametrize("shape", [(0,), (), (1,), (7, 3), (_BLOCK,), (_BLOCK + 5,), (3, _BLOCK)])
def test_the_sum_is_that_of_its_definition(shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert value_sum(tensor) == by_definition(tensor)


def test_multipliers_are_odd_and_differ():
    found = fingerprint_module._multipliers(0, 3 * _BLOCK)
    assert bool((found % 2 != 0).all())
    assert len(found.unique()) == len(found)


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_the_sum_does_not_depend_on_how_much_is_read_at_once(at_once, monkeypatch):
    tensor = torch.randn(5 * _BLOCK + 3, generator=torch.Generator().manual_seed(0))
    expected = value_sum(tensor)
    monkeypatch.setitem(fingerprint_module._AT_ONCE, "cpu", at_once * _BLOCK)
    assert value_sum(tensor) == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_value_of_every_dtype_counts(dtype):
    tensor = torch.tensor([0, 1, 1, 0, 1, 0]).to(dtype)
    found = {value_sum(tensor)}
    for place in range(len(tensor)):
        changed = tensor.clone().view(torch.uint8)
        size = tensor.element_size()
        changed[place * size + size - 1] ^= 1  # a bit of its last byte
        found.add(value_sum(changed.view(dtype)))
    assert len(found) == 1 + len(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn, torch.complex64], ids=str)
@pytest.mark.parametrize("rows", [3, _BLOCK])
def test_strides_make_no_difference(dtype, rows):
    tensor = torch.randn(rows, 5, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    for order in ((2, 0, 1), (1, 2, 0)):
        turned = tensor.permute(order)
        assert not turned.is_contiguous()
        assert value_sum(turned) == value_sum(turned.clone(memory_format=torch.contiguous_format))
    assert value_sum(tensor[::2]) == value_sum(tensor[::2].clone())


def test_orders_and_signs_of_zero_make_a_difference():
    tensor = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(40)
    rows[[3, 17]] = rows[[17, 3]]
    zeros = torch.zeros(40, 30)
    others = [tensor[rows], tensor.T.contiguous(), tensor.flip(1), -tensor, zeros, -zeros]
    assert len({value_sum(each) for each in [tensor, *others]}) == 7


def test_names_shapes_and_dtypes_count():
    one, other = torch.ones(4), torch.full((4,), 2.0)
    models = [
        holder(a=one, b=other),
        holder(a=other, b=one),
        holder(a=one, c=other),
        holder(a=one.view(2, 2), b=other),
        holder(a=one, b=other.view(torch.int32)),
        holder(a=one, b=one),
        holder(a=one),
    ]
    assert len({fingerprint(model) for model in models}) == len(models)
    assert fingerprint(holder(a=one, b=other)) == fingerprint(models[0])


def test_each_parameter_and_buffer_of_a_model_counts():
    model = tiny_model()
    before = fingerprint(model)
    assert fingerprint(tiny_model()) == before
    tensors = [each for each in (*model.parameters(), *model.buffers()) if each.numel()]
    for tensor in tensors:
        last = tensor.detach().view(-1)[-1:]
        kept = last.clone()
        last.copy_(kept == 0)  # a buffer may be infinite
        assert fingerprint(model) != before
        last.copy_(kept)
    assert fingerprint(model) == before


def test_neurons_knocked_out_in_a_down_projection_are_seen():
    # A sampled checksum of evenly spaced values sees few of a down-projection's columns.
    weight = torch.randn(576, 1536, generator=torch.Generator().manual_seed(0))
    found = {value_sum(weight)}
    for neuron in range(0, 1536, 97):
        knocked_out = weight.clone()
        knocked_out[:, neuron] = 0
        found.add(value_sum(knocked_out))
    assert len(found) == 1 + len(range(0, 1536, 97))


def test_a_model_partly_on_the_meta_device_has_a_checksum_without_values():
    meta = torch.empty(4, device="meta")
    assert fingerprint(holder(a=torch.ones(4), b=meta)) == fingerprint(
        holder(a=torch.zeros(4), b=meta)
    )
    assert fingerprint(holder(a=meta)) != fingerprint(holder(a=meta.view(2, 2)))


class Bare:
    """An SAE that is no ``torch.nn.Module``."""

    def __init__(self, sae):
        self.cfg, self.weight = sae.cfg, sae.W_enc.detach().clone()
        self.encode, self.decode = sae.encode, sae.decode


@pytest.mark.parametrize("make", [lambda sae: sae, Bare])
def test_the_values_and_numbers_of_saes_count(model, make):
    def spliced(sae):
        return fingerprint(tlm.with_saes(model, make(sae)))

    sae = Random(RESID.format(1))
    before = spliced(sae)
    assert before != fingerprint(model)
    assert spliced(Random(RESID.format(1))) == before
    assert spliced(Random(RESID.format(1), seed=1)) != before
    assert spliced(Random(RESID.format(2))) != before
    sae.cfg.k = 3
    assert spliced(sae) != before
