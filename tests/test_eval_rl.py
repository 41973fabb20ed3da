"""Evaluations of a run folder: the same numbers everywhere, from the same levels, and nothing changed."""

import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

import eval_rl
import train_rl
from engram import envs
from engram.agents.evaluate import ReferencePlayer, evaluate
from engram.envs import references
from engram.run import load_checkpoint

ROOT = Path(eval_rl.__file__).parent
LEVELS = 12
SMALL = "--env.num-envs 8 --unroll-length 9 --eval-episodes 5 --total-steps 300"
GRAPHS = f"--env graph-pomdp --env.kwargs.episode-length 8 --env.kwargs.num-levels {LEVELS} {SMALL}"
CORES = {"fwm": "--core fwm --core.hidden-size 8 --core.memory-size 4", "lstm": "--core lstm --core.hidden-size 8"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs by name."""
    folders = {name: str(tmp_path_factory.mktemp("runs") / name) for name in (*CORES, "cartpole")}
    for name, core in CORES.items():
        assert train_rl.main([*f"{GRAPHS} {core} --policy.last-reward".split(), "--folder", folders[name]]) == 0
    cartpole = f"--env CartPole-v1 {CORES['lstm']} {SMALL} --folder {folders['cartpole']}"
    assert train_rl.main(cartpole.split()) == 0
    return folders


@pytest.fixture
def scores(tmp_path, capsys):
    """Runs eval_rl.py: rows of its JSON, and what it prints."""

    def run(*flags):
        path = tmp_path / "scores.json"
        capsys.readouterr()
        assert eval_rl.main([*map(str, flags), "--json", str(path)]) == 0
        return json.loads(path.read_text(), parse_constant=pytest.fail), capsys.readouterr().out

    return run


def error_line(capsys):
    errors = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", errors), errors
    return errors


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in Path(folder).rglob("*")}


@pytest.mark.parametrize("name", CORES)
def test_the_table_shows_the_numbers_of_the_json(runs, scores, name):
    rows, shown = scores(runs[name])
    policies = ["agent", *envs.reference_policies("graph-pomdp")]
    assert [(row["split"], row["policy"]) for row in rows] == [(s, p) for s in ("train", "test") for p in policies]
    for row in rows:
        assert (row["run"], row["env"], row["core"]) == (runs[name], "graph-pomdp", name)
        assert (row["seed"], row["actions"]) == (0, "sampled")
        assert row["episodes"] == {"train": 8, "test": LEVELS}[row["split"]], "each level of a member, each held out"
        assert row["step"] >= 300
    lines = {line.split("│")[1].strip(): line.split("│")[2:4] for line in shown.splitlines() if line.startswith("│")}
    assert list(lines) == [name, *policies[1:]]
    for policy, cells in zip(policies, lines.values(), strict=True):
        own = [row for row in rows if row["policy"] == policy]
        assert [cell.strip() for cell in cells] == [f"{row['mean']:.2f} ± {row['standard_error']:.2f}" for row in own]
    title = " ".join(shown.partition("┏")[0].split())
    assert f"after {rows[0]['step']:,} steps, sampled actions, 8 or {LEVELS} episodes" in title


def test_references_are_scored_as_they_play(runs, scores):
    rows, _ = scores(runs["fwm"], "--split", "test", "--seed", "5")
    played = envs.make_vec("graph-pomdp", LEVELS, episode_length=8, num_levels=LEVELS, split="test")
    for name, policy in envs.reference_policies("graph-pomdp").items():
        score = evaluate(ReferencePlayer(policy(played, 5)), played, LEVELS, 5)
        (row,) = (row for row in rows if row["policy"] == name)
        assert (row["mean"], row["standard_error"]) == (score.mean, score.standard_error)
    means = {row["policy"]: row["mean"] for row in rows}
    assert means["oracle"] > means["random"]


def test_one_seed_one_score(runs, scores):
    def numbers(*flags):
        return [(row["policy"], row["split"], row["mean"]) for row in scores(runs["lstm"], *flags)[0]]

    assert numbers() == numbers("--seed", 0)
    assert numbers("--seed", 3) == numbers("--seed", 3) != numbers()
    assert numbers("--split", "train") + numbers("--split", "test") == numbers()
    assert numbers("--split", "valid") != numbers("--split", "test")


def test_greedy_and_episodes(runs, scores):
    rows, shown = scores(runs["fwm"], "--greedy", "--episodes", 30, "--split", "test")
    assert {(row["actions"], row["episodes"]) for row in rows} == {("greedy", 30)}
    assert "greedy actions, 30" in " ".join(shown.split())
    sampled, _ = scores(runs["fwm"], "--episodes", 30, "--split", "test")
    assert rows[0]["mean"] != sampled[0]["mean"]
    assert [row["mean"] for row in rows[1:]] == [row["mean"] for row in sampled[1:]], "references are what they are"


def test_a_single_episode_has_no_standard_error(runs, scores):
    rows, shown = scores(runs["fwm"], "--episodes", 1, "--split", "test")
    assert {row["standard_error"] for row in rows} == {None}
    assert f" {rows[0]['mean']:.2f} │" in shown


def test_repeats_are_further_episodes(runs, scores):
    (row, *_), shown = scores(runs["cartpole"], "--episodes", 4, "--repeats", 3)
    assert (row["episodes"], row["repeats"]) == (4, 3)
    (once, *_), _ = scores(runs["cartpole"], "--episodes", 12)
    assert (once["repeats"], once["deviation"]) == (1, None)
    assert (row["mean"], row["standard_error"]) == (once["mean"], once["standard_error"]), "of the same 12"
    judged = eval_rl.Judged.load(runs["cartpole"], "test")
    device = torch.device("cpu")
    (whole, *_) = eval_rl.score(judged, 12, 1, 0, False, device)
    means = [sum(whole["returns"][i : i + 4]) / 4 for i in (0, 4, 8)]
    assert row["deviation"] == pytest.approx(statistics.stdev(means))
    assert f"{row['mean']:.2f} ± {row['deviation']:.2f} │" in shown
    assert "3 x 4 episodes" in " ".join(shown.split())
    assert "standard deviation of the evaluations' means" in " ".join(shown.split())


def test_a_game_is_compared_with_a_human(tmp_path, scores):
    folder = tmp_path / "pong"
    line = f"--env atari:Pong --env.kwargs.num-threads 1 --env.kwargs.max-episode-steps 20 {CORES['lstm']}"
    flags = "--env.num-envs 2 --minibatches 1 --unroll-length 4 --total-steps 8 --eval-episodes 2"
    assert train_rl.main([*line.split(), *flags.split(), "--folder", str(folder)]) == 0
    rows, shown = scores(folder)
    for row in rows:
        assert row["human_normalised"] == envs.human_normalised("atari:Pong", row["mean"])
        assert f" ({row['human_normalised']:.3f}) │" in shown
    assert "(random play 0, human 1)" in " ".join(shown.split())


def test_several_runs(runs, scores):
    folders = [runs["fwm"], runs["lstm"], runs["fwm"]]
    rows, shown = scores(*folders, "--split", "test")
    assert rows == [row for folder in folders[:2] for row in scores(folder, "--split", "test")[0]]
    assert shown.count("policy") == 2


def test_an_environment_without_splits(runs, scores):
    rows, shown = scores(runs["cartpole"])
    assert [(row["policy"], row["split"], row["episodes"]) for row in rows] == [("agent", None, 5), ("random", None, 5)]
    assert all(math.isfinite(row["mean"]) and row["mean"] > 5 for row in rows)
    assert "return" in shown


def test_a_split_that_there_is_not_is_said_so(runs, capsys):
    for flags, said in ([], ""), (["--split", "valid"], "has no splits: --split valid changes nothing\n"):
        assert eval_rl.main([str(runs["cartpole"]), *flags]) == 0
        errors = capsys.readouterr().err
        assert errors.endswith(said)
        assert errors.count("\n") == bool(said)


def test_the_share_of_successes_stands_beside_the_return(tmp_path, runs, scores):
    folder = str(tmp_path / "run")
    assert train_rl.main([*f"--env boxworld --preset easy {SMALL} {CORES['lstm']}".split(), "--folder", folder]) == 0
    rows, shown = scores(folder, "--split", "test", "--episodes", 20)
    rates = {row["policy"]: row["success_rate"] for row in rows}
    assert rates["oracle"] == 1 > rates["random"]
    (line,) = (line for line in shown.splitlines() if "oracle" in line)
    assert line.endswith(" (100.0%) │")
    assert "share of successful episodes" in " ".join(shown.split())
    assert {row["success_rate"] for row in scores(runs["cartpole"])[0]} == {None}


def test_evaluating_changes_nothing(runs, scores):
    before = snapshot(runs["fwm"])
    scores(runs["fwm"])
    assert snapshot(runs["fwm"]) == before


def test_what_cannot_be_judged_is_one_line(runs, tmp_path, capsys):
    def failed(*flags):
        assert eval_rl.main([*map(str, flags)]) == 2
        return error_line(capsys)

    copy = Path(shutil.copytree(runs["lstm"], tmp_path / "copy"))
    capsys.readouterr()
    assert f"there is no run folder {tmp_path}/nowhere" in failed(tmp_path / "nowhere")
    assert f"{tmp_path} is not a run folder: it has no config.json" in failed(tmp_path)
    assert "there is no folder" in failed(copy, "--episodes", 2, "--json", tmp_path / "nowhere" / "scores.json")
    assert "it is part of a run" in failed(copy, "--json", copy / "config.json")
    assert "they are one file" in failed(copy, "--json", tmp_path / "a.html", "--report", tmp_path / "a.html")
    assert "cannot write '': it names no file" in failed(copy, "--json", "")
    assert "there is no run folder" in failed(copy, "typo", "--episodes", 2**31), "before anything is played"
    shutil.rmtree(copy / "checkpoints")
    assert f"{copy} has no usable checkpoint: none was saved" in failed(runs["fwm"], copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"momentum": 0.9}))
    assert "config.json is of another version" in failed(copy)
    (copy / "config.json").write_text("{")
    assert f"cannot read {copy}/config.json" in failed(copy)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "RUN"),
        (["run", "--split", "trial"], "'trial'"),
        (["run", "--episodes", "0"], "--episodes: '0', but it must be an integer of at least 1"),
        (["run", "--seed", "-1"], "--seed: '-1', but it must be an integer of at least 0"),
        (["run", "--seed", "one"], "--seed: 'one', but it must be an integer of at least 0"),
        (["run", "--greed"], "--greed"),
    ],
)
def test_what_cannot_be_read_names_the_flag(flags, said, capsys):
    with pytest.raises(SystemExit) as caught:
        eval_rl.main(flags)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_the_status_of_the_process(tmp_path):
    command = [sys.executable, ROOT / "eval_rl.py", tmp_path / "nowhere"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: there is no run folder {tmp_path}/nowhere\n"


def test_goals_of_a_maze_are_played_equally_often(tmp_path, scores, monkeypatch):
    folder, played = str(tmp_path / "run"), []
    flags = f"--env maze {CORES['lstm']} {SMALL} --env.kwargs.episode-length 8 --folder {folder}"
    assert train_rl.main(flags.split()) == 0

    def watched(actor, played_in, *args):
        goals = []

        def act(inputs):
            goals.extend(played_in.unwrapped.members["goal"][inputs.episode_starts.numpy()].tolist())
            return actor(inputs)

        result = evaluate(act, played_in, *args)
        played.append(goals)
        return result

    monkeypatch.setattr(eval_rl, "evaluate", watched)
    assert {row["episodes"] for row in scores(folder)[0]} == {41}, "at least the 5 of --eval-episodes"
    assert {row["episodes"] for row in scores(folder, "--episodes", 82)[0]} == {82}
    for goals in played[: len(played) // 2]:
        assert sorted(goals) == list(range(41))
    for goals in played[len(played) // 2 :]:
        assert sorted(goals) == sorted([*range(41), *range(41)])


def test_a_column_for_each_split_has_its_own_levels(tmp_path, scores):
    folder = str(tmp_path / "run")
    maze = "--env maze --env.kwargs.size 5 --env.kwargs.split train --env.kwargs.episode-length 8"
    assert train_rl.main(f"{maze} {CORES['lstm']} {SMALL} --folder {folder}".split()) == 0
    rows, shown = scores(folder)
    assert {row["split"]: row["episodes"] for row in rows} == {"train": 5, "test": 6}, "of 5 goals, and of 2"
    assert "5 or 6 episodes" in " ".join(shown.split())


def test_a_reference_is_there_only_while_it_plays(runs, scores, monkeypatch):
    alive, references = set(), envs.reference_policies("graph-pomdp")

    def counted(name):
        def make(played, seed):
            assert not alive
            alive.add(name)
            policy = references[name](played, seed)
            weakref.finalize(policy, alive.discard, name)
            return policy

        return make

    monkeypatch.setattr(envs, "reference_policies", lambda name: {name: counted(name) for name in references})
    rows, _ = scores(runs["lstm"])
    assert [row["policy"] for row in rows] == 2 * ["agent", *references]
    assert not alive


def test_a_reference_that_cannot_be_had_is_left_out(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(references, "MAX_PLAN_BYTES", 1000)
    assert eval_rl.main([runs["lstm"], "--split", "test", "--json", str(tmp_path / "scores.json")]) == 0
    policies = [row["policy"] for row in json.loads((tmp_path / "scores.json").read_text())]
    assert policies == ["agent", "random", "explorer", "greedy"]
    shown, errors = capsys.readouterr()
    assert "oracle" not in shown
    assert re.fullmatch(rf"warning: {runs['lstm']} is not compared with the oracle: a plan of 12 x [^\n]+\n", errors)


def test_the_device(runs, scores, capsys):
    assert scores(runs["fwm"], "--device", "cpu")[0][0]["mean"] == scores(runs["fwm"])[0][0]["mean"]
    assert eval_rl.main([runs["fwm"], "--device", "gpu"]) == 2
    assert "there is no --device gpu; choose auto, cpu, cuda or cuda:N" in error_line(capsys)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*CORES, "cartpole"])
def test_scores_are_those_of_any_device(runs, scores, name):
    """Random numbers are the same; rounding tips an action now and then."""
    rows, _ = scores(runs[name], "--device", "cuda", "--episodes", 60)
    others, _ = scores(runs[name], "--device", "cpu", "--episodes", 60)
    for row, other in zip(rows, others, strict=True):
        assert row["mean"] == pytest.approx(other["mean"], rel=0.02)


def test_statistics_of_observations_are_those_of_training(tmp_path, scores):
    folder = str(tmp_path / "run")
    line = f"--env CartPole-v1 {CORES['lstm']} {SMALL} --policy.normalize-observation --folder {folder}"
    assert train_rl.main(line.split()) == 0
    before = snapshot(folder)
    state = load_checkpoint(folder)[1]["learner"]["policy"]
    judged = eval_rl.Judged.load(folder, "test")
    policy = judged.policy(envs.make_vec("CartPole-v1", 1))
    assert policy.encoder.count == state["encoder.count"] >= 300
    assert torch.equal(policy.encoder.mean, state["encoder.mean"])
    assert (policy.encoder.variance != 1).all()
    assert scores(folder)[0] == scores(folder)[0]
    assert snapshot(folder) == before


def test_levels_without_end_are_judged_on_the_first_of_them(tmp_path, scores):
    folder = str(tmp_path / "run")
    flags = "--env.num-envs 4 --total-steps 120 --unroll-length 9 --eval-episodes 7 --env.kwargs.episode-length 8"
    assert train_rl.main([*flags.split(), "--env.kwargs.num-levels", "None", "--folder", folder]) == 0
    rows, _ = scores(folder, "--split", "test")
    finite = envs.make_vec("graph-pomdp", 7, episode_length=8, num_levels=7, split="test")
    explorer = ReferencePlayer(envs.reference_policies("graph-pomdp")["explorer"](finite, 0))
    (row,) = (row for row in rows if row["policy"] == "explorer")
    assert (row["episodes"], row["mean"]) == (7, evaluate(explorer, finite, 7, 0, 7).mean)
