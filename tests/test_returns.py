"""Returns against their literal sums, where episodes end and restart inside a rollout."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from engram.agents.returns import monte_carlo_returns, n_step_returns, vtrace

GAMMA = 0.9


def episodes(seed, T=12, B=5, terminate=0.2, truncate=0.1):
    """Random steps: rewards, terminated, ended (either way), mask as arrays [T, B]; each end is followed by a reset."""
    rng = np.random.default_rng(seed)
    terminated, truncated, mask = (np.zeros((T, B), bool) for _ in range(3))
    resets = rng.random(B) < 0.3  # the rollout may begin with the step that resets
    for t in range(T):
        mask[t] = ~resets
        terminated[t] = mask[t] & (rng.random(B) < terminate)
        truncated[t] = mask[t] & (rng.random(B) < truncate)
        resets = terminated[t] | truncated[t]
    return np.where(mask, rng.normal(size=(T, B)), 0), terminated, terminated | truncated, mask


def literal_sum(rewards, terminated, ended, t, b):
    """sum of gamma^k r_{t+k} to the end of the episode or rollout, and the index after its last step."""
    total, last = 0.0, t
    while True:
        total += GAMMA ** (last - t) * rewards[last, b]
        if ended[last, b] or last + 1 == len(rewards):
            return total, last + 1
        last += 1


def as_tensors(*arrays):
    return [torch.as_tensor(array) for array in arrays]


def n_step(rewards, terminated, values, mask, trace_decay=1.0):
    rewards, terminated, values, mask = as_tensors(rewards, terminated, values, mask)
    return n_step_returns(rewards, GAMMA * (~terminated).double(), values, mask, trace_decay).numpy()


def v_trace(log_rhos, rewards, terminated, values, mask, *options):
    log_rhos, rewards, terminated, values, mask = as_tensors(log_rhos, rewards, terminated, values, mask)
    return [x.numpy() for x in vtrace(log_rhos, rewards, GAMMA * (~terminated).double(), values, mask, *options)]


def monte_carlo(rewards, terminated, mask):
    rewards, terminated, mask = as_tensors(rewards, terminated, mask)
    returns, whole = monte_carlo_returns(rewards, GAMMA * (~terminated).double(), terminated, mask)
    return returns.numpy(), whole.numpy()


@given(st.integers(0, 10_000))
def test_n_step_returns_are_the_literal_sums(seed):
    rewards, terminated, ended, mask = episodes(seed)
    values = np.random.default_rng(seed + 1).normal(size=(len(rewards) + 1, rewards.shape[1]))
    returns = n_step(rewards, terminated, values, mask)
    for t, b in np.argwhere(mask):
        expected, after = literal_sum(rewards, terminated, ended, t, b)
        if not terminated[after - 1, b]:  # values[after] is of the episode's last observation if it was truncated
            expected += GAMMA ** (after - t) * values[after, b]
        np.testing.assert_allclose(returns[t, b], expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.9]))
def test_lambda_returns_are_sums_of_temporal_differences(seed, trace_decay):
    rewards, terminated, ended, mask = episodes(seed)
    values = np.random.default_rng(seed + 1).normal(size=(len(rewards) + 1, rewards.shape[1]))
    returns = n_step(rewards, terminated, values, mask, trace_decay)
    for t, b in np.argwhere(mask):
        _, after = literal_sum(rewards, terminated, ended, t, b)
        expected = values[t, b]
        for k in range(t, after):  # Schulman et al. 2016, Eq. 16
            ahead = 0 if terminated[k, b] else GAMMA * values[k + 1, b]
            expected += (GAMMA * trace_decay) ** (k - t) * (rewards[k, b] + ahead - values[k, b])
        np.testing.assert_allclose(returns[t, b], expected, rtol=1e-10, atol=1e-10)


@given(st.integers(0, 10_000))
def test_monte_carlo_returns_are_the_literal_sums_of_whole_episodes(seed):
    rewards, terminated, ended, mask = episodes(seed)
    returns, whole = monte_carlo(rewards, terminated, mask)
    for t, b in np.ndindex(mask.shape):
        expected, after = literal_sum(rewards, terminated, ended, t, b)
        assert whole[t, b] == (mask[t, b] and terminated[after - 1, b])
        if whole[t, b]:
            np.testing.assert_allclose(returns[t, b], expected, rtol=1e-12, atol=1e-12)


def test_a_truncated_episode_is_worth_its_last_observation_and_a_terminated_one_nothing():
    rewards, values = np.array([[1.0], [2.0], [0.0], [5.0]]), np.array([[7.0], [8.0], [100.0], [9.0], [1000.0]])
    mask = np.array([[True], [True], [False], [True]])  # steps 0 and 1, a reset, step 0 of the next episode
    terminated = np.array([[False], [True], [False], [False]])
    last = 5 + 0.9 * 1000
    assert n_step(rewards, terminated, values, mask)[mask].tolist() == [1 + 0.9 * 2, 2, last]  # values[2] has no part
    truncated = np.zeros_like(terminated)
    second = 2 + 0.9 * 100
    assert n_step(rewards, truncated, values, mask)[mask].tolist() == [1 + 0.9 * second, second, last]
    assert monte_carlo(rewards, truncated, mask)[1].tolist() == [[False]] * 4
    assert monte_carlo(rewards, terminated, mask)[1].tolist() == [[True], [True], [False], [False]]


def test_both_agree_where_every_episode_terminates_inside_the_rollout():
    rng = np.random.default_rng(0)
    mask = np.tile([[True], [True], [True], [False]], (3, 4))
    terminated = np.roll(~mask, -1, axis=0)
    terminated[-1] = False
    mask[-1] = True  # the rollout ends with a step that terminates
    terminated[-1] = True
    rewards, values = rng.normal(size=(12, 4)), rng.normal(size=(13, 4))
    returns, whole = monte_carlo(rewards, terminated, mask)
    assert (whole == mask).all()
    np.testing.assert_allclose(n_step(rewards, terminated, values, mask)[mask], returns[mask], rtol=1e-12)


bounds = st.sampled_from([None, 0.5, 1.0, 2.0])


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.7, 1.0]), bounds, bounds, bounds)
def test_vtrace_is_the_double_sum(seed, trace_decay, rho_bar, c_bar, pg_rho_bar):
    rewards, terminated, ended, mask = episodes(seed)
    rng = np.random.default_rng(seed + 1)
    values, log_rhos = rng.normal(size=(len(rewards) + 1, rewards.shape[1])), rng.normal(size=rewards.shape)
    vs, pg_advantages = v_trace(log_rhos, rewards, terminated, values, mask, trace_decay, rho_bar, c_bar, pg_rho_bar)

    def ratio(t, b, bound):
        return min(np.exp(log_rhos[t, b]), np.inf if bound is None else bound)

    def ahead(t, b, worth):
        return 0 if terminated[t, b] else GAMMA * worth

    expected = values.copy()  # and the values of last observations, where a step only resets, stay as they are
    for t, b in np.argwhere(mask):
        _, after = literal_sum(rewards, terminated, ended, t, b)
        for k in range(t, after):
            trace = np.prod([GAMMA * trace_decay * ratio(i, b, c_bar) for i in range(t, k)])
            error = rewards[k, b] + ahead(k, b, values[k + 1, b]) - values[k, b]
            expected[t, b] += trace * ratio(k, b, rho_bar) * error
    np.testing.assert_allclose(vs, expected[:-1], rtol=1e-10, atol=1e-10)
    for t, b in np.argwhere(mask):
        following = (1 - trace_decay) * values[t + 1, b] + trace_decay * expected[t + 1, b]
        advantage = ratio(t, b, pg_rho_bar) * (rewards[t, b] + ahead(t, b, following) - values[t, b])
        np.testing.assert_allclose(pg_advantages[t, b], advantage, rtol=1e-10, atol=1e-10)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 1.0]))
def test_vtrace_of_the_policy_that_played_is_the_n_step_return(seed, trace_decay):
    rewards, terminated, _, mask = episodes(seed)
    values = np.random.default_rng(seed + 1).normal(size=(len(rewards) + 1, rewards.shape[1]))
    vs, pg_advantages = v_trace(np.zeros_like(rewards), rewards, terminated, values, mask, trace_decay)
    returns = n_step(rewards, terminated, values, mask, trace_decay)
    np.testing.assert_allclose(vs, returns, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(pg_advantages[mask], (returns - values[:-1])[mask], rtol=1e-12, atol=1e-12)


def test_vtrace_of_the_released_program():
    with np.load(Path(__file__).parent / "golden/vtrace__A.npz") as golden:
        values = np.concatenate([golden["values"], golden["bootstrap_value"][None]])
        arguments = as_tensors(golden["log_rhos"], golden["rewards"], golden["discounts"], values)
        vs, pg_advantages = vtrace(*arguments, mask=torch.ones(golden["rewards"].shape, dtype=torch.bool))
        np.testing.assert_allclose(vs, golden["vs"], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(pg_advantages, golden["pg_advantages"], rtol=1e-12, atol=1e-12)


def test_no_gradient_reaches_the_values_or_the_ratios():
    rewards, terminated, _, mask = as_tensors(*episodes(0))
    values = torch.zeros(len(rewards) + 1, rewards.shape[1], dtype=rewards.dtype, requires_grad=True)
    log_rhos = torch.zeros_like(rewards, requires_grad=True)
    assert not n_step_returns(rewards, GAMMA * ~terminated, values, mask).requires_grad
    for result in vtrace(log_rhos, rewards, GAMMA * ~terminated, values, mask):
        assert not result.requires_grad
