"""GridMaze: its map, its rules step by step against a slow statement of them, and the authors' programs replayed."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.envs import make_vec
from engram.envs.maze_rules import observe

GOLDEN = Path(__file__).parent / "golden"
UP, DOWN, LEFT, RIGHT = range(4)
MOVES = {UP: (-1, 0), DOWN: (1, 0), LEFT: (0, -1), RIGHT: (0, 1)}
CENTRE = (4, 4)


def free_cells(size):
    """Rows and columns in reading order."""
    centre = (size // 2, size // 2)
    inside = [(row, column) for row in range(1, size - 1) for column in range(1, size - 1)]
    return [(row, column) for row, column in inside if row % 2 or column % 2 or (row, column) == centre]


def view(cell, free):
    """The nine cells around one, 1 for a wall."""
    row, column = cell
    return [float((row + i, column + j) not in free) for i in (-1, 0, 1) for j in (-1, 0, 1)]


def distances(start, free):
    """Steps from `start` to every free cell."""
    steps, wave = {start: 0}, [start]
    for row, column in wave:
        for i, j in MOVES.values():
            cell = (row + i, column + j)
            if cell in free and cell not in steps:
                steps[cell] = steps[row, column] + 1
                wave.append(cell)
    return steps


def scripted(goal, position, size=9, **options):
    """One member at a chosen place with a chosen goal, both (row, column)."""
    envs = make_vec("maze", 1, size=size, **options)
    envs.reset(seed=0)
    envs.members["goal"], envs.members["position"] = (free_cells(size).index(cell) for cell in (goal, position))
    return envs


def place(info, name="position", size=9):
    """Row and column of a cell that `info` shows of the first member."""
    return free_cells(size)[info[name][0]]


# --- map ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "num_cells", "num_views"), [(9, 41, 23), (11, 65, 15), (13, 97, 24)])
def test_map(size, num_cells, num_views):
    maze = make_vec("maze", 1, size=size).maze
    free = free_cells(size)
    assert [tuple(cell) for cell in maze.cells] == free
    assert len(free) == num_cells
    assert maze.walls.sum() == size**2 - num_cells
    assert len(np.unique(maze.views, axis=0)) == num_views
    assert free[maze.start] == (size // 2, size // 2)


def test_distances_in_the_smallest_of_the_papers_mazes():
    free = free_cells(9)
    steps = [distances(cell, free)[other] for cell in free for other in free if cell != other]
    assert np.mean(steps) == pytest.approx(4.883, abs=5e-4)
    assert max(steps) == 12
    assert np.mean(list(distances(CENTRE, free).values())) == pytest.approx(3.707, abs=5e-4)


@pytest.mark.parametrize("size", [5, 7, 9, 21])
def test_every_cell_can_be_reached_and_left_the_same_way(size):
    successors = make_vec("maze", 1, size=size).maze.successors
    free = free_cells(size)
    assert len(distances(free[0], free)) == len(free)
    for cell, (row, column) in enumerate(free):
        for action, (i, j) in MOVES.items():
            target = (row + i, column + j)
            assert free[successors[cell, action]] == (target if target in free else (row, column))


# --- rules ----------------------------------------------------------------------------------------------------------


class SlowMaze:
    """The rules in plain Python; where the agent is put after a success is told, not drawn."""

    def __init__(self, size, goal, episode_length, reward, wall_penalty):
        self.free, self.goal = free_cells(size), goal
        self.episode_length, self.reward, self.wall_penalty = episode_length, reward, wall_penalty
        self.position = (size // 2, size // 2)
        self.time = self.num_goals = 0
        self.last_reward, self.last_action = 0.0, None

    def step(self, action, put):
        target = tuple(np.add(self.position, MOVES[action]).tolist())
        self.hit_wall = target not in self.free
        if not self.hit_wall:
            self.position = target
        self.goal_reached = self.position == self.goal
        self.last_reward = self.reward * self.goal_reached - self.wall_penalty * self.hit_wall
        self.num_goals += self.goal_reached
        self.time += 1
        self.last_action = action
        if self.goal_reached:
            self.position = put

    def observation(self, obs, prev_action=False, bias=False, raw_time=False):
        seen = view(self.position, self.free)
        fraction = self.time / self.episode_length
        action = [float(self.last_action == action) for action in MOVES]
        if obs == "miconi2018":
            return [*seen, 0, 0, 0, 0, 0, self.last_reward, self.time, 1]
        if obs == "backprop2019":
            return [*seen, 0, 1, fraction, self.last_reward, *action]
        time = self.time if raw_time else fraction
        return [*seen, time, self.last_reward, *(action if prev_action else []), *([1] if bias else [])]


LAYOUTS = st.one_of(
    st.just({"obs": "miconi2018"}),
    st.just({"obs": "backprop2019"}),
    st.fixed_dictionaries({"obs": st.just("mnm")} | dict.fromkeys(["prev_action", "bias", "raw_time"], st.booleans())),
)


@settings(deadline=None, max_examples=60)  # the first call compiles
@given(
    size=st.sampled_from([5, 7, 9, 13]),
    rules=st.sampled_from(["2018", "2019"]),
    layout=LAYOUTS,
    rewards=st.fixed_dictionaries({"reward": st.sampled_from([1.0, 10.0]), "wall_penalty": st.sampled_from([0, 0.3])}),
    seed=st.integers(0, 1000),
    actions=st.lists(st.integers(0, 3), min_size=1, max_size=60),
)
def test_slow_rules_agree(size, rules, layout, rewards, seed, actions):
    length = len(actions)
    envs = make_vec("maze", 2, size=size, rules=rules, episode_length=length, **layout, **rewards)
    free = free_cells(size)
    observation, info = envs.reset(seed=seed)
    slow = [SlowMaze(size, free[goal], length, **rewards) for goal in info["goal"]]
    turned = [actions, [(action + 1) % 4 for action in actions]]  # the second member takes other ways
    for step in range(length + 1):
        assert observation in envs.observation_space
        for game, row, position in zip(slow, observation, info["position"], strict=True):
            assert free[position] == game.position
            np.testing.assert_allclose(row, game.observation(**layout), rtol=1e-6)
        if step == length:
            return
        observation, got, terminated, truncated, info = envs.step([turned[0][step], turned[1][step]])
        assert terminated.tolist() == [step + 1 == length] * 2
        assert not truncated.any()
        for slot, game in enumerate(slow):
            put = free[info["position"][slot]]
            game.step(turned[slot][step], put)
            assert rules == "2018" or not game.goal_reached or put != game.goal
            assert got[slot] == pytest.approx(game.last_reward)
            shown = [info[name][slot] for name in ("goal_reached", "hit_wall", "num_goals")]
            assert shown == [game.goal_reached, game.hit_wall, game.num_goals]


def test_first_observation_is_from_the_centre():
    observation, info = make_vec("maze", 60).reset(seed=0)
    assert observation.shape == (60, 11)
    assert (info["position"] == free_cells(9).index(CENTRE)).all()
    assert (observation[:, :9] == view(CENTRE, free_cells(9))).all()
    assert (observation[:, 9:] == 0).all()


def test_a_wall_stops_and_costs():
    envs = scripted(goal=(7, 7), position=(1, 1))
    for step, action in enumerate((UP, LEFT), start=1):
        observation, rewards, _, _, info = envs.step([action])
        assert place(info) == (1, 1)
        assert rewards[0] == np.float32(-0.1)
        assert observation[0, 9:] == pytest.approx([step / 250, -0.1])
        assert info["hit_wall"][0]


def test_standing_on_the_goal_pays_after_an_action_only():
    envs = scripted(goal=(1, 1), position=(1, 1))
    _, rewards, _, _, info = envs.step([RIGHT])
    assert rewards[0] == 0
    assert place(info) == (1, 2)
    envs = scripted(goal=(1, 1), position=(1, 1))
    _, rewards, _, _, info = envs.step([UP])
    assert rewards[0] == np.float32(9.9)
    assert info["goal_reached"][0]
    assert info["hit_wall"][0]


@pytest.mark.parametrize("rules", ["2018", "2019"])
def test_where_a_success_puts_the_agent(rules):
    free, counts = free_cells(9), np.zeros(41)
    envs = scripted(goal=(1, 1), position=(1, 2), rules=rules, obs="mnm")
    for _ in range(4100):
        envs.members["position"], envs.members["time"] = free.index((1, 2)), 0
        observation, rewards, _, _, info = envs.step([LEFT])
        assert rewards[0] == observation[0, 10] == 10
        assert observation[0, :9].tolist() == view(place(info), free)
        assert place(info, "goal") == (1, 1)
        counts[info["position"][0]] += 1
    goal = free.index((1, 1))
    assert (counts[goal] > 0) == (rules == "2018")
    allowed = counts if rules == "2018" else np.delete(counts, goal)
    expected = 4100 / len(allowed)
    assert ((allowed - expected) ** 2 / expected).sum() < 80  # chi-squared, 40 degrees of freedom: p = 2e-4


@pytest.mark.parametrize(
    ("rules", "length", "penalty", "size"), [("2018", 250, np.float32(-0.1), 11), ("2019", 200, 0, 17)]
)
def test_what_the_rules_set(rules, length, penalty, size):
    envs = make_vec("maze", 2, rules=rules)
    observation, _ = envs.reset(seed=0)
    assert observation.shape == (2, size)
    for step in range(1, length + 1):
        _, rewards, terminated, _, info = envs.step([UP, UP])
        assert (rewards[info["hit_wall"] & ~info["goal_reached"]] == penalty).all()
        assert terminated.all() == (step == length)


# --- goals ----------------------------------------------------------------------------------------------------------


def goals(num_envs=100, level_ids=None, **options):
    """Goals [num_envs], numbers of free cells; by default those of the first levels, with all of a split among them."""
    envs = make_vec("maze", num_envs, **options)
    return envs.reset(seed=0, options={"level_ids": level_ids if level_ids is not None else np.arange(num_envs)})[1][
        "goal"
    ]


def test_goals_are_anywhere_but_in_2019_in_the_centre():
    centre = free_cells(9).index(CENTRE)
    drawn = goals(4000, np.full(4000, -1))
    counts = np.bincount(drawn, minlength=41)
    assert ((counts - 4000 / 41) ** 2 / (4000 / 41)).sum() < 80  # as above
    assert set(goals(rules="2019")) == set(range(41)) - {centre}


@settings(deadline=None, max_examples=30)
@given(size=st.sampled_from([5, 9, 13]), rules=st.sampled_from(["2018", "2019"]), base_seed=st.integers(0, 2**32 - 1))
def test_splits_divide_the_goals(size, rules, base_seed):
    shared = {"size": size, "rules": rules, "level_base_seed": base_seed}
    parts = [set(goals(split=split, **shared)) for split in ("train", "test", "valid")]
    everywhere = set(range(len(free_cells(size))))
    if rules == "2019":
        everywhere.remove(free_cells(size).index((size // 2, size // 2)))
    assert set.union(*parts) == everywhere
    assert sum(len(part) for part in parts) == len(everywhere)
    assert [len(part) for part in parts[1:]] == [len(everywhere) // 4] * 2


def test_divisions_differ_by_base_seed_and_not_by_seed():
    held_out = [frozenset(goals(split="test", level_base_seed=seed)) for seed in range(10)]
    assert len(set(held_out)) == 10
    drawn = make_vec("maze", 300, split="test").reset(seed=99)[1]["goal"]
    assert set(drawn) == held_out[0]


def test_a_level_is_a_goal():
    envs = make_vec("maze", 10, split="test")
    observation, info = envs.reset(seed=0, options={"level_ids": np.arange(10)})
    assert info["level_id"].tolist() == list(range(10))
    assert len(set(info["goal"])) == 10
    _, again = envs.reset(options={"level_ids": np.arange(10) + 10})
    np.testing.assert_array_equal(again["goal"], info["goal"])
    assert again["level_id"].tolist() == list(range(10))
    _, train = envs.reset(options={"split": "train"})
    assert not set(train["goal"]) & set(info["goal"])
    _, anywhere = make_vec("maze", 41).reset(seed=0, options={"level_ids": np.arange(41)})
    assert anywhere["goal"].tolist() == list(range(41))
    assert observation.shape == (10, 11)


# --- the authors' programs ------------------------------------------------------------------------------------------


def replay(envs, goal, position, action, reward, inputs, unlike):
    """Compare a run, arrays [T, N, ...], step by step; only where it puts the agent after a success is taken from it.

    `unlike` are entries of the first input in which we differ on purpose. Returns the number of successes.
    """
    envs.reset(seed=0)
    members = envs.members
    free = free_cells(9)
    numbers = np.array([[free.index(tuple(cell)) for cell in row] for row in position.tolist()])
    members["goal"] = [free.index(tuple(cell)) for cell in goal.tolist()]
    put = np.zeros(envs.num_envs, bool)
    row = np.empty(inputs.shape[-1], np.float32)
    for step in range(len(action)):
        np.testing.assert_array_equal(members["position"][~put], numbers[step][~put])
        members["position"] = numbers[step]
        for slot in range(envs.num_envs):
            observe(members[slot], envs.maze.views, envs.layout, row)
            expected = inputs[step, slot].copy()
            expected[unlike if step == 0 else []] = 0
            np.testing.assert_allclose(row, expected, rtol=1e-6)
        _, rewards, terminated, _, info = envs.step(action[step])
        put = info["goal_reached"]
        np.testing.assert_allclose(rewards, reward[step], rtol=1e-6)
    assert terminated.all()
    return members["num_goals"].sum()


def test_the_program_of_2018_replayed():
    run = np.load(GOLDEN / "env_maze2018__A.npz")
    envs = make_vec("maze", 2, obs="miconi2018", episode_length=60)
    np.testing.assert_array_equal(envs.maze.walls, run["wall_map"])
    arrays = (run[name].swapaxes(0, 1) for name in ("position", "action", "reward", "inputs"))
    assert replay(envs, run["goal"], *arrays, unlike=[]) == 17


def test_the_program_of_2019_replayed():
    run = np.load(GOLDEN / "env_maze__A.npz")
    envs = make_vec("maze", 3, rules="2019", episode_length=40, reward=1.0, wall_penalty=0.05)
    np.testing.assert_array_equal(envs.maze.walls, run["wall_map"])
    arrays = (run[name][0] for name in ("position", "action", "reward", "inputs"))
    assert replay(envs, run["goal"][0], *arrays, unlike=[13]) == 13  # it starts as if it had gone up


# --- pictures, options ----------------------------------------------------------------------------------------------


def test_text():
    envs = scripted(goal=(1, 1), position=(1, 2), render_mode="ansi", episode_length=7)
    envs.step([RIGHT])
    assert envs.render()[0].splitlines() == [
        "step 1/7, 0 goals",
        "#########",
        "#G A    #",
        "# # # # #",
        "#       #",
        "# #   # #",
        "#       #",
        "# # # # #",
        "#       #",
        "#########",
    ]


def test_picture():
    picture = scripted(goal=(1, 1), position=(3, 3), render_mode="rgb_array").render()[0]
    assert picture.shape == (9 * 16, 9 * 16, 3)
    wall, floor, goal, agent = (
        picture[16 * row + 8, 16 * column + 8] for row, column in [(0, 0), (7, 1), (1, 1), (3, 3)]
    )
    assert wall.max() < 80
    assert floor.min() > 200
    assert goal[2] < min(goal[:2])
    assert agent.argmax() == 1
    frame = (picture == picture[2 * 16, 2 * 16]).all(2)
    assert frame[32:80, [32, 79]].all()
    assert frame[[32, 79], 32:80].all()
    assert not frame[:32].any()


@pytest.mark.parametrize("rules", ["2018", "2019"])
@pytest.mark.parametrize(
    "layout",
    [
        {"obs": "mnm"},
        {"obs": "mnm", "prev_action": True, "bias": True, "raw_time": True},
        {"obs": "miconi2018"},
        {"obs": "backprop2019"},
    ],
    ids=lambda layout: "-".join(map(str, layout.values())),
)
def test_checkers_pass_whatever_the_layout(rules, layout):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env as check_sb3_env

    env = gymnasium.make("engram/GridMaze-v0", rules=rules, **layout)
    check_env(env.unwrapped, skip_render_check=True)
    check_sb3_env(env)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 3}, "size must be an integer in 5..99; got 3"),
        ({"size": 10}, "size must be odd; got 10"),
        ({"size": 9.0}, "size must be an integer in 5..99; got 9.0"),
        ({"rules": 2018}, "rules must be one of '2018', '2019'; got 2018"),
        ({"episode_length": 0}, "episode_length must be an integer at least 1; got 0"),
        ({"reward": 0}, "reward must be a number above 0; got 0"),
        ({"wall_penalty": -0.1}, "wall_penalty must be a number at least 0; got -0.1"),
        ({"obs": "paper"}, "obs must be one of 'mnm', 'miconi2018', 'backprop2019'; got 'paper'"),
        ({"bias": "yes"}, "bias must be one of False, True; got 'yes'"),
        ({"obs": "miconi2018", "bias": True}, "bias is an option of obs='mnm'; got obs='miconi2018'"),
        ({"rules": "2019", "prev_action": True}, "prev_action is an option of obs='mnm'; got obs='backprop2019'"),
        ({"obs": "miconi2018", "raw_time": True}, "raw_time is an option of obs='mnm'; got obs='miconi2018'"),
        ({"split": "dev"}, "split must be one of None, 'train', 'test', 'valid'; got 'dev'"),
        ({"level_base_seed": -1}, "level_base_seed must be an integer in 0..4294967295; got -1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        make_vec("maze", 2, **options)
