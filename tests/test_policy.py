"""Policy: what its core reads, what its heads mean, and which spaces it fits."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor
from torch.distributions import Categorical
from torch.testing import assert_close

from engram.envs import make_vec
from engram.policies import CORES, FWM, LSTM, Core, CoreOutput, Inputs, Policy, core_config, make_core, make_policy
from engram.policies.encoders import FlatEncoder, make_encoder
from engram.policies.policy import entropy, log_prob, sample

A, T, B = 3, 5, 4


class Echo(Core):
    """Gives back what it reads; its state says how far into the episode it is."""

    class State(NamedTuple):
        age: Tensor

    diagnostics = ("age",)

    def __init__(self, input_size):
        super().__init__()
        self.input_size = self.output_size = input_size

    def initial_state(self, batch_size):
        return self.State(torch.zeros(batch_size))

    def step(self, x, state, report=(), donate=False):
        return CoreOutput(x, self.State(state.age + 1), {name: state.age for name in report})


class Looking(Policy):
    """A policy whose logits are what its core reads."""

    def __init__(self, width, **choices):
        super().__init__(FlatEncoder((2,)), Echo(width), A, **choices)
        self.policy_head = torch.nn.Identity()


def random_inputs():
    """All rows start in step 0, row 1 again in step 3, row 2 in step 4."""
    torch.manual_seed(1)
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[0] = starts[3, 1] = starts[4, 2] = True
    action = torch.randint(1, A, (T, B)).masked_fill(starts, 0)
    return Inputs(torch.randn(T, B, 2), action, torch.randn(T, B).masked_fill(starts, 0), starts)


def spaces(observation_space, action_space):
    """As much of a vector environment as `make_policy` looks at."""
    return SimpleNamespace(single_observation_space=observation_space, single_action_space=action_space)


def test_core_reads_observation_action_and_reward():
    inputs, policy = random_inputs(), Looking(2 + A + 1, last_action=True, last_reward=True)
    xs = policy(inputs, policy.initial_state(B))[0].policy_logits
    assert_close(xs[..., :2], inputs.observation)
    assert_close(xs[..., -1], inputs.last_reward)
    acted = xs[..., 2:-1]
    assert not acted[inputs.episode_starts].any()  # nothing was done, which is not action 0
    real = ~inputs.episode_starts
    assert (acted[real].sum(1) == 1).all()
    assert_close(acted[real].argmax(1), inputs.last_action[real])


@pytest.mark.parametrize(("choices", "width"), [({}, 2), ({"last_action": True}, 2 + A), ({"last_reward": True}, 3)])
def test_core_reads_no_more_than_chosen(choices, width):
    policy = Looking(width, **choices)
    assert policy(random_inputs(), policy.initial_state(B))[0].policy_logits.shape == (T, B, width)


def test_core_is_reset_and_reports():
    policy = Looking(2)
    output, state = policy(random_inputs(), policy.initial_state(B), ("age",))
    expected = [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 0, 3, 3], [4, 1, 0, 4]]
    assert output.report["age"].tolist() == expected
    assert state.age.tolist() == [5, 2, 1, 5]


@pytest.mark.parametrize("name", CORES)
def test_acting_is_learning_one_step_at_a_time(name):
    inputs = random_inputs()
    torch.manual_seed(0)
    policy = Policy(FlatEncoder((2,)), make_core(name, 2 + A + 1), A, last_action=True, last_reward=True)
    with torch.no_grad():
        whole, last = policy(inputs, policy.initial_state(B))
        state, steps = policy.initial_state(B), []
        for t in range(T):
            output, state = policy(Inputs(*(leaf[t : t + 1] for leaf in inputs)), state, donate=True)
            steps.append(output)
    assert whole.policy_logits.shape == (T, B, A)
    assert whole.baseline.shape == (T, B)
    assert whole.report == {}
    assert_close(torch.cat([step.policy_logits for step in steps]), whole.policy_logits, rtol=1e-4, atol=1e-4)
    assert_close(torch.cat([step.baseline for step in steps]), whole.baseline, rtol=1e-4, atol=1e-4)
    assert_close(tuple(state), tuple(last), rtol=1e-4, atol=1e-4)


# --- the categorical policy -----------------------------------------------------------------------------------------


def test_samples_follow_the_policy():
    """Pearson's statistic of 40,000 draws from each of four policies of five actions: above 30 once in 200,000."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(4, 5)
    logits[3] = 0
    draws = sample(logits.expand(40_000, 4, 5), torch.Generator().manual_seed(0))
    assert draws.shape == (40_000, 4)
    assert draws.dtype == torch.int64
    counts = torch.nn.functional.one_hot(draws, 5).sum(0)
    expected = 40_000 * logits.softmax(-1)
    assert (((counts - expected) ** 2 / expected).sum(-1) < 30).all()
    joint = torch.bincount(5 * draws[:, 2] + draws[:, 3], minlength=25).view(5, 5)
    independent = counts[2, :, None] * counts[3] / 40_000
    assert ((joint - independent) ** 2 / independent).sum() < 60  # 16 degrees of freedom


def test_samples_come_from_the_generator():
    logits = torch.randn(50, 5)
    first, again, other = (sample(logits, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_impossible_actions_are_never_drawn():
    logits = torch.tensor([0.0, -torch.inf, 1.0])
    assert set(sample(logits.expand(2000, 3)).tolist()) == {0, 2}


@pytest.mark.parametrize("scale", [1, 100])
def test_log_prob_and_entropy(scale):
    torch.manual_seed(0)
    logits = (scale * torch.randn(T, B, A, dtype=torch.float64)).requires_grad_()
    action = torch.randint(A, (T, B))
    expected = Categorical(logits=logits)
    for found, wanted in (
        (log_prob(logits, action), expected.log_prob(action)),
        (entropy(logits), expected.entropy()),
    ):
        assert_close(found, wanted)
        gradients = [torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (found, wanted)]
        assert_close(*gradients)


# --- spaces ---------------------------------------------------------------------------------------------------------


def test_encoder_flattens():
    for shape, dtype in (((3,), np.float64), ((), np.float32), ((2,), np.uint8)):
        encoder = make_encoder(Box(0, 1, shape, dtype))
        batch = torch.from_numpy(np.ones((5, *shape), dtype))
        features = encoder(batch)
        assert features.dtype == torch.float32
        assert features.shape == (5, encoder.output_size)
        assert (features == 1).all()


@pytest.mark.parametrize(
    ("choices", "input_size"),
    [
        ({}, 17),
        ({"last_action": True}, 20),
        ({"last_reward": True}, 18),
        ({"last_action": True, "last_reward": True}, 21),
    ],
)
def test_policy_of_an_environment(choices, input_size):
    policy = make_policy(core_config("lstm"), make_vec("graph-pomdp", 2), **choices)
    assert policy.core.input_size == input_size
    assert policy.num_actions == A
    assert (policy.last_action, policy.last_reward) == ("last_action" in choices, "last_reward" in choices)
    assert isinstance(policy.core, LSTM)


def test_policy_of_the_paper():
    """The agent of Schlag et al. 2021, App. I, as their program makes it."""
    policy = make_policy(FWM.Config(), make_vec("graph-pomdp", 2))
    assert sum(parameter.numel() for parameter in policy.parameters()) == 10_933


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (
            Box(0, 1, (2,)),
            Box(-1, 1, (2,)),
            "no policy for actions of Box(-1.0, 1.0, (2,), float32); Discrete(n) works",
        ),
        (Box(0, 1, (2,)), MultiDiscrete([2, 3]), "no policy for actions of MultiDiscrete([2 3])"),
        (Box(0, 1, (2,)), Discrete(3, start=1), "no policy for actions of Discrete(3, start=1)"),
        (Box(0, 1, (8, 8)), Discrete(3), "no encoder for observations of Box(0.0, 1.0, (8, 8), float32)"),
        (Dict({"place": Box(0, 1, (2,))}), Discrete(3), "no encoder for observations of Dict('place'"),
        (MultiBinary(3), Discrete(3), "no encoder for observations of MultiBinary(3)"),
    ],
)
def test_spaces_that_no_policy_fits(observation_space, action_space, message):
    with pytest.raises(ValueError, match="there is no") as caught:
        make_policy(LSTM.Config(4), spaces(observation_space, action_space))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
