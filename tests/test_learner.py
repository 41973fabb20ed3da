"""The losses of agents against their literal sums, and what a learner does with a loss."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from engram.agents import AGENTS
from engram.agents.a2c import A2C
from engram.agents.impala import IMPALA
from engram.agents.learner import Learner
from engram.agents.returns import vtrace
from engram.agents.rollout import Rollout
from engram.optim import Diverged, OptimConfig
from engram.policies import LSTM, Inputs, Policy
from engram.policies.actions import Categorical
from engram.policies.encoders import FlatEncoder, NormalizedEncoder

T, B, D, A = 7, 8, 3, 5


class Restless(LSTM):
    """An LSTM with a loss of its own: the size of its outputs."""

    aux_losses = ("size",)

    def forward(self, xs, state, episode_starts=None, report=(), donate=False):
        output = super().forward(xs, state, episode_starts, (), donate)
        return output._replace(report={name: output.ys.square().sum(-1) for name in report})


def make_policy(core=LSTM):
    torch.manual_seed(0)
    memory = core(D + A + 1, LSTM.Config(8))
    return Policy(FlatEncoder((D,)), memory, Categorical(A), last_action=True, last_reward=True).double()


def make_rollout(policy, seed=0):
    """Random steps in which episodes terminate, are truncated and restart."""
    rng = np.random.default_rng(seed)
    starts = rng.random((T + 1, B)) < 0.3
    starts[2] = False
    starts[2, 0] = True
    ends = np.roll(starts, -2, axis=0)[: T - 1] & ~starts[1:T]  # the step before a reset
    terminated = np.zeros((T, B), bool)
    terminated[: T - 1] = ends & (rng.random((T - 1, B)) < 0.5)
    real = ~starts
    inputs = Inputs(
        torch.as_tensor(rng.normal(size=(T + 1, B, D))),
        torch.as_tensor(rng.integers(A, size=(T + 1, B)) * real),
        torch.as_tensor(rng.normal(size=(T + 1, B)) * real),
        torch.as_tensor(starts),
    )
    initial_state = type(policy.initial_state(B))(*(torch.randn_like(leaf) for leaf in policy.initial_state(B)))
    action, reward = torch.as_tensor(rng.integers(A, size=(T, B))), torch.as_tensor(rng.normal(size=(T, B)) * real[1:])
    none = np.zeros(0)
    logits = torch.as_tensor(rng.normal(size=(T, B, A)))
    return Rollout(inputs, action, reward, torch.as_tensor(terminated), logits, initial_state, none, none)


def literal_parts(agent, policy, rollout):
    """Means over real steps of -log pi(a) (R - V), (R - V)^2 and the entropy, one step at a time."""
    with torch.no_grad():
        output, _ = policy(rollout.inputs, rollout.initial_state)
    logits, values = output.policy_logits.numpy(), output.baseline.numpy()
    mask, terminated, reward = (x.numpy() for x in (rollout.mask, rollout.terminated, rollout.reward))
    terms = []
    for t, b in np.argwhere(mask):
        total, scale, k, whole = 0.0, 1.0, t, False
        while k < T and mask[k, b] and not whole:
            total, scale, whole = (
                total + scale * agent.reward_scale * reward[k, b],
                scale * agent.discount,
                terminated[k, b],
            )
            k += 1
        if agent.returns == "monte-carlo" and not whole:
            continue
        target = total if whole else total + scale * values[k, b]
        p = np.exp(logits[t, b]) / np.exp(logits[t, b]).sum()
        advantage = target - values[t, b]
        terms.append((-np.log(p[rollout.action[t, b]]) * advantage, advantage**2, -(p * np.log(p)).sum()))
    assert len(terms) > 5
    return dict(zip(("policy_loss", "baseline_loss", "entropy"), np.mean(terms, axis=0), strict=True))


@pytest.mark.parametrize("returns", ["n-step", "monte-carlo"])
@pytest.mark.parametrize("seed", range(3))
def test_a2c_is_its_literal_sum(returns, seed):
    agent = A2C(discount=0.8, reward_scale=0.5, baseline_cost=0.3, entropy_cost=0.7, returns=returns)
    policy = make_policy()
    rollout = make_rollout(policy, seed)
    loss, parts = agent.loss(policy, rollout)
    expected = literal_parts(agent, policy, rollout)
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        assert float(parts[name]) == pytest.approx(value, rel=1e-6), name
        assert not parts[name].requires_grad
    total = expected["policy_loss"] + 0.3 * expected["baseline_loss"] - 0.7 * expected["entropy"]
    assert loss.item() == pytest.approx(total, rel=1e-6)


def test_impala_is_the_literal_sum_of_vtrace():
    bounds = {"rho_bar": 1.2, "c_bar": 0.9, "pg_rho_bar": 1.1}
    agent = IMPALA(discount=0.8, trace_decay=0.9, reward_clip=0.5, reward_scale=2.0, **bounds)
    policy = make_policy()
    rollout = make_rollout(policy)
    with torch.no_grad():
        output, _ = policy(rollout.inputs, rollout.initial_state)
    pi, mu, values = output.policy_logits[:-1].softmax(-1), rollout.behaviour_logits.softmax(-1), output.baseline
    log_rhos, rewards, taken = torch.zeros(T, B, dtype=values.dtype), torch.zeros_like(rollout.reward), rollout.action
    for t, b in np.ndindex(T, B):
        log_rhos[t, b] = (pi[t, b, taken[t, b]] / mu[t, b, taken[t, b]]).log()
        rewards[t, b] = 2 * max(-0.5, min(0.5, rollout.reward[t, b]))
    for bound in bounds.values():
        assert 0 < (log_rhos.exp()[rollout.mask] > bound).double().mean() < 1
    vs, advantages = vtrace(log_rhos, rewards, 0.8 * ~rollout.terminated, values, rollout.mask, 0.9, **bounds)
    terms = [
        (
            -pi[t, b, taken[t, b]].log() * advantages[t, b],
            (vs[t, b] - values[t, b]) ** 2,
            -(pi[t, b] * pi[t, b].log()).sum(),
        )
        for t, b in zip(*np.nonzero(rollout.mask.numpy()), strict=True)
    ]
    _, parts = agent.loss(policy, rollout)
    names = ("policy_loss", "baseline_loss", "entropy")
    assert parts == {name: pytest.approx(mean) for name, mean in zip(names, np.mean(terms, axis=0), strict=True)}


@pytest.mark.parametrize("trace_decay", [1.0, 0.6])
def test_impala_is_a2c_where_the_policy_itself_has_played(trace_decay):
    def learned(agent):
        policy.zero_grad()
        loss, parts = agent(discount=0.8, trace_decay=trace_decay).loss(policy, rollout)
        loss.backward()
        return [loss.detach(), *parts.values(), *(p.grad.clone() for p in policy.parameters())]

    policy = make_policy()
    rollout = make_rollout(policy)
    output, _ = policy(rollout.inputs, rollout.initial_state)
    rollout = rollout._replace(behaviour_logits=output.policy_logits[:-1].detach())
    for own, same in zip(learned(A2C), learned(IMPALA), strict=True):
        torch.testing.assert_close(own, same)


def test_lambda_returns_are_learned_from():
    policy = make_policy()
    rollout = make_rollout(policy)
    with torch.no_grad():
        values = policy(rollout.inputs, rollout.initial_state)[0].baseline
    _, parts = A2C(discount=0.8, trace_decay=0.0).loss(policy, rollout)
    errors = rollout.reward + 0.8 * ~rollout.terminated * values[1:] - values[:-1]
    assert float(parts["baseline_loss"]) == pytest.approx(errors[rollout.mask].square().mean().item())


@pytest.mark.parametrize("agent", AGENTS)
def test_the_gradient_of_the_policy_loss_does_not_reach_the_baseline(agent):
    policy = make_policy()
    loss, _ = replace(AGENTS[agent], baseline_cost=0.0).loss(policy, make_rollout(policy))
    loss.backward()
    assert policy.baseline_head.weight.grad.abs().max() == 0
    assert policy.policy_head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("agent", AGENTS)
def test_the_loss_is_the_weighted_sum_of_its_parts(agent):
    policy = make_policy()
    agent = replace(AGENTS[agent], baseline_cost=0.3, entropy_cost=0.7)
    loss, parts = agent.loss(policy, make_rollout(policy))
    total = parts["policy_loss"] + 0.3 * parts["baseline_loss"] - 0.7 * parts["entropy"]
    assert loss.item() == pytest.approx(total.item())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_sum_over_steps_is_their_number_times_their_mean(agent):
    policy = make_policy()
    rollout = make_rollout(policy)
    mean, parts = AGENTS[agent].loss(policy, rollout)
    total, same = replace(AGENTS[agent], reduction="sum").loss(policy, rollout)
    assert total.item() == pytest.approx(mean.item() * rollout.mask.sum().item())
    assert parts == same


@pytest.mark.parametrize("agent", AGENTS)
def test_rewards_are_clamped_on_both_sides(agent):
    policy = make_policy()
    rollout = make_rollout(policy)
    rewards = rollout.reward[rollout.mask]
    assert rewards.min() < -0.5 < 0.5 < rewards.max()
    clamped, _ = AGENTS[agent].loss(policy, rollout._replace(reward=rollout.reward.clip(-0.5, 0.5)))
    loss, _ = replace(AGENTS[agent], reward_clip=0.5).loss(policy, rollout)
    assert torch.equal(loss, clamped)
    assert not torch.equal(loss, AGENTS[agent].loss(policy, rollout)[0])


@pytest.mark.parametrize("agent", AGENTS)
def test_the_losses_of_a_core_are_added(agent):
    policy = make_policy(Restless)
    rollout = make_rollout(policy)
    without, _ = replace(AGENTS[agent], aux_cost=0.0).loss(policy, rollout)
    loss, parts = replace(AGENTS[agent], aux_cost=2.0).loss(policy, rollout)
    output, _ = policy(rollout.inputs, rollout.initial_state, ("size",))
    size = output.report["size"][:-1][rollout.mask].mean()
    assert float(parts["size"]) == pytest.approx(size.item())
    assert loss.item() == pytest.approx(without.item() + 2 * size.item())


@pytest.mark.parametrize("agent", [*AGENTS.values(), A2C(returns="monte-carlo")], ids=str)
def test_steps_that_only_reset_have_no_influence(agent):
    def gradient(rollout):
        policy.zero_grad()
        loss, _ = agent.loss(policy, rollout)
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in policy.parameters())]

    policy = make_policy()
    rollout = make_rollout(policy)
    assert not rollout.mask.all()
    other = rollout._replace(
        action=torch.where(rollout.mask, rollout.action, (rollout.action + 1) % A),
        reward=torch.where(rollout.mask, rollout.reward, 100.0),
        behaviour_logits=torch.where(rollout.mask[..., None], rollout.behaviour_logits, 0.0),
    )
    for own, same in zip(gradient(rollout), gradient(other), strict=True):
        assert torch.equal(own, same)
    changed = gradient(rollout._replace(reward=rollout.reward + 1))
    assert not torch.equal(gradient(rollout)[0], changed[0])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("agent", AGENTS)
def test_a_rollout_of_resets_alone_teaches_nothing(agent, reduction):
    policy = make_policy()
    rollout = make_rollout(policy)
    inputs = rollout.inputs._replace(episode_starts=torch.ones(T + 1, B, dtype=torch.bool))
    learner = Learner(policy, replace(AGENTS[agent], reduction=reduction), OptimConfig())
    before = [p.clone() for p in policy.parameters()]
    learner.check(learner.update(rollout._replace(inputs=inputs)))
    assert all(torch.equal(p, old) for p, old in zip(policy.parameters(), before, strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", (0.1, 0.1, 0.1, 0.1)), ("linear", (0.1, 0.08, 0.06, 0.02)), ("cosine", (0.1, None, 0.06, 0.02))],
)
def test_schedules(schedule, rates, optimizer):
    optim = OptimConfig(optimizer, learning_rate=0.1, schedule=schedule, final_fraction=0.2)
    policy = make_policy()
    learner = Learner(policy, A2C(), optim)
    for progress, rate in zip((0.0, 0.25, 0.5, 1.0), rates, strict=True):
        rate = 0.1 * (0.2 + 0.8 * (1 + np.sqrt(0.5)) / 2) if rate is None else rate
        assert optim.learning_rate_at(progress) == pytest.approx(rate)
        learner.update(make_rollout(policy), progress)
        groups = learner.optimizer.param_groups
        assert sum(len(group["params"]) for group in groups) == len(list(policy.parameters()))
        assert [group["lr"] for group in groups] == [pytest.approx(rate)] * len(groups)
    assert learner.updates == 4


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("parts", [1, 3, B])
def test_a_rollout_splits_into_whole_environments(parts, agent):
    policy = make_policy()
    rollout = make_rollout(policy)._replace(episode_return=np.ones(2), episode_length=np.ones(2))
    pieces = rollout.split(parts)
    assert [len(piece.action[0]) for piece in pieces] == [len(cut) for cut in np.array_split(range(B), parts)]
    for name in ("action", "reward", "terminated", "behaviour_logits", "mask"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces], 1), getattr(rollout, name)), name
    for leaf, *cut in zip(rollout.inputs, *(piece.inputs for piece in pieces), strict=True):
        assert torch.equal(torch.cat(cut, 1), leaf)
    for leaf, *cut in zip(rollout.initial_state, *(piece.initial_state for piece in pieces), strict=True):
        assert torch.equal(torch.cat(cut), leaf)
    assert np.concatenate([piece.episode_return for piece in pieces]).tolist() == [1, 1]
    weights = [piece.mask.sum() for piece in pieces]
    losses = [AGENTS[agent].loss(policy, piece)[0].item() for piece in pieces]
    whole, _ = AGENTS[agent].loss(policy, rollout)
    assert np.average(losses, weights=weights) == pytest.approx(whole.item())


def test_each_minibatch_is_an_update():
    policies = make_policy(), make_policy()
    whole, by_hand = (Learner(policy, A2C(), OptimConfig(), m) for policy, m in zip(policies, (3, 1), strict=True))
    rollout = make_rollout(policies[0])
    metrics = whole.update(rollout)
    each = [by_hand.update(piece) for piece in rollout.split(3)]
    assert whole.updates == by_hand.updates == 3
    for name, value in metrics.items():
        assert value.item() == pytest.approx(np.mean([part[name].item() for part in each])), name
    for p, q in zip(policies[0].parameters(), policies[1].parameters(), strict=True):
        assert torch.equal(p, q)


def test_observations_are_normalised_by_statistics_of_the_rollouts_before():
    policies = make_policy(), make_policy()
    policies[0].encoder = NormalizedEncoder(policies[0].encoder)
    plain, normalizing = (Learner(policy, A2C(), OptimConfig(), minibatches=2) for policy in reversed(policies))
    rollouts = [make_rollout(policies[1], seed) for seed in range(2)]
    first = [learner.update(rollouts[0])["loss"].item() for learner in (plain, normalizing)]
    assert first[0] == pytest.approx(first[1]), "there were none"
    seen = rollouts[0].inputs.observation[:-1].flatten(0, 1)  # the last ones come again as the first of the next
    encoder = policies[0].encoder
    assert encoder.count == len(seen) == T * B
    torch.testing.assert_close(encoder.mean, seen.mean(0))
    torch.testing.assert_close(encoder.variance, seen.var(0, correction=0))
    inputs = rollouts[1].inputs
    expected = inputs._replace(observation=(inputs.observation - seen.mean(0)) / seen.std(0, correction=0))
    policies[1].load_state_dict(policies[0].state_dict(), strict=False)
    other, _ = A2C().loss(policies[1], rollouts[1]._replace(inputs=expected))
    loss, _ = A2C().loss(policies[0], rollouts[1])
    assert loss.item() == pytest.approx(other.item(), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_first_step_of_an_optimizer(optimizer):
    policy = make_policy()
    before = [p.detach().clone() for p in policy.parameters()]
    learner = Learner(policy, A2C(), OptimConfig(optimizer, learning_rate=0.01, epsilon=1e-3))
    learner.update(make_rollout(policy))
    for p, old in zip(policy.parameters(), before, strict=True):
        root = p.grad.abs() * (1 if optimizer == "adam" else 0.1)  # Adam corrects its bias, RMSprop keeps 0.01 g^2
        torch.testing.assert_close(p.detach(), old - 0.01 * p.grad / (root + 1e-3))


def test_rmsprop_by_hand():
    policy = make_policy()
    learner = Learner(policy, A2C(), OptimConfig("rmsprop", 0.01, epsilon=1e-3, alpha=0.7, momentum=0.4))
    expected = [p.detach().clone() for p in policy.parameters()]
    squares, speeds = [torch.zeros_like(p) for p in expected], [torch.zeros_like(p) for p in expected]
    for seed in range(3):
        learner.update(make_rollout(policy, seed))
        for p, square, speed, updated in zip(expected, squares, speeds, policy.parameters(), strict=True):
            square.copy_(0.7 * square + 0.3 * updated.grad**2)
            speed.copy_(0.4 * speed + updated.grad / (square.sqrt() + 1e-3))
            p -= 0.01 * speed
            torch.testing.assert_close(updated.detach(), p)


def test_muon_levels_the_singular_values_of_matrices():
    """A step moves a matrix along its gradient's singular vectors, about as far along each; the rest as AdamW does."""
    policy = make_policy()
    before = [p.detach().clone() for p in policy.parameters()]
    optim = OptimConfig("muon", learning_rate=0.01, epsilon=1e-8, weight_decay=0.5)
    Learner(policy, A2C(), optim).update(make_rollout(policy))
    for p, old in zip(policy.parameters(), before, strict=True):
        moved = (1 - 0.01 * 0.5) * old - p.detach()
        if p.dim() != 2:
            torch.testing.assert_close(moved, 0.01 * p.grad.sign(), rtol=1e-3, atol=1e-6)
            continue
        scale = 0.01 * 0.2 * max(p.shape) ** 0.5  # as large as a step of AdamW
        u, s, v = torch.linalg.svd(p.grad, full_matrices=False)
        along = (u.T @ (moved / scale) @ v.T).diagonal()
        large = s > 0.02 * s[0]  # five iterations in half precision lift the larger ones
        assert large.sum() > 1 or min(p.shape) == 1
        assert ((along > 0.4) & (along < 1.4))[large].all()


@pytest.mark.parametrize("shapes", [[(3, 4), (4,), (5, 2), (2, 3, 2)], [(3, 4), (5, 2)], [(4,), (2, 3, 2)]])
def test_muon_goes_on_from_its_state(shapes):
    """Of modules with matrices and others, and with one kind alone."""
    torch.manual_seed(0)
    weights = [torch.randn(shape) for shape in shapes]
    ones, others = ([torch.nn.Parameter(w.clone()) for w in weights] for _ in range(2))
    first, second = (OptimConfig("muon", 0.1).build(parameters) for parameters in (ones, others))

    def step(optimizer, parameters, seed):
        torch.manual_seed(seed)
        for p in parameters:
            p.grad = torch.randn_like(p)
        optimizer.step()

    step(first, ones, 1)
    step(second, others, 1)
    resumed = OptimConfig("muon", 0.1).build(others)
    resumed.load_state_dict(second.state_dict())
    step(first, ones, 2)
    step(resumed, others, 2)
    for p, q in zip(ones, others, strict=True):
        assert torch.equal(p, q)
    resumed.zero_grad()
    assert all(p.grad is None for p in others)


def test_the_gradient_is_clipped_as_a_whole():
    norms = {}
    for limit in (None, 1e3, 1e-3):
        policy = make_policy()
        metrics = Learner(policy, A2C(), OptimConfig(max_grad_norm=limit)).update(make_rollout(policy))
        clipped = torch.stack([p.grad.norm() for p in policy.parameters()]).norm()
        norms[limit] = (metrics["grad_norm"].item(), clipped.item())
    free = norms[None][0]
    assert 1e-3 < free < 1e3
    assert norms == {
        None: (pytest.approx(free), pytest.approx(free)),
        1e3: (pytest.approx(free), pytest.approx(free)),
        1e-3: (pytest.approx(free), pytest.approx(1e-3, rel=1e-2)),
    }


@pytest.mark.parametrize("limit", [None, 1.0])
def test_a_loss_that_is_not_finite_names_the_parameters(limit):
    policy = make_policy()
    policy.unused = torch.nn.Linear(1, 1)
    learner = Learner(policy, A2C(), OptimConfig(max_grad_norm=limit))
    rollout = make_rollout(policy)
    learner.check(learner.update(rollout))
    with torch.no_grad():
        policy.policy_head.bias[0] = torch.inf
    metrics = learner.update(rollout)
    with pytest.raises(Diverged, match=r"^update 2: the loss is nan, .*policy_head\.bias.*--optim\.learning-rate") as e:
        learner.check(metrics)
    for sound in ("baseline_head", "unused"):
        assert sound not in str(e.value)


def test_a_reward_that_is_not_finite_is_noticed():
    policy = make_policy()
    learner = Learner(policy, A2C(), OptimConfig())
    rollout = make_rollout(policy)
    t, b = torch.nonzero(rollout.mask)[0]
    rollout.reward[t, b] = torch.nan
    with pytest.raises(Diverged, match=r"update 1: .* not finite in every parameter"):
        learner.check(learner.update(rollout))


def test_a_learner_continues_from_its_state():
    policies = make_policy(), make_policy()
    first, second = (Learner(policy, A2C(), OptimConfig()) for policy in policies)
    rollouts = [make_rollout(policies[0], seed) for seed in range(4)]
    for rollout in rollouts[:2]:
        first.update(rollout)
    second.load_state_dict(deepcopy(first.state_dict()))
    for rollout in rollouts[2:]:
        first.update(rollout)
        second.update(rollout)
    assert first.updates == second.updates == 4
    for p, q in zip(policies[0].parameters(), policies[1].parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (A2C, "discount", 1.1),
        (A2C, "discount", -0.1),
        (A2C, "trace_decay", 2.0),
        (A2C, "reward_clip", 0.0),
        (IMPALA, "discount", 2.0),
        (IMPALA, "rho_bar", 0.0),
        (IMPALA, "c_bar", -1.0),
        (IMPALA, "pg_rho_bar", float("nan")),
        (OptimConfig, "learning_rate", 0.0),
        (OptimConfig, "learning_rate", float("nan")),
        (OptimConfig, "final_fraction", 2.0),
        (OptimConfig, "max_grad_norm", -1.0),
        (OptimConfig, "alpha", 1.0),
        (OptimConfig, "momentum", -0.1),
    ],
)
def test_costs_and_rates_have_a_range(part, field, value):
    with pytest.raises(
        ValueError, match=f"^{field}={value}, but it must be .*--(agent|optim).{field.replace('_', '-')}"
    ):
        part(**{field: value})
