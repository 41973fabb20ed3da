"""The delta rule: what one write does, and both forms of a sequence against the steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from engram.policies import delta_rule, fwp_kernel, rows
from engram.policies.delta_rule import Write
from engram.policies.key_maps import PHIS, phi


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def random_write(*leading, keys=4, values=3):
    """Keys longer than 1 too, so that some writes overshoot."""
    torch.manual_seed(0)
    return Write(randn(*leading, keys), randn(*leading, values), torch.rand(leading, dtype=torch.float64))


def stepped(memory, write, query, starts):
    reads = []
    for t, now in enumerate(starts):
        memory = memory.masked_fill(now.view(-1, *[1] * (memory.dim() - 1)), 0)
        found, memory = delta_rule.step(memory, Write(*(x if x is None else x[t] for x in write)), query[t])
        reads.append(found)
    return torch.stack(reads), memory


# --- one write ------------------------------------------------------------------------------------------------------


def test_a_read_after_a_write():
    """At the written key (1 - g) old + g v with g = rate |k|^2; at keys orthogonal to it what was there."""
    memory, write = randn(2, 4, 3), random_write(2)
    g = (write.rate * write.key.square().sum(-1))[:, None]
    old = delta_rule.read(memory, write.key)
    found, after = delta_rule.step(memory, write, write.key)
    assert_close(found, (1 - g) * old + g * write.value)
    other = randn(2, 4)
    other -= (other * write.key).sum(-1, keepdim=True) / write.key.square().sum(-1, keepdim=True) * write.key
    assert_close(delta_rule.read(after, other), delta_rule.read(memory, other))


def test_a_rate_of_zero_writes_nothing():
    memory, write = randn(2, 4, 3), random_write(2)
    assert_close(delta_rule.step(memory, write._replace(rate=torch.zeros(2).double()), write.key)[1], memory)


@pytest.mark.parametrize("form", ["steps", "compiled", "chunks"])
def test_recall(form, monkeypatch):
    """Of d pairs under orthonormal keys, exactly; a pair written again is replaced; as do sums, until then."""
    monkeypatch.setattr(rows, "compiles", lambda *_: form == "compiled")
    form = stepped if form == "steps" else delta_rule.sequence
    d = 5
    torch.manual_seed(0)
    keys, values = torch.linalg.qr(randn(d, d))[0], randn(d + 1, 3)
    write = Write(torch.cat([keys, keys[:1]])[:, None], values[:, None], torch.ones(d + 1, 1).double())
    starts, empty = torch.zeros(d + 1, 1, dtype=torch.bool), torch.zeros(1, d, 3).double()
    _, memory = form(empty, Write(*(x[:d] for x in write)), write.key[:d], starts[:d])
    assert_close(keys @ memory[0], values[:d])
    _, summed = form(empty, Write(write.key[:d], write.value[:d], None), write.key[:d], starts[:d])
    assert_close(summed, memory)
    _, memory = form(empty, write, write.key, starts)
    assert_close(keys @ memory[0], torch.cat([values[d:], values[1:d]]))


@pytest.mark.parametrize("name", PHIS)
def test_maps(name):
    """No key is longer than 1, so that writes of nothing never let a memory grow."""
    torch.manual_seed(0)
    key = phi(5 * randn(100, 6), name)
    assert (key.norm(dim=-1) <= 1 + 1e-12).all()
    if name == "l2":
        assert_close(key.norm(dim=-1), torch.ones(100).double())
    else:
        assert (key >= 0).all()
        assert_close(key.sum(-1), torch.ones(100).double(), rtol=0, atol=1e-3 if name == "elu1-sum" else 1e-12)
    memory = randn(100, 6, 4)
    write = Write(key, torch.zeros(100, 4).double(), torch.rand(100).double())
    after = delta_rule.step(memory, write, key)[1]
    before, now = (torch.linalg.matrix_norm(m, 2) for m in (memory, after))
    assert (now <= before * (1 + 1e-12)).all()


def test_elu1_keeps_what_is_small():
    """In float32, ELU is -1 from -17 on."""
    x = torch.tensor([-40.0, -25.0, -18.0, -1.0, 0.0, 2.0])
    for shown in (x, x[:3]):
        assert_close(phi(shown, "elu1-sum").double(), phi(shown.double(), "elu1-sum"), rtol=1e-5, atol=0)


# --- sequences ------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    steps=st.integers(1, 14),
    summed=st.booleans(),
    likely=st.sampled_from([0.0, 0.1, 0.5]),
    chunk=st.sampled_from([None, 1, 4, 32]),
)
def test_sequence_is_a_loop_of_step(seed, steps, summed, likely, chunk):
    """Values and gradients, with resets, from a memory that is not zero: compiled, and over chunks of any length."""
    write = random_write(steps, 3, 2)
    torch.manual_seed(seed)
    memory, query, starts = randn(3, 2, 4, 3), randn(steps, 3, 2, 4), torch.rand(steps, 3) < likely
    leaves = [x.requires_grad_() for x in (memory, query, *write)]
    write = Write(*leaves[2:4], None if summed else leaves[4])
    expected = stepped(memory, write, query, starts)
    with pytest.MonkeyPatch.context() as patch:
        if chunk is not None:
            patch.setattr(rows, "compiles", lambda *_: False)
            patch.setattr(delta_rule, "CHUNK", chunk)
        found = delta_rule.sequence(memory, write, query, starts)
    assert_close(found, expected, rtol=1e-9, atol=1e-9)
    gradients, wanted = (
        torch.autograd.grad(reads.sin().sum() + last.sin().sum(), leaves, materialize_grads=True, allow_unused=True)
        for reads, last in (found, expected)
    )
    for gradient, other in zip(gradients, wanted, strict=True):
        assert (gradient - other).abs().max() <= 1e-9 * (1 + other.abs().max())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("leaf", ["memory", "key", "value", "rate"])
def test_nan_stays_in_its_episode(leaf, compiled, monkeypatch):
    """It is seen until the episode ends, and no longer; other rows and heads never see it."""
    monkeypatch.setattr(delta_rule, "CHUNK", 4)
    monkeypatch.setattr(rows, "compiles", lambda *_: compiled)
    write, memory, query = random_write(10, 2, 2), randn(2, 2, 4, 3), randn(10, 2, 2, 4)
    starts = torch.zeros(10, 2, dtype=torch.bool)
    starts[6, 0] = True
    expected, last = delta_rule.sequence(memory, write, query, starts)
    if leaf == "memory":
        memory[0, 1] = torch.nan
    else:
        write._asdict()[leaf][2, 0, 1] = torch.nan
    found, after = delta_rule.sequence(memory, write, query, starts)
    seen = torch.zeros(10, 2, 2, dtype=torch.bool)
    seen[0 if leaf == "memory" else 2 : 6, 0, 1] = True
    assert torch.equal(found.isnan(), seen[..., None].expand_as(found))
    assert_close(found[~seen], expected[~seen])
    assert_close(after, last)


@pytest.mark.parametrize("compiled", [False, True])
def test_reading_an_earlier_write(compiled, monkeypatch):
    """Only what later keys are orthogonal to survives: the read of a past value is a weighted sum of values."""
    monkeypatch.setattr(rows, "compiles", lambda *_: compiled)
    write = random_write(6, 1)
    query, starts = randn(6, 1, 4), torch.zeros(6, 1, dtype=torch.bool)
    zeros = torch.zeros(1, 4, 3).double()
    found, _ = delta_rule.sequence(zeros, write, query, starts)
    weights = torch.autograd.functional.jacobian(
        lambda value: delta_rule.sequence(zeros, write._replace(value=value), query, starts)[0], write.value
    )[:, 0, 0, :, 0, 0]
    assert_close(found[:, 0], weights @ write.value[:, 0])
    assert not weights.triu(1).any()


def test_where_the_compiled_sequence_does_not_compute():
    write = random_write(6, 1)
    query, memory = randn(6, 1, 4), randn(1, 4, 3)
    assert rows.compiles(memory, *write, query)
    assert rows.compiles(memory, *write._replace(rate=None), query)
    assert not rows.compiles(memory, *write, query.float())
    assert not rows.compiles(*(x.half() for x in (memory, *write, query)))
    assert not rows.compiles(memory.to("meta"), *write, query)


# --- the compiled step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("summed", [False, True])
def test_compiled_step(summed):
    """In place, in any layer of a larger tensor, and with queries that several matrices share."""
    torch.manual_seed(0)
    whole = torch.randn(3, 2, 4, 5, 6)
    memory, before = whole[:, 1], whole.clone()
    rate = None if summed else torch.rand(3, 4)
    write, query = Write(torch.randn(3, 4, 5), torch.randn(3, 4, 6), rate), torch.randn(3, 1, 5).expand(3, 4, 5)
    assert not fwp_kernel.supports(memory, write, query)  # where gradients may be wanted
    found, after = delta_rule.step(memory, write, query)
    assert torch.equal(whole, before)
    with torch.no_grad():
        assert fwp_kernel.supports(memory, write, query)
        read, same = delta_rule.step(memory, write, query)
    assert same is memory
    assert_close((read, memory), (found, after), rtol=1e-4, atol=1e-5)
    assert torch.equal(whole[:, 0], before[:, 0])


def test_where_the_compiled_step_does_not_compute():
    memory, write = torch.randn(2, 4, 3), Write(torch.randn(2, 4), torch.randn(2, 3), torch.rand(2))
    with torch.no_grad():
        assert fwp_kernel.supports(memory, write, write.key)
        assert not fwp_kernel.supports(memory.mT.contiguous().mT, write, write.key)
        wide = Write(*(x.double() for x in write))
        assert not fwp_kernel.supports(memory.double(), wide, wide.key)
