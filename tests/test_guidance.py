"""guidance.py: what each wrapper asks of the network, how often, and what it makes of the answers."""

import pytest
import torch
from torch import nn

from lessons_lib.guidance import conditional, unconditional, with_cfg

pytestmark = pytest.mark.numeric

NULL = 3


class Recorder(nn.Module):
    """Answers 0.1 x + y, with the null label counted as 10, and notes what it is asked."""

    null_label = NULL

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.1, dtype=dtype))
        self.calls = []

    def forward(self, x_t, t, y=None):
        y = torch.full_like(t, NULL) if y is None else y
        self.calls.append((x_t.dtype, t.tolist(), y.tolist()))
        value = torch.where(y == NULL, 10, y).to(x_t.dtype)
        return self.weight * x_t + value.view(-1, 1, 1, 1)


X = torch.randn(2, 1, 2, 3, dtype=torch.float64)
T = torch.tensor([5, 6])
Y = torch.tensor([1, 2])
UNCOND = 10.0
COND = Y.view(-1, 1, 1, 1).double()


def ask(eps_fn, x=X, t=T):
    return eps_fn(x, t) - 0.1 * x


def test_unconditional_and_conditional_ask_once():
    model = Recorder(torch.float64)
    torch.testing.assert_close(ask(unconditional(model)), torch.full_like(X, UNCOND))
    torch.testing.assert_close(ask(conditional(model, Y)), COND.expand_as(X))
    assert [call[1:] for call in model.calls] == [([5, 6], [NULL, NULL]), ([5, 6], [1, 2])]


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 1.0, 2.0, 7.5])
def test_cfg_extrapolates_from_the_unconditional_prediction(w):
    # w = 2 must give 2 cond - uncond: with TeaPearce's w (ours minus 1) it would give 3 cond - 2 uncond.
    expected = UNCOND + w * (COND - UNCOND)
    torch.testing.assert_close(ask(with_cfg(Recorder(torch.float64), Y, w)), expected.expand_as(X))


@pytest.mark.parametrize(
    "w, interval, batch", [(0, None, 2), (1, None, 2), (1, (3, 4), 2), (2, None, 4), (0, (3, 4), 4)]
)
def test_cfg_asks_once_with_one_half_where_one_is_enough(w, interval, batch):
    model = Recorder()
    with_cfg(model, Y, w, interval)(X, T)
    assert [len(call[1]) for call in model.calls] == [batch]
    if batch == 4:  # both halves are one batch with their own timesteps
        assert model.calls == [(torch.float32, [5, 6, 5, 6], [NULL, NULL, 1, 2])]


def test_w_0_is_unconditional_w_1_conditional_exactly_and_an_interval_keeps_float64():
    model = Recorder()
    assert torch.equal(with_cfg(model, Y, 0.0)(X, T), unconditional(model)(X, T))
    assert torch.equal(with_cfg(model, Y, 1.0)(X, T), conditional(model, Y)(X, T))
    everywhere = (0, 999)  # through the general path the identities hold up to rounding
    torch.testing.assert_close(with_cfg(model, Y, 0.0, everywhere)(X, T), unconditional(model)(X, T))
    model = Recorder(torch.float64)
    everywhere, plain = with_cfg(model, Y, 1.1, (0, 999)), with_cfg(model, Y, 1.1)
    torch.testing.assert_close(everywhere(X, T), plain(X, T), rtol=0, atol=1e-13)
    for interval in ((5, 4), (-1, 3)):
        with pytest.raises(ValueError, match="0 <= t_low <= t_high"):
            with_cfg(Recorder(), Y, 2.0, interval)


@pytest.mark.parametrize(
    "interval, inside", [((5, 6), (1, 1)), ((5, 5), (1, 0)), ((6, 900), (0, 1)), ((0, 4), (0, 0))]
)
def test_the_interval_is_inclusive_masked_per_sample_and_conditional_outside(interval, inside):
    eps = ask(with_cfg(Recorder(torch.float64), Y, 3.0, interval))
    w = torch.tensor([3.0 if i else 1.0 for i in inside], dtype=torch.float64).view(-1, 1, 1, 1)
    torch.testing.assert_close(eps, (UNCOND + w * (COND - UNCOND)).expand_as(X))


@pytest.mark.parametrize("wrap", [unconditional, lambda m: conditional(m, Y), lambda m: with_cfg(m, Y, 2.0)])
@pytest.mark.parametrize("weights, state", [(torch.float32, torch.float64), (torch.bfloat16, torch.float32)])
def test_the_network_works_in_its_dtype_and_the_answer_comes_in_the_states(wrap, weights, state):
    model = Recorder(weights)
    assert wrap(model)(X.to(state), T).dtype == state
    assert model.calls[0][0] == weights


@pytest.mark.parametrize("wrap", [lambda m, y: conditional(m, y), lambda m, y: with_cfg(m, y, 2.0)])
def test_labels_must_be_one_a_sample(wrap):
    for y in (torch.tensor([0, 1, 2]), torch.zeros(3, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="3 labels for 2 samples"):
            wrap(Recorder(), y)(X, T)


def test_an_eps_fn_leaves_the_grad_mode_to_its_caller():
    x = X.clone().requires_grad_()
    with_cfg(Recorder(), Y, 2.0)(x, T).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.1), rtol=1e-6, atol=0)
    with torch.no_grad():
        assert not with_cfg(Recorder(), Y, 2.0)(x, T).requires_grad
