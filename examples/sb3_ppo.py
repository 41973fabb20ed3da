"""PPO of Stable-Baselines3 on an environment of Engram: the id is all that it needs."""

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

ENV = "engram:engram/GraphPOMDP-v0"


def main(total_steps: int = 200_000) -> float:
    """Mean return on graphs that were not trained on."""
    envs = make_vec_env(ENV, n_envs=16, seed=0)
    model = PPO("MlpPolicy", envs, n_steps=60, batch_size=240, gamma=0.9, ent_coef=0.01, seed=0, device="cpu")
    model.learn(total_steps)
    test_envs = make_vec_env(ENV, n_envs=16, seed=1, env_kwargs={"split": "test"})
    return evaluate_policy(model, test_envs, n_eval_episodes=64, deterministic=False)[0]


if __name__ == "__main__":
    print(f"return on unseen graphs: {main():.1f}")
