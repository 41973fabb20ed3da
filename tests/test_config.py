"""The command line, its presets, and the config in a run folder."""

import dataclasses
import io
import json

import pytest
import torch

from engram import envs
from engram.agents import AGENTS
from engram.agents.config import Config, from_json, make_config, parse, to_json
from engram.agents.presets import PRESETS, preset
from engram.command_line import ConfigError, torch_device
from engram.policies import CORES


def parsed(line):
    config, folder = parse(line.split(), envs.env_options, preset)
    assert folder is None
    return config


def equivalent(config, other):
    """Whether both describe one run; one may have the options of the environment as a dataclass and one as a dict."""
    same = dataclasses.replace(other, env=config.env) == config
    return same and all(config.env.options(split) == other.env.options(split) for split in (None, "train", "test"))


# Choices and flags


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("env", [*envs.ENVS, "CartPole-v1"])
def test_every_choice_has_a_config(env, core, agent):
    config = parsed(f"--env {env} --core {core} --agent {agent}")
    assert (config.env.name, config.core_name, config.agent_name) == (env, core, agent)
    assert type(config.core) is type(CORES[core])
    assert type(config.agent) is type(AGENTS[agent])
    assert equivalent(config, from_json(json.loads(json.dumps(to_json(config)))))


@pytest.mark.parametrize("key", PRESETS)
def test_every_preset_is_a_config(key):
    family, chosen, name = key
    env = "atari:Pong" if family == "atari" else family
    for core in CORES if chosen is None else (chosen,):
        config = parsed(f"--env {env} --core {core} --preset {name}")
        fields = preset(env, core, name)
        for part in fields.keys() - {"num_envs", "env_kwargs"}:
            assert getattr(config, part) == fields[part], part
        assert config.env.num_envs == fields.get("num_envs", config.env.num_envs)
        assert fields.get("env_kwargs", {}).items() <= config.env.options().items()
        assert equivalent(config, from_json(json.loads(json.dumps(to_json(config)))))


def test_variants_of_a_core_are_trained_alike():
    def fields(core, name):
        return preset("maze", core, name)

    assert fields("mnm", "default") == fields("mnm-p", "default")
    gradient = fields("mnm-g", "default")
    assert gradient["core"].rule == CORES["mnm-g"].rule
    assert gradient | {"core": None} == fields("mnm", "default") | {"core": None}
    assert fields("plastic", "paper") == fields("plastic-rnn", "paper") == fields("plastic-homogeneous", "paper")


def test_flags_change_the_preset():
    flags = (
        "--core.memory-size 8 --env.kwargs.num-states 7 --env.kwargs.num-levels None --optim.max-grad-norm 0.5"
        " --agent.returns monte-carlo --policy.last-reward --seed 4 --folder here"
    )
    config, default = parsed(f"--env graph-pomdp --core fwm {flags}"), parsed("--env graph-pomdp --core fwm")
    expected = to_json(default)
    expected["core"]["memory_size"] = 8
    expected["env"]["kwargs"] |= {"num_states": 7, "num_levels": None}
    expected["optim"]["max_grad_norm"] = 0.5
    expected["agent"]["returns"] = "monte-carlo"
    expected["policy"]["last_reward"] = True
    expected |= {"seed": 4, "folder": "here"}
    assert to_json(config) == expected
    assert equivalent(config, from_json(json.loads(json.dumps(to_json(config)))))


def test_a_split_replaces_that_of_the_options_where_there_are_splits():
    graphs, cartpole = parsed("--env graph-pomdp --env.kwargs.split valid"), parsed("--env CartPole-v1")
    assert graphs.env.options()["split"] == "valid"
    assert graphs.env.options("test") == graphs.env.options() | {"split": "test"}
    assert cartpole.env.options() == cartpole.env.options("test") == {}


@pytest.mark.parametrize("resume", ["--resume runs/a", "--resume=runs/a"])
@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        ("", {}),
        ("--total-steps 20_000", {"total_steps": 20_000}),
        ("--device=cpu --total-steps=9", {"device": "cpu", "total_steps": 9}),
    ],
)
def test_length_and_device_may_change_on_resume(resume, flags, changes):
    for line in (f"{resume} {flags}", f"{flags} {resume}"):
        assert parse(line.split(), envs.env_options, preset) == (None, ("runs/a", changes))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        *((flag, f"drop {flag}") for flag in ("--seed 1", "--core lstm", "--preset default", "extra", "--help")),
        ("--env=graph-pomdp", "drop --env graph-pomdp"),
        ("--total-steps 5 --optim.learning-rate 1e-3", "drop --optim.learning-rate 1e-3"),
        ("--total-steps 5 --env maze --seed 1", "drop --env maze --seed 1"),
    ],
)
def test_nothing_else_may(flags, said):
    for line in (f"--resume=runs/a {flags}", f"{flags} --resume runs/a"):
        with pytest.raises(ConfigError) as caught:
            parse(line.split(), envs.env_options, preset)
        what = "--resume runs/a continues that run with its own config, but for --total-steps and --device; "
        assert str(caught.value) == what + said


# Wrong choices and flags


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--core fmw", "no core is called 'fmw', did you mean 'fwm'.*; choose from "),
        ("--agent a3c", "no agent is called 'a3c', did you mean 'a2c'.*; choose from a2c"),
        ("--core ?", r"no core is called '\?'; choose from"),
        ("--core=", "no core is called ''; choose from"),
        ("--preset papers", "graph-pomdp with fwm has no preset 'papers'; choose from .*default.*paper"),
        ("--env CartPole-v1 --preset paper", "CartPole-v1 with fwm has no preset 'paper'; choose from default$"),
    ],
)
def test_an_unknown_choice_is_answered_with_the_choices(line, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parsed(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--core.memory-sise 8", "--core.memory-size"),
        ("--env.num-env 8", "--env.num-envs"),
        ("--sed 1", "--seed"),
        ("--core lstm --core.memory-size 8", "--core.memory-size"),
        ("--env CartPole-v1 --env.kwargs.num-states", "--env.kwargs.num-states needs a value"),
        ("--env CartPole-v1 --env.kwargs.num-states --seed 3", "--env.kwargs.num-states needs a value"),
        ("--seed first", "--seed: invalid literal for int() with base 10: 'first'"),
        ("--env.kwargs.split trial", "'train', 'test', 'valid'"),
        ("--agent.returns all", "n-step"),
        ("--unroll-length 0", "--unroll-length"),
        ("--total-steps -5", "--total-steps"),
        ("--eval-interval 0", "--eval-interval"),
        ("--eval-episodes 0", "--eval-episodes"),
        ("--log-interval 0", "--log-interval"),
        ("--env.num-envs 0", "--env.num-envs"),
        ("--seed -1", "--seed"),
        (f"--seed {2**31}", "--seed"),
        ("--optim.epsilon -1", "epsilon=-1.0, but it must be at least 0 (--optim.epsilon)"),
        ("--policy.reward-clip 0", "--policy.reward-clip"),
        ("--core.memory-size 0", "--core: FWM.Config: memory_size=0"),
        ("--agent.discount 99", "--agent.discount"),
        ("--agent.entropy-cost nan", "entropy_cost=nan, but it must be finite (--agent.entropy-cost)"),
        ("--agent sb3-ppo --agent.learning-rate inf", "--agent.learning-rate"),
        ("--agent sb3-ppo --agent.vf-coef nan", "--agent.vf-coef"),
        ("--optim.max-grad-norm 0", "--optim.max-grad-norm"),
        ("--env.num-envs 4 --minibatches 5", "--minibatches"),
        ("--env.kwargs.split test", "held out"),
        ("--learning-rate 1 --nope", "--nope"),
        ("--resume", "--resume"),
        ("--resume runs/a --total-steps many", "--total-steps: invalid int value: 'many'"),
        ("--resume runs/a --device", "--device: expected one argument"),
    ],
)
def test_a_wrong_flag_or_value_is_named_in_one_line(line, said, capsys):
    with pytest.raises(ConfigError) as caught:
        parsed(line)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            "--core.memory-size 0",
            "--core: FWM.Config: memory_size=0, but it must be an integer of at least 1; --help shows the flags",
        ),
        (
            "--env.num-envs 2 --minibatches 4",
            "minibatches=4, but it must be at most env.num_envs=2 (--minibatches, --env.num-envs); "
            "--help shows the flags",
        ),
        ("--core.memory-sise 8", "Unrecognized options: --core.memory-sise, 8; did you mean --core.memory-size?"),
        (
            "--seeed 3 --unrol-length 2",
            "Unrecognized options: --seeed, 3, --unrol-length, 2; did you mean --seed or --unroll-length?",
        ),
    ],
)
def test_what_it_says_is_the_same_on_every_terminal(flag, said, encoding, monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    with pytest.raises(ConfigError) as caught:
        parsed(flag)
    assert str(caught.value) == said


def test_options_of_environments_of_others_are_literals_or_text():
    line = "--env FrozenLake-v1 --env.kwargs.is-slippery False --env.kwargs.map-name=8x8 --seed 3"
    config = parsed(line)
    assert (config.env.kwargs, config.seed) == ({"is_slippery": False, "map_name": "8x8"}, 3)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    ("value", "option"), [("[[1],[2]]", ([1], [2])), ("((1,2),3)", ([1, 2], 3)), ("{[1]:2}", "{[1]:2}")]
)
def test_options_of_environments_of_others_stay_what_they_are(value, option):
    config = parsed(f"--env FrozenLake-v1 --env.kwargs.map-name {value}")
    assert config.env.kwargs == {"map_name": option}
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_options_that_json_would_change():
    with pytest.raises(ConfigError, match=r"map-name=\{1:2\}, but config.json would hold \{'1': 2\}"):
        parsed("--env FrozenLake-v1 --env.kwargs.map-name {1:2}")


def test_a_misspelt_flag_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match=r"did you mean --optim\.learning-rate"):
        parsed("--optim.learning-rat 1")


# Saved configs


def saved():
    return json.loads(json.dumps(to_json(parsed("--env graph-pomdp --core fwm"))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"core_name": "hopfield"}, "no core is called 'hopfield'"),
        ({"agent_name": "dqn"}, "dqn"),
        ({"momentum": 0.9}, "momentum"),
        ({"core": {"memory_size": 8, "depth": 2}}, "depth"),
        ({"unroll_length": 0}, "unroll_length=0"),
        ({"optim": {"learning_rate": -1.0}}, "learning_rate=-1.0"),
        ({"env": None}, ""),
    ],
)
def test_a_config_of_another_version_is_one_line(change, message):
    with pytest.raises(ConfigError, match=f"config.json is of another version: .*{message}") as caught:
        from_json(saved() | change)
    assert "\n" not in str(caught.value)


def test_a_run_of_the_other_program_is_told_apart():
    with pytest.raises(ConfigError, match=r"^this is a run of engram\.supervised\.train"):
        from_json({"task_name": "copy"})


def test_a_config_without_a_part_is_one_line():
    for part in ("env", "core", "core_name", "agent", "policy", "optim"):
        config = saved()
        del config[part]
        with pytest.raises(ConfigError, match=f"another version: .*{part}"):
            from_json(config)
    with pytest.raises(ConfigError, match="another version"):
        from_json([])


# Device and folder


def test_devices():
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for absent in ("foo", "meta", "", "cpu:x", "cuda:99"):
        with pytest.raises(ConfigError, match=f"--device {absent}[ ;]") as caught:
            torch_device(absent)
        assert "\n" not in str(caught.value)


def test_a_new_folder_is_one_that_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_config("my.module:team/Game-v0", "lstm", "a2c", "default", lambda name: {}, preset)
    names = []
    for _ in range(3):
        folder = config.new_folder()
        folder.mkdir(parents=True)
        names.append(folder.as_posix())
    stem = "runs/my.module-team-Game-v0-lstm-a2c-s0"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]
    assert dataclasses.replace(config, folder="runs").new_folder().as_posix() == "runs"


def test_every_field_has_a_flag_with_help(capsys):
    with pytest.raises(SystemExit) as caught:
        parsed("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name in {field.name for field in dataclasses.fields(Config)} - {"env", "core", "agent", "policy", "optim"}:
        if not name.endswith("_name"):
            assert f"--{name.replace('_', '-')} " in shown
    for name in (*CORES, *AGENTS, "--resume", "--preset", "--core.memory-size", "--env.kwargs.num-states"):
        assert name in shown
