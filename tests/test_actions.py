"""Distributions over actions: against torch.distributions, and against the spaces that their actions must be in."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions
from torch.testing import assert_close

from engram.policies.actions import Categorical, make_actions

T, B = 5, 4
SPACES = {
    "discrete": Discrete(5),
    "from minus one": Discrete(3, start=-1),
    "multi": MultiDiscrete([2, 5, 3], start=[0, 10, -2]),
    "matrix of choices": MultiDiscrete([[2, 3], [4, 1]]),
    "box": Box(-1, 1, (3,)),
    "one number": Box(0, 10, ()),
    "matrix": Box(np.array([[-1, 100], [0, -3]], np.float32), np.array([[1, 200], [1, 3]], np.float32)),
    "no bounds": Box(-np.inf, np.inf, (2,)),
    "some bounds": Box(np.array([-2, 0, -np.inf, -np.inf]), np.array([2, np.inf, 5, np.inf]), dtype=np.float64),
}


@pytest.fixture(params=SPACES)
def space(request):
    return SPACES[request.param]


def random_logits(actions, seed=0, scale=1.0):
    return scale * torch.randn(T, B, actions.num_logits, generator=torch.Generator().manual_seed(seed))


def reference(space, logits):
    """One torch distribution for each number of an action, and the logits' numbers it is made of."""
    if isinstance(space, Box):
        mean, log_std = logits.chunk(2, -1)
        pairs = zip(mean.unbind(-1), log_std.unbind(-1), strict=True)
        return [distributions.Normal(m, s.exp()) for m, s in pairs]
    sizes = [space.n] if isinstance(space, Discrete) else space.nvec.ravel().tolist()
    return [distributions.Categorical(logits=part) for part in logits.split([int(n) for n in sizes], -1)]


def numbers(space, action):
    """The numbers of actions in the policy's form, one by one."""
    return [action] if isinstance(space, Discrete) else action.unbind(-1)


@pytest.mark.parametrize("scale", [1, 30])
def test_log_prob_and_entropy_are_those_of_torch(space, scale):
    actions = make_actions(space)
    logits = random_logits(actions, scale=1 if isinstance(space, Box) else scale).double().requires_grad_()
    action = actions.sample(logits.detach())
    references = reference(space, logits)
    expected_log_prob = sum(d.log_prob(x) for d, x in zip(references, numbers(space, action), strict=True))
    for found, expected in (
        (actions.log_prob(logits, action), expected_log_prob),
        (actions.entropy(logits), sum(d.entropy() for d in references)),
    ):
        assert found.shape == (T, B)
        assert_close(found, expected)
        gradients = [torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (found, expected)]
        assert_close(*gradients)


def test_the_mode_is_likeliest(space):
    actions = make_actions(space)
    logits = random_logits(actions)
    best = actions.log_prob(logits, actions.mode(logits))
    for _ in range(20):
        assert (actions.log_prob(logits, actions.sample(logits)) <= best).all()


def test_the_environment_is_given_elements_of_its_space(space):
    actions = make_actions(space)
    logits = random_logits(actions, scale=3)
    for action in (actions.sample(logits), actions.mode(logits)):
        given_to_env = actions.to_env(action).numpy()
        assert given_to_env.shape == (T, B, *space.shape)
        assert given_to_env.dtype == space.dtype
        for element in given_to_env.reshape(-1, *space.shape):
            assert space.contains(element if space.shape else space.dtype.type(element)), element


def test_every_choice_can_be_drawn():
    for space in (SPACES["from minus one"], SPACES["multi"], SPACES["matrix of choices"]):
        actions = make_actions(space)
        drawn = actions.to_env(actions.sample(torch.zeros(500, actions.num_logits)))
        starts, counts = np.ravel(space.start), np.ravel(space.n if isinstance(space, Discrete) else space.nvec)
        for column, start, n in zip(drawn.reshape(500, -1).unbind(1), starts, counts, strict=True):
            assert column.unique().tolist() == list(range(int(start), int(start + n)))


@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 3))
def test_features_of_choices_are_one_hot(seed, index):
    space = [SPACES[name] for name in ("discrete", "from minus one", "multi", "matrix of choices")][index]
    actions = make_actions(space)
    space.seed(seed)
    element = space.sample()
    expected = []
    starts, counts = np.ravel(space.start), np.ravel(space.n if isinstance(space, Discrete) else space.nvec)
    for value, start, n in zip(np.ravel(element), starts, counts, strict=True):
        expected += [float(value - start == choice) for choice in range(n)]
    assert actions.encode(torch.as_tensor(np.array(element))).tolist() == expected
    assert actions.num_features == len(expected)


def test_features_of_reals_are_the_numbers_that_were_drawn():
    for name in ("box", "one number", "matrix", "some bounds"):
        actions = make_actions(SPACES[name])
        drawn = torch.rand(B, actions.num_features) / 2  # inside of all bounds
        features = actions.encode(actions.to_env(drawn))
        assert features.dtype == torch.float32
        assert_close(features, drawn)
    assert make_actions(Box(np.float32(2), np.float32(2), (1,))).encode(torch.tensor([[2.0]])).tolist() == [[0.0]]


def test_zero_is_encoded_where_it_is_no_action():
    """As what was done before an episode starts."""
    assert Categorical(3, start=1).encode(torch.tensor([0, 1, 3])).tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]


# Choices


def test_samples_follow_the_policy():
    """Pearson's statistic of 40,000 draws from each of four policies of five actions: above 30 once in 200,000."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(4, 5)
    logits[3] = 0
    draws = Categorical(5).sample(logits.expand(40_000, 4, 5), torch.Generator().manual_seed(0))
    assert draws.shape == (40_000, 4)
    assert draws.dtype == torch.int64
    counts = torch.nn.functional.one_hot(draws, 5).sum(0)
    expected = 40_000 * logits.softmax(-1)
    assert (((counts - expected) ** 2 / expected).sum(-1) < 30).all()
    joint = torch.bincount(5 * draws[:, 2] + draws[:, 3], minlength=25).view(5, 5)
    independent = counts[2, :, None] * counts[3] / 40_000
    assert ((joint - independent) ** 2 / independent).sum() < 60  # 16 degrees of freedom


def test_parts_of_a_choice_are_independent():
    actions = make_actions(MultiDiscrete([2, 3]))
    draws = actions.sample(torch.zeros(40_000, 5), torch.Generator().manual_seed(0))
    counts = torch.bincount(3 * draws[:, 0] + draws[:, 1], minlength=6)
    assert ((counts - 40_000 / 6) ** 2 / (40_000 / 6)).sum() < 30


def test_samples_come_from_the_generator(space):
    actions = make_actions(space)
    logits = random_logits(actions).repeat(10, 1, 1)
    before = torch.get_rng_state()
    first, again, other = (actions.sample(logits, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_impossible_actions_are_never_drawn():
    logits = torch.tensor([0.0, -torch.inf, 1.0])
    assert set(Categorical(3).sample(logits.expand(2000, 3)).tolist()) == {0, 2}


# Reals


def test_reals_have_the_mean_and_deviation_of_the_logits():
    actions = make_actions(Box(-1, 1, (2,)))
    mean, std = torch.tensor([3.0, -1.0]), torch.tensor([0.5, 2.0])
    draws = actions.sample(torch.cat([mean, std.log()]).expand(40_000, 4), torch.Generator().manual_seed(0))
    standard = (draws - mean) / std
    assert_close(standard.mean(0), torch.zeros(2), atol=0.03, rtol=0)
    assert_close(standard.T.cov(), torch.eye(2), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("low", "high", "drawn", "played"),
    [
        (-1, 1, [-3, -1, 0.25, 1, 7], [-1, -1, 0.25, 1, 1]),
        (-2, 2, [-3, -1, 0.25, 1, 7], [-2, -2, 0.5, 2, 2]),
        (100, 200, [-3, -1, 0, 0.5, 7], [100, 100, 150, 175, 200]),
        (0, math.inf, [-3, 0.5, 1e6], [0, 0.5, 1e6]),
        (-math.inf, 5, [-1e6, 4.5, 7], [-1e6, 4.5, 5]),
        (-math.inf, math.inf, [-1e6, 1e6], [-1e6, 1e6]),
    ],
)
def test_one_is_the_bound_and_beyond_is_the_bound(low, high, drawn, played):
    actions = make_actions(Box(low, high, (1,)))
    assert actions.to_env(torch.tensor(drawn)[:, None].float())[:, 0].tolist() == played


def test_the_deviation_is_learned_and_does_not_depend_on_the_state():
    actions = make_actions(Box(-1, 1, (3,)))
    torch.manual_seed(0)
    head = actions.head(7)
    logits = head(torch.randn(T, B, 7))
    mean, log_std = logits.chunk(2, -1)
    assert mean.shape == (T, B, 3)
    assert len(mean.unique()) == T * B * 3
    assert (log_std == 0).all()
    actions.log_prob(logits, torch.full((T, B, 3), 10.0)).sum().backward()
    assert (head.log_std.grad > 0).all(), "what was drawn lies far out"


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (MultiBinary(3), "MultiBinary(3)"),
        (Box(0, 255, (2,), np.uint8), "Box(0, 255, (2,), uint8)"),
        (Tuple([Discrete(2)]), "Tuple(Discrete(2))"),
        (Dict(move=Discrete(2)), "Dict('move': Discrete(2))"),
    ],
)
def test_what_cannot_be_drawn_is_named(space, shown):
    with pytest.raises(ValueError, match="there is no policy") as caught:
        make_actions(space)
    works = "Discrete, MultiDiscrete and Box of floats work"
    assert str(caught.value) == f"there is no policy for actions of {shown}; {works}"
