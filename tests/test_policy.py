"""Policy: what its core reads, what its heads mean, and which spaces it fits."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from torch import Tensor
from torch.testing import assert_close

from engram.envs import make_vec
from engram.policies import (
    CORES,
    FWM,
    LSTM,
    ConvLSTM,
    Core,
    CoreOutput,
    Inputs,
    Policy,
    core_config,
    make_core,
    make_policy,
)
from engram.policies.actions import Categorical, Gaussian, make_actions
from engram.policies.encoders import FlatEncoder

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
        super().__init__(FlatEncoder((2,)), Echo(width), Categorical(A), **choices)
        self.policy_head = torch.nn.Identity()


def random_inputs():
    """All rows start in step 0, row 1 again in step 3, row 2 in step 4."""
    torch.manual_seed(1)
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[0] = starts[3, 1] = starts[4, 2] = True
    action = torch.randint(1, A, (T, B)).masked_fill(starts, 0)
    return Inputs(torch.randn(T, B, 2), action, torch.randn(T, B).masked_fill(starts, 0), starts)


def spaces(observation_space, action_space, metadata=None):
    """As much of a vector environment as `make_policy` looks at."""
    return SimpleNamespace(
        single_observation_space=observation_space, single_action_space=action_space, metadata=metadata or {}
    )


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


def test_the_reward_it_reads_may_be_clamped():
    inputs, policy = random_inputs(), Looking(2 + 1, last_reward=True, reward_clip=0.5)
    assert inputs.last_reward.abs().max() > 0.5
    xs = policy(inputs, policy.initial_state(B))[0].policy_logits
    assert_close(xs[..., -1], inputs.last_reward.clamp(-0.5, 0.5))


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
    core = make_core(name, 2 + A + 1)
    policy = Policy(FlatEncoder((2,)), core, Categorical(A), last_action=True, last_reward=True)
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


# --- spaces ---------------------------------------------------------------------------------------------------------


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
    assert policy.actions.num_logits == A
    assert (policy.last_action, policy.last_reward) == ("last_action" in choices, "last_reward" in choices)
    assert isinstance(policy.core, LSTM)


def test_policy_of_the_paper():
    """The agent of Schlag et al. 2021, App. I, as their program makes it."""
    policy = make_policy(FWM.Config(), make_vec("graph-pomdp", 2))
    assert sum(parameter.numel() for parameter in policy.parameters()) == 10_933


@pytest.mark.parametrize(
    ("asked", "chosen", "read"),
    [(True, None, True), (False, None, False), (None, None, False), (True, False, False), (False, True, True)],
)
def test_an_environment_may_ask_for_the_previous_action(asked, chosen, read):
    metadata = {} if asked is None else {"needs_last_action": asked}
    policy = make_policy(LSTM.Config(4), spaces(Box(0, 1, (2,)), Box(-1, 1, (3,)), metadata), last_action=chosen)
    assert policy.last_action is read
    assert policy.core.input_size == (5 if read else 2)
    assert isinstance(policy.actions, Gaussian)


def test_the_previous_action_is_the_one_the_environment_took():
    """Its feature is the number itself, and nothing where an episode starts."""
    actions = make_actions(Box(-1, 1, (2, 2)))
    policy = Policy(FlatEncoder((2,)), Echo(6), actions, last_action=True)
    policy.policy_head = torch.nn.Identity()
    inputs = random_inputs()._replace(last_action=torch.randn(T, B, 2, 2))
    xs = policy(inputs, policy.initial_state(B))[0].policy_logits
    acted = torch.where(inputs.episode_starts[..., None], 0, inputs.last_action.flatten(2))
    assert_close(xs[..., 2:], acted)


def test_several_observations_by_name():
    """Bytes come as bytes; an LSTM reads all of them, and a step at a time is the sequence."""
    space = Dict(view=Box(0, 255, (5, 5, 3), np.uint8), place=Box(0, 1, (2,)), goal=Discrete(3))
    torch.manual_seed(0)
    policy = make_policy(LSTM.Config(4), spaces(space, MultiDiscrete([2, 3])), encoder="flat", last_action=True)
    assert policy.core.input_size == (75 + 2 + 3) + 5
    view, goal = torch.randint(256, (T, B, 5, 5, 3), dtype=torch.uint8), torch.randint(3, (T, B))
    observation = {"view": view, "place": torch.rand(T, B, 2), "goal": goal}
    inputs = random_inputs()._replace(observation=observation, last_action=torch.randint(2, (T, B, 2)))
    whole, _ = policy(inputs, policy.initial_state(B))
    state = policy.initial_state(B)
    for t in range(T):
        now = Inputs({key: leaf[t : t + 1] for key, leaf in observation.items()}, *(x[t : t + 1] for x in inputs[1:]))
        output, state = policy(now, state)
        assert_close(output.policy_logits[0], whole.policy_logits[t])
    for key, changed in (("view", 255 - view), ("place", torch.rand(T, B, 2)), ("goal", 2 - goal)):
        other, _ = policy(inputs._replace(observation=observation | {key: changed}), policy.initial_state(B))
        assert not torch.equal(other.policy_logits, whole.policy_logits), key


def test_a_convolutional_lstm_reads_the_maps_of_the_box_encoder():
    """The baseline of Santoro et al. 2018 for the view of BoxWorld: 24 maps of 5 x 5 and two of coordinates."""
    view = spaces(Box(0, 255, (6, 5, 5), np.uint8), Discrete(4))
    core = make_policy(ConvLSTM.Config(height=5, width=5), view).core
    assert sum(parameter.numel() for parameter in core.parameters()) == 92_416


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (Box(0, 1, (2,)), MultiBinary(3), "there is no policy for actions of MultiBinary(3)"),
        (Tuple([Discrete(3)]), Discrete(3), "there is no encoder for observations of Tuple(Discrete(3))"),
    ],
)
def test_spaces_that_no_policy_fits(observation_space, action_space, message):
    with pytest.raises(ValueError, match="there is no") as caught:
        make_policy(LSTM.Config(4), spaces(observation_space, action_space))
    assert message in str(caught.value)
