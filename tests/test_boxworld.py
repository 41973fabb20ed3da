"""BoxWorld: its levels, its rules against a slow statement of them that reads pictures, and its reference policies."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.envs import make_vec, reference_policies
from engram.envs.boxworld_levels import AGENT, FLOOR, GEM, KEY, WALL

UP, DOWN, LEFT, RIGHT = range(4)
STEPS = {UP: (-1, 0), DOWN: (1, 0), LEFT: (0, -1), RIGHT: (0, 1)}
BLACK, FLOOR_GREY, AGENT_GREY, WHITE = (0,) * 3, (204,) * 3, (128,) * 3, (255,) * 3
C = 20
LOCK, WRONG_LOCK = KEY + C, KEY + 2 * C


# --- a slow BoxWorld ------------------------------------------------------------------------------------------------


def solutions(loose, boxes):
    """All sequences of boxes that can be opened before the gem is taken, whether or not the game would let one go on.

    Args:
        loose: contents that nothing locks.
        boxes: {place: (content, lock)}.
    """
    found = set()

    def search(held, loose, closed, opened):
        if WHITE in loose:
            found.add(opened)
        for key in loose - {WHITE}:
            search(key, loose - {key}, closed, opened)  # a key in hand is lost
        for place in closed:
            content, lock = boxes[place]
            if lock == held:
                search(None, loose | {content}, closed - {place}, (*opened, place))

    search(None, frozenset(loose), frozenset(boxes), ())
    return found


class SlowBoxWorld:
    """The rules in plain Python, begun from a picture of the whole room, uint8 [3, side, side]."""

    def __init__(self, picture, max_steps=120):
        self.side = picture.shape[1]
        places = [(row, column) for row in range(self.side) for column in range(self.side)]
        colours = {place: tuple(picture[:, *place].tolist()) for place in places}
        (self.agent,) = (place for place in places if colours[place] == AGENT_GREY)
        objects = {place for place in places if colours[place] not in (BLACK, FLOOR_GREY, AGENT_GREY)}
        self.locks = {(i, j): colours[i, j] for i, j in objects if (i, j - 1) in objects}
        self.contents = {place: colours[place] for place in objects - self.locks.keys()}
        self.boxes = {
            (i, j): (self.contents[i, j], self.locks[i, j + 1]) for i, j in self.contents if (i, j + 1) in self.locks
        }
        loose = [self.contents[place] for place in self.contents.keys() - self.boxes.keys()]
        self.solutions = solutions(loose, self.boxes)
        self.max_steps = max_steps
        self.held, self.time, self.opened = None, 0, 0
        self.solved = self.wrong = False

    def step(self, action):
        """Reward, terminated, truncated."""
        self.time += 1
        (down, right), (row, column) = STEPS[action], self.agent
        row, column = row + down, column + right
        place, reward = (row, column), 0
        blocked = not (0 < row < self.side - 1 and 0 < column < self.side - 1)
        if place in self.locks:
            blocked = self.locks[place] != self.held
            if not blocked:
                del self.locks[place]
                self.held = None
                (solution,) = self.solutions
                self.wrong = (row, column - 1) not in solution
                self.opened += not self.wrong
                reward = -1 if self.wrong else 1
        elif place in self.contents:
            blocked = (row, column + 1) in self.locks
            if not blocked:
                content = self.contents.pop(place)
                self.solved = content == WHITE
                self.held = self.held if self.solved else content
                reward = 10 if self.solved else 0
        if not blocked:
            self.agent = place
        terminated = self.solved or self.wrong
        return reward, terminated, not terminated and self.time >= self.max_steps

    def picture(self):
        """The whole room, without the key in hand, uint8 [3, side, side]."""
        colours = np.zeros((self.side, self.side, 3), np.uint8)
        colours[1:-1, 1:-1] = FLOOR_GREY
        for place, colour in [*self.contents.items(), *self.locks.items(), (self.agent, AGENT_GREY)]:
            colours[place] = colour
        return colours.transpose(2, 0, 1)

    def observation(self, view):
        """What the agent sees."""
        picture, held = self.picture(), np.array(self.held or BLACK, np.uint8)
        if view == "full":
            picture[:, 0, 0] = held
            return picture
        reach = view // 2
        padded = np.pad(picture, ((0, 0), (reach, reach), (reach, reach)))
        row, column = self.agent
        window = padded[:, row : row + view, column : column + view]
        return np.concatenate([window, np.broadcast_to(held[:, None, None], window.shape)])


def rooms(num_levels, **options):
    """Slow worlds of the levels 0 .. num_levels - 1, and the environment they were read from."""
    envs = make_vec("boxworld", num_levels, view="full", **options)
    observation, _ = envs.reset(seed=0, options={"level_ids": np.arange(num_levels)})
    return [SlowBoxWorld(picture) for picture in observation], envs


# --- levels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_exactly_one_sequence_of_boxes_solves_a_level(split):
    worlds, envs = rooms(1000, split=split)
    for slot, world in enumerate(worlds):
        (solution,) = world.solutions
        assert len(solution) == envs.members["solution_length"][slot]
        assert len(world.boxes) == len(solution) + envs.members["num_distractors"][slot]
        assert world.boxes[solution[-1]][0] == WHITE
        for row, column in world.boxes:
            assert (envs.cells[slot, row, column + 1] < WRONG_LOCK) == ((row, column) in solution)


@settings(max_examples=40, deadline=None)
@given(
    room=st.integers(12, 16),
    length=st.integers(1, 3),
    distractors=st.integers(0, 2),
    distractor_length=st.integers(1, 3),
    num_colours=st.integers(10, 26),
    seed=st.integers(0, 2**32 - 1),
)
def test_levels(room, length, distractors, distractor_length, num_colours, seed):
    options = {"solution_length": (length,), "num_distractors": (distractors,), "distractor_length": distractor_length}
    worlds, envs = rooms(3, room=room, num_colours=num_colours, level_base_seed=seed, **options)
    assert ((envs.cells == WALL).sum((1, 2)) == 4 * (room + 1)).all()
    for world in worlds:
        (solution,) = world.solutions
        assert len(solution) == length
        assert len(world.boxes) == length + distractors * distractor_length
        assert len(world.contents) == len(world.boxes) + 1
        assert len(set(world.contents.values())) == len(world.contents)
        places = [*world.contents, *world.locks]
        for place in places:
            near = [other for other in places if np.abs(np.subtract(place, other)).max() <= 1]
            assert len(near) == (1 if place in world.contents and place not in world.boxes else 2)  # itself and its box
            assert 2 <= place[0] <= room - 1
            assert 2 <= place[1] <= room - 1


def test_path_length_goes_by_the_level():
    _, info = make_vec("boxworld", 7).reset(seed=0, options={"level_ids": np.arange(7)})
    assert info["solution_length"].tolist() == [1, 2, 3, 4, 5, 1, 2]
    _, info = make_vec("boxworld", 4, solution_length=(9, 3)).reset(seed=0, options={"level_ids": np.arange(4)})
    assert info["solution_length"].tolist() == [9, 3, 9, 3]


def test_numbers_of_boxes_are_uniform():
    envs = make_vec("boxworld", 6000)
    _, info = envs.reset(seed=0)
    assert np.bincount(info["solution_length"])[1:] == pytest.approx(1200, abs=150)
    assert np.bincount(info["num_distractors"]) == pytest.approx(1000, abs=150)
    assert len(np.unique(info["level_id"])) == 6000


def layout(cells):
    """A level without its colours and its start, as a set of places of boxes, each with what comes before it."""
    places = {cell: (row, column) for (row, column), cell in np.ndenumerate(cells) if GEM <= cell < LOCK}
    ways = {}

    def way(content):
        row, column = places[content]
        if content not in ways:
            lock = cells[row, column + 1]
            ways[content] = ((row, column), way(KEY + (lock - KEY) % C) if lock >= LOCK else None, content == GEM)
        return ways[content]

    return frozenset(map(way, places))


def test_splits_share_no_layout():
    options = {"room": 6, "solution_length": (1,), "num_distractors": (0,), "num_levels": 400}  # 24 layouts in all
    layouts = {}
    for split in ("train", "test", "valid"):
        envs = make_vec("boxworld", 400, split=split, level_sampling="fixed", **options)
        envs.reset(seed=0)
        layouts[split] = {layout(cells) for cells in envs.cells}
    assert all(layouts.values())
    assert len(set.union(*layouts.values())) == sum(map(len, layouts.values()))
    pairs = [(i, j, k, m) for i in range(2, 6) for j in (2, 3) for k in range(2, 6) for m in (2, 3) if abs(i - k) > 1]
    assert sum(map(len, layouts.values())) == len(pairs)


GOLDEN_LEVEL = """step 0/120, holds nothing
##############
#............#
#............#
#.......rP...#
#............#
#............#
#..aR........#
#............#
#.*A@........#
#........pD..#
#............#
#......s.dS..#
#............#
##############"""


def test_a_level_for_ever():
    """Levels do not depend on the process, the machine, or who else plays."""
    envs = make_vec("boxworld", 3, split="test", render_mode="ansi")
    envs.reset(seed=0, options={"level_ids": [-1, 4, 3]})
    assert envs.render()[1] == GOLDEN_LEVEL


# --- rules ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    view=st.sampled_from([3, 5, 7, "full"]),
    max_steps=st.sampled_from([20, 120]),
    wandering=st.sampled_from([0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_play_follows_the_rules(view, max_steps, wandering, seed):
    """Random actions, and those of the oracle among them so that boxes are opened."""
    n = 8
    full = make_vec("boxworld", n, view="full", max_steps=max_steps)
    envs = make_vec("boxworld", n, view=view, max_steps=max_steps, autoreset_mode=AutoresetMode.DISABLED)
    worlds = [SlowBoxWorld(picture, max_steps) for picture in full.reset(seed=seed)[0]]
    observation, _ = envs.reset(seed=seed)
    oracle = reference_policies("boxworld")["oracle"](envs, seed=0)
    random = np.random.default_rng(seed)
    ended = np.zeros(n, bool)
    while True:
        for slot, world in enumerate(worlds):
            np.testing.assert_array_equal(observation[slot], world.observation(view))
        if ended.any():
            break
        wanders = random.random(n) < wandering
        actions = np.where(wanders, random.integers(0, 4, n), oracle(observation, ended))
        observation, rewards, terminated, truncated, info = envs.step(actions)
        for slot, world in enumerate(worlds):
            result = rewards[slot], terminated[slot], truncated[slot]
            assert result == world.step(actions[slot])
            told = info["num_opened"][slot], info["is_success"][slot], info["opened_wrong"][slot]
            assert told == (world.opened, world.solved, world.wrong)
        ended = terminated | truncated


ROOM = """
........
.@a.....
....cA..
........
..bA....
.....*B.
........
........"""


def scripted(**options):
    """One member in a room with a key a, boxes of b and the gem, and a distractor that takes a and holds c."""
    envs = make_vec("boxworld", 1, room=8, num_distractors=(0,), solution_length=(1,), view="full", **options)
    envs.reset(seed=0)
    cells = {".": FLOOR, "@": AGENT, "*": GEM, "a": KEY, "b": KEY + 1, "c": KEY + 2, "A": LOCK, "B": LOCK + 1}
    envs.cells[0, 1:-1, 1:-1] = [[cells[symbol] for symbol in line] for line in ROOM.split()]
    envs.cells[0, 3, 6] = WRONG_LOCK
    envs.members["row"], envs.members["column"] = 2, 2
    return envs


def walk(envs, path):
    """Results of the steps of a path written as udlr, and the colour in hand after each."""
    results = [envs.step(["udlr".index(letter)]) for letter in path]
    held = [tuple(result[0][0, :, 0, 0].tolist()) for result in results]
    return results, held


def test_locks_and_locked_contents_are_in_the_way():
    envs = scripted()
    walk(envs, "drrr")  # below the key, towards the distractor
    assert envs.members[["row", "column"]][0].tolist() == (3, 4)
    results, _ = walk(envs, "ur")
    assert envs.members[["row", "column"]][0].tolist() == (2, 5)
    assert all(result[1][0] == 0 for result in results)
    walk(envs, "drd")  # its content from above, then its lock
    assert envs.members[["row", "column"]][0].tolist() == (2, 6)


def test_a_box_is_opened_in_two_moves():
    envs = scripted()
    colour_a, colour_b = (tuple(envs.palette[KEY + colour].tolist()) for colour in (0, 1))
    results, held = walk(envs, "rrdddl")
    assert held == [colour_a, colour_a, colour_a, colour_a, BLACK, colour_b]
    assert [result[1][0] for result in results] == [0, 0, 0, 0, 1, 0]
    assert not results[-1][2].any()


def test_gem():
    results, held = walk(scripted(), "rrdddl" + "rrrdrdl")  # on the way it is still locked from above
    assert [result[1][0] for result in results] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 10]
    assert held[-2:] == [BLACK, BLACK]
    *_, terminated, truncated, info = results[-1]
    assert terminated[0]
    assert not truncated[0]
    assert info["is_success"][0]
    assert info["num_opened"][0] == 2


def test_distractor():
    envs = scripted()
    results, held = walk(envs, "rrrrd")
    *_, (_, rewards, terminated, truncated, info) = results
    assert rewards[0] == -1
    assert held[-1] == BLACK
    assert terminated[0]
    assert not truncated[0]
    assert info["opened_wrong"][0]
    assert info["num_opened"][0] == 0


def test_a_key_in_hand_is_lost_for_another():
    envs = scripted()
    envs.cells[0, 2, 4] = KEY + 7
    _, held = walk(envs, "rr")
    assert held == [tuple(envs.palette[KEY + colour].tolist()) for colour in (0, 7)]


def test_rewards_are_options():
    results, _ = walk(scripted(reward_open=0.5), "rrddd")
    assert results[-1][1][0] == 0.5
    results, _ = walk(scripted(reward_wrong=-3), "rrrrd")
    assert results[-1][1][0] == -3


def test_truncated_at_max_steps():
    envs = make_vec("boxworld", 4, max_steps=6)
    envs.reset(seed=0)
    for step in range(1, 7):
        *_, terminated, truncated, _ = envs.step([UP] * 4)
        assert truncated.all() == (step == 6)
        assert not terminated.any()


def test_picture_shows_view_key_in_hand_and_time():
    envs = make_vec("boxworld", 1, render_mode="rgb_array")
    envs.reset(seed=0)
    envs.members["held"] = 3
    (picture,) = envs.render()
    assert picture.shape == (14 * 16, 14 * 16, 3)
    assert (picture[8, 8] == envs.palette[KEY + 3]).all()
    row, column = (16 * envs.members[name][0] + 8 for name in ("row", "column"))
    assert (picture[row, column] == AGENT_GREY).all()
    top = max(row - 40, 0)  # two and a half cells up is the view's edge
    assert (picture[top, column] != picture[top + 8, column]).any()
    envs.members["time"] = 60
    assert (envs.render()[0] != picture).any(2).nonzero()[1].max() == 14 * 16 // 2 - 1  # a bar at the bottom


def test_the_largest_view_shows_the_largest_room_from_everywhere():
    envs = make_vec("boxworld", 4, room=99, view=199, num_distractors=(0,), max_steps=400)
    observation, _ = envs.reset(seed=0)
    for toward in (0, 2, 1, 3):
        for _ in range(100):
            observation, *_ = envs.step(np.full(4, toward))
        at = envs.members[["row", "column"]].tolist()
        assert any(1 in place or 99 in place for place in at), "by a wall"
        assert ((observation[:, :3] > 0).any(1).sum((1, 2)) == 99**2).all(), "walls are black"


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"room": 4}, "room must be an integer in 5..99; got 4"),
        ({"room": 100}, "room must be an integer in 5..99; got 100"),
        ({"room": 5, "solution_length": (3,)}, "room=5 is too small for levels of 8 boxes"),
        ({"solution_length": ()}, r"solution_length must be one or more integers; got \(\)"),
        ({"solution_length": 3}, "solution_length must be one or more integers; got 3"),
        ({"solution_length": (0, 1)}, "solution_length must be an integer at least 1; got 0"),
        ({"num_distractors": (-1,)}, "num_distractors must be an integer at least 0; got -1"),
        ({"distractor_length": 0}, "distractor_length must be an integer at least 1; got 0"),
        ({"num_colours": 27}, "num_colours must be an integer in 2..26; got 27"),
        ({"num_colours": 10}, "num_colours must be more than the 10 boxes of the largest level; got 10"),
        ({"view": 4}, "view must be an odd integer in 3..199, or 'full'; got 4"),
        ({"view": 1}, "view must be an odd integer in 3..199, or 'full'; got 1"),
        ({"view": 201}, "view must be an odd integer in 3..199, or 'full'; got 201"),
        ({"view": "whole"}, "view must be an odd integer in 3..199, or 'full'; got 'whole'"),
        ({"max_steps": 0}, "max_steps must be an integer at least 1; got 0"),
        ({"reward_gem": float("nan")}, "reward_gem must be a number.*; got nan"),
        ({"split": "dev"}, "split must be one of 'train', 'test', 'valid'; got 'dev'"),
        ({"n_colours": 5}, "boxworld has no option 'n_colours'; did you mean num_colours"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        make_vec("boxworld", 2, **options)


# --- reference policies ---------------------------------------------------------------------------------------------


def episodes(name, num_episodes, **options):
    """Returns, lengths and lengths of the path of the first episode in each of `num_episodes` members."""
    envs = make_vec("boxworld", num_episodes, **options)
    policy = reference_policies("boxworld")[name](envs, seed=1)
    observation, info = envs.reset(seed=1)
    solution_length = info["solution_length"]
    starts, ended = np.ones(num_episodes, bool), np.zeros(num_episodes, bool)
    playing = np.ones(num_episodes, bool)
    returns, lengths = np.zeros(num_episodes), np.zeros(num_episodes)
    while playing.any():
        observation, rewards, terminated, truncated, _ = envs.step(policy(observation, starts))
        returns[playing] += rewards[playing]
        lengths += playing
        starts, ended = ended, terminated | truncated
        playing &= ~ended
    return returns, lengths, solution_length


def assert_mean(sample, expected, error):
    """A mean agrees with one measured elsewhere with a standard error."""
    assert sample.mean() == pytest.approx(expected, abs=3 * np.hypot(error, sample.std() / len(sample) ** 0.5))


def test_oracle():
    returns, lengths, solution_length = episodes("oracle", 2000)
    np.testing.assert_array_equal(returns, 10 + solution_length)
    assert_mean(returns, 13.02, 0.03)
    assert_mean(lengths, 30.7, 0.23)
    for length, expected in enumerate([14.6, 22.7, 30.3, 38.5, 46.6], 1):
        assert_mean(lengths[solution_length == length], expected, 0.35)


@pytest.mark.parametrize(("options", "expected", "error"), [({}, 48.8, 0.7), ({"view": "full"}, 30.7, 0.23)])
def test_explorer(options, expected, error):
    returns, lengths, solution_length = episodes("explorer", 1000, **options)
    np.testing.assert_array_equal(returns, 10 + solution_length)
    assert_mean(lengths, expected, error)


def test_explorer_of_another_game():
    options = {"view": 3, "distractor_length": 2, "num_distractors": (2,), "solution_length": (3, 6), "num_colours": 26}
    returns, _, solution_length = episodes("explorer", 100, max_steps=300, **options)
    np.testing.assert_array_equal(returns, 10 + solution_length)


def test_random():
    returns, _, solution_length = episodes("random", 4000)
    assert_mean(returns, 0.047, 0.015)
    assert_mean(returns[solution_length == 1], 0.13, 0.06)


def test_explorer_sees_observations_only():
    envs = make_vec("boxworld", 20)
    policy, blind_policy = (reference_policies("boxworld")["explorer"](envs, seed=0) for _ in range(2))
    observation, _ = envs.reset(seed=0)
    starts = np.ones(20, bool)
    for _ in range(40):
        actions = policy(observation, starts)
        state = envs.state_dict()
        for array in (envs.cells, envs.members):
            array[:] = np.zeros((), array.dtype)
        np.testing.assert_array_equal(actions, blind_policy(observation, starts))
        envs.load_state_dict(state)
        starts = envs.members["done"].copy()
        observation, *_ = envs.step(actions)
