"""RecurrentPPO of sb3-contrib, which remembers by an LSTM, on an environment of Engram."""

from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

ENV = "engram:engram/GraphPOMDP-v0"


def main(total_steps: int = 200_000) -> float:
    """Mean return on graphs that were not trained on."""
    envs = make_vec_env(ENV, n_envs=16, seed=0)
    options = {"lstm_hidden_size": 64}
    model = RecurrentPPO(
        "MlpLstmPolicy", envs, n_steps=60, batch_size=240, gamma=0.9, policy_kwargs=options, seed=0, device="cpu"
    )
    model.learn(total_steps)
    test_envs = make_vec_env(ENV, n_envs=16, seed=1, env_kwargs={"split": "test"})
    return evaluate_policy(model, test_envs, n_eval_episodes=64, deterministic=False)[0]


if __name__ == "__main__":
    print(f"return on unseen graphs: {main():.1f}")
