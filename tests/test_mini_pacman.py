"""MiniPacman: its rules against a slow statement of them, its map and picture, and what known policies reach in it."""

from random import Random

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.envs import make_vec, mini_pacman_map, reference_policies

QUADRANT = [
    "1111111111",
    "1000100000",
    "1010101111",
    "1000000000",
    "1010101111",
    "1010000000",
    "1011110111",
    "1000000111",
]
HEIGHT, WIDTH = 15, 19
FREE = [(r, c) for r in range(HEIGHT) for c in range(WIDTH) if QUADRANT[min(r, 14 - r)][min(c, 18 - c)] == "0"]
OPEN = set(FREE)
WALLS = [divmod(place, WIDTH) not in OPEN for place in range(HEIGHT * WIDTH)]
COMPASS = [(0, 1), (-1, 0), (0, -1), (1, 0)]  # right, up, left, down
PAY = {  # mode: per step, food, pill, ghost, death
    "regular": (0, 1, 2, 5, 0),
    "avoid": (0.1, -0.1, -5, -10, -20),
    "hunt": (0, 0, 1, 10, -20),
    "ambush": (0, -0.1, 0, 10, -20),
    "rush": (0, -0.1, 10, 0, 0),
}
STAY, RIGHT, UP, LEFT, DOWN = range(5)


def neighbour(place, direction):
    """Of a (row, column)."""
    return place[0] + COMPASS[direction][0], place[1] + COMPASS[direction][1]


class SlowGame:
    """The rules once more: places are (row, column), food is a set, ghosts and pills are lists."""

    def __init__(
        self,
        rng,
        mode="regular",
        frame_cap=3000,
        num_pills=2,
        pill_duration=20,
        ghost_speed=0.5,
        ghost_speed_increment=0.1,
        ghost_randomness=0.05,
        safe_distance=5,
    ):
        self.rng, self.mode, self.frame_cap = int(rng), mode, frame_cap
        self.num_pills, self.pill_duration, self.safe_distance = num_pills, pill_duration, safe_distance
        self.speed, self.speed_increment, self.randomness = ghost_speed, ghost_speed_increment, ghost_randomness
        self.frame, self.dead = 0, False
        self.start_level(1)

    def draw(self, n):
        """SplitMix64 in plain integers."""
        self.rng = self.rng + 0x9E3779B97F4A7C15 & 2**64 - 1
        word = (self.rng ^ self.rng >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
        word = (word ^ word >> 27) * 0x94D049BB133111EB & 2**64 - 1
        return ((word ^ word >> 31) >> 32) * n >> 32

    def happens(self, probability):
        return self.draw(2**31) / 2**31 < probability

    def free_place(self):
        return FREE[self.draw(len(FREE))]

    def start_level(self, level):
        self.level, self.power, self.timer = level, 0, 0
        self.food = set(FREE)
        self.pills = [self.free_place() for _ in range(self.num_pills)]
        self.pacman = row, column = self.free_place()
        reach = self.safe_distance
        self.ghosts = []
        while len(self.ghosts) < 1 + (level - 1) // 2:
            place = self.free_place()
            rows, columns = range(max(row - reach, 1), row + reach), range(max(column - reach, 1), column + reach)
            if place[0] not in rows or place[1] not in columns:
                self.ghosts.append([place, self.draw(4)])

    def step(self, action):
        per_step, food, pill, ghost_reward, death = PAY[self.mode]
        self.frame += 1
        self.timer += 1
        self.power = max(0, self.power - 1)
        reward = per_step
        if action != STAY and neighbour(self.pacman, action - 1) in OPEN:
            self.pacman = neighbour(self.pacman, action - 1)
        if self.pacman in self.food:
            self.food.remove(self.pacman)
            reward += food
            if not self.food and self.mode in ("regular", "avoid"):
                self.start_level(self.level + 1)
        if self.pacman in self.pills:
            self.pills.remove(self.pacman)
            reward += pill
            self.power = self.pill_duration
            if not self.pills and self.mode == "rush":
                self.start_level(self.level + 1)
        for ghost in list(self.ghosts):
            met = ghost[0] == self.pacman
            if not met:
                self.move(ghost)
                met = ghost[0] == self.pacman
            if met and self.power == 0:
                self.dead = True
                return reward + death
            if met:
                self.ghosts.remove(ghost)
                reward += ghost_reward
                break
        over = not self.ghosts if self.mode in ("hunt", "ambush") else self.mode == "avoid" and self.timer == 128
        if over:
            self.start_level(self.level + 1)
        return reward

    def move(self, ghost):
        place, heading = ghost
        speed = self.speed + self.speed_increment * (self.level - 1)
        if not self.happens(speed / 2 if self.power else speed):
            return
        ways = [direction for direction in range(4) if neighbour(place, direction) in OPEN]
        back = (heading + 2) % 4
        if len(ways) == 2:
            if heading not in ways:
                heading = ways[1] if ways[0] == back else ways[0]
        else:
            ways = [direction for direction in ways if direction != back]
            towards = np.subtract(self.pacman, place) / np.hypot(*np.subtract(self.pacman, place))
            scores = [towards @ COMPASS[direction] for direction in ways]
            if self.power:
                heading = ways[int(np.argmin(scores))]
            elif self.happens(self.randomness):
                heading = ways[int(np.argmax([self.draw(2**31) for _ in ways]))]
            else:
                heading = ways[int(np.argmax(scores))]
        ghost[:] = neighbour(place, heading), heading

    def look(self, place):
        """What is on a place: colour, and the six planes."""
        edible = self.power / self.pill_duration
        is_ghost = any(ghost[0] == place for ghost in self.ghosts)
        is_pacman, is_pill, is_food, is_wall = (
            place == self.pacman,
            place in self.pills,
            place in self.food,
            place not in OPEN,
        )
        colour = (0, 0, 0)
        for there, shown in (
            (is_pacman, (0, 1, 0)),
            (is_ghost, (1, edible, 0)),
            (is_pill, (0, 1, 1)),
            (is_food, (0, 0, 1)),
            (is_wall, (1, 1, 1)),
        ):
            if there:
                colour = shown
                break
        return colour, (is_wall, is_food, is_pacman, is_ghost * (1 - edible), is_ghost * edible, is_pill)

    def image(self, view, obs_format):
        (row, column), height, width = self.pacman, view, view
        if view == "full":
            row, column, height, width = HEIGHT // 2, WIDTH // 2, HEIGHT, WIDTH
        rows = range(row - height // 2, row + height // 2 + 1)
        columns = range(column - width // 2, column + width // 2 + 1)
        picture = [[self.look((r, c))[obs_format == "planes"] for c in columns] for r in rows]
        return np.round(255 * np.array(picture, float)).astype(np.uint8).transpose(2, 0, 1)


def at(place):
    """A (row, column) as the record has it."""
    return place[0] * WIDTH + place[1]


def write(member, game):
    """Bring the record of a member to the state of a slow game."""
    member["rng"], member["level"], member["power"] = game.rng, game.level, game.power
    member["timer"], member["frame"], member["pacman"] = game.timer, game.frame, at(game.pacman)
    member["ground"] = WALLS
    for place in game.food:
        member["ground"][at(place)] += 2
    for place in game.pills:
        member["ground"][at(place)] += 16
    member["ghosts"][: len(game.ghosts)] = [at(place) for place, _ in game.ghosts]
    member["headings"][: len(game.ghosts)] = [heading for _, heading in game.ghosts]
    member["food_left"], member["pills_left"], member["ghosts_left"] = len(game.food), len(game.pills), len(game.ghosts)


def assert_same(member, game):
    """Whether the record of a member is in the state of a slow game."""
    expected = member.copy()
    write(expected, game)
    for name in member.dtype.names:
        size = len(game.ghosts) if name in ("ghosts", "headings") else None
        assert np.ravel(member[name])[:size].tolist() == np.ravel(expected[name])[:size].tolist(), name


def scripted(pacman, food=(), pills=(), ghosts=(), level=1, power=0, **options):
    """One environment, and its record in a chosen state: places as (row, column), ghosts as (place, heading)."""
    envs = make_vec("mini-pacman", 1, **{"ghost_speed": 0.0, "ghost_speed_increment": 0.0} | options)
    envs.reset(seed=0)
    game = SlowGame(1)
    game.pacman, game.food, game.pills, game.level, game.power = pacman, set(food), list(pills), level, power
    game.ghosts = [list(ghost) for ghost in ghosts]
    write(envs.members[0], game)
    return envs


# --- the rules ------------------------------------------------------------------------------------------------------


def crowded(game, level, power, num_food):
    """Bring a slow game to a level, with everything on the 12 places nearest to Pacman."""
    random = Random(game.rng)
    game.start_level(level)
    row, column = game.pacman
    near = sorted(FREE, key=lambda place: abs(place[0] - row) + abs(place[1] - column))[:12]
    game.food, game.power = set(random.choices(near, k=num_food)), power
    game.pills = random.choices(near, k=game.num_pills)
    game.ghosts = [[random.choice(near), random.randrange(4)] for _ in game.ghosts]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from(list(PAY)),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([0, 3, 20]),
    st.integers(1, 4),
    st.sampled_from([3, 5, 7, "full"]),
    st.sampled_from(["rgb", "planes"]),
    st.fixed_dictionaries(
        {},
        optional={
            "num_pills": st.integers(1, 4),
            "pill_duration": st.integers(20, 30),
            "ghost_speed": st.floats(0, 1),
            "ghost_speed_increment": st.floats(0, 1),
            "ghost_randomness": st.floats(0, 1),
            "safe_distance": st.integers(0, 8),
            "frame_cap": st.integers(1, 40),
        },
    ),
    st.lists(st.integers(0, 4), min_size=40, max_size=40),
)
def test_steps_as_the_slow_game(rng, mode, level, power, num_food, view, obs_format, options, actions):
    envs = make_vec("mini-pacman", 1, mode=mode, view=view, obs_format=obs_format, **options)
    envs.reset(seed=0)
    game = SlowGame(rng, mode, **options)
    crowded(game, level, power, num_food)
    write(envs.members[0], game)
    for step, action in enumerate(actions):
        if step == 20:
            game.timer = envs.members["timer"][0] = 127  # the end of a level in "avoid"
        observation, rewards, terminated, truncated, info = envs.step([action])
        assert rewards[0] == pytest.approx(game.step(action))
        assert_same(envs.members[0], game)
        np.testing.assert_array_equal(observation[0], game.image(view, obs_format))
        assert terminated[0] == game.dead
        assert truncated[0] == (not game.dead and game.frame == game.frame_cap)
        assert [info[name][0] for name in ("level", "food_left", "pills_left", "ghosts_left")] == [
            game.level,
            len(game.food),
            len(game.pills),
            len(game.ghosts),
        ]
        if terminated[0] or truncated[0]:
            break


def test_episodes_start_as_in_the_slow_game():
    envs = make_vec("mini-pacman", 50)
    envs.reset(seed=0)
    state = envs.state_dict()
    envs.reset()
    for slot in range(50):
        assert_same(envs.members[slot], SlowGame(state["rng"][slot]))


def test_food_is_eaten_where_the_episode_starts():
    envs = make_vec("mini-pacman", 50)
    envs.reset(seed=0)
    _, rewards, _, _, info = envs.step(np.full(50, STAY))
    assert set(rewards) <= {1, 3}  # 3: there was a pill as well
    assert (info["food_left"] == 137).all()


def test_walls_stop_pacman():
    envs = scripted((1, 1))
    for action in (STAY, UP, LEFT):
        envs.step([action])
        assert envs.members["pacman"][0] == at((1, 1))
    for action, place in ((RIGHT, (1, 2)), (LEFT, (1, 1)), (DOWN, (2, 1)), (UP, (1, 1))):
        envs.step([action])
        assert envs.members["pacman"][0] == at(place)


def test_one_pill_a_step():
    envs = scripted((1, 1), pills=[(1, 1), (1, 1)], ghosts=[((13, 17), 0)])
    for left, reward in ((1, 2), (0, 2), (0, 0)):
        _, rewards, _, _, info = envs.step([STAY])
        assert rewards[0] == reward
        assert info["pills_left"][0] == left
        assert envs.members["power"][0] == (20 if reward else 19)


@pytest.mark.parametrize(("wait", "reward", "dies"), [(18, 5, False), (19, 0, True)])
def test_how_long_a_pill_lasts(wait, reward, dies):
    """Power taken in step t holds in the steps t .. t + 19."""
    envs = scripted((7, 1), pills=[(7, 1)], ghosts=[((7, 2), 0)], mode="regular")
    envs.step([STAY])
    for _ in range(wait):
        _, _, terminated, *_ = envs.step([STAY])
        assert not terminated[0]
    _, rewards, terminated, truncated, info = envs.step([RIGHT])
    assert rewards[0] == reward
    assert terminated[0] == dies
    assert not truncated[0]
    assert info["ghosts_left"][0] == dies


def test_one_ghost_a_step_and_the_others_wait():
    ghosts = [((13, 17), 2), ((7, 2), 0), ((7, 2), 0), ((13, 15), 0)]
    envs = scripted((7, 1), food=[(1, 1)], ghosts=ghosts, level=7, power=20, ghost_speed=2.0)
    _, rewards, *_ = envs.step([RIGHT])
    assert rewards[0] == 5
    assert envs.members["ghosts"][0, :3].tolist() == [at((13, 16)), at((7, 2)), at((13, 15))]
    _, rewards, *_ = envs.step([STAY])
    assert rewards[0] == 5
    assert envs.members["ghosts"][0, :2].tolist() == [at((13, 15)), at((13, 15))]


def test_no_swap_with_a_ghost():
    envs = scripted((7, 1), food=[(1, 1)], ghosts=[((7, 2), 2)], ghost_speed=1.0)
    _, _, terminated, *_ = envs.step([RIGHT])
    assert terminated[0]


@pytest.mark.parametrize(("level", "num_ghosts"), [(1, 1), (2, 2), (3, 2), (4, 3), (30, 16), (31, 16), (32, 16)])
@pytest.mark.parametrize("mode", PAY)
def test_the_next_level(mode, level, num_ghosts):
    """It begins within the step that clears this one, here by everything at once."""
    last = (7, 2)
    envs = scripted((7, 1), food=[last], pills=[last], ghosts=[(last, 0)], level=level, power=9, mode=mode)
    _, _, terminated, truncated, info = envs.step([RIGHT])
    assert not terminated[0]
    assert not truncated[0]
    assert info["level"][0] == level + 1
    assert info["food_left"][0] == 138
    assert info["ghosts_left"][0] == num_ghosts


def test_a_level_of_avoid_takes_128_steps():
    envs = scripted((7, 1), food=[(1, 1)], ghosts=[((13, 17), 0)], mode="avoid")
    levels = [envs.step([STAY])[4]["level"][0] for _ in range(129)]
    assert levels == [1] * 127 + [2, 2]


def test_the_cap_truncates():
    envs = scripted((7, 1), food=[(1, 1)], ghosts=[((13, 17), 0)], frame_cap=7)
    ends = [envs.step([STAY])[2:4] for _ in range(7)]
    assert [bool(truncated[0]) for _, truncated in ends] == [False] * 6 + [True]
    assert not any(terminated[0] for terminated, _ in ends)


@pytest.mark.parametrize("reach", [0, 1, 5, 8])
def test_ghosts_start_outside_the_rectangle(reach):
    envs = make_vec("mini-pacman", 3000, safe_distance=reach)
    envs.reset(seed=0)
    row, column = np.divmod(envs.members["ghosts"][:, 0], WIDTH) - np.array(np.divmod(envs.members["pacman"], WIDTH))
    assert not ((row >= -reach) & (row < reach) & (column >= -reach) & (column < reach)).any()
    assert ((row == reach) & (abs(column) < reach)).any() or reach == 0


def test_the_largest_safe_distance_leaves_a_place_for_ghosts():
    def is_full(pacman, reach):
        return all(-reach <= r - pacman[0] < reach and -reach <= c - pacman[1] < reach for r, c in FREE)

    assert not any(is_full(pacman, 8) for pacman in FREE)
    assert any(is_full(pacman, 9) for pacman in FREE)


# --- the map and its picture ----------------------------------------------------------------------------------------


def test_the_map():
    np.testing.assert_array_equal(mini_pacman_map.FREE, [at(place) for place in FREE])
    ways = [sum(neighbour(place, direction) in FREE for direction in range(4)) for place in FREE]
    assert np.bincount(ways).tolist() == [0, 0, 114, 16, 8]
    distances = mini_pacman_map.DISTANCES[np.ix_(mini_pacman_map.FREE, mini_pacman_map.FREE)]
    assert distances.min() == 0
    assert distances.max() == 28
    assert distances[distances > 0].mean() == pytest.approx(11.62, abs=0.005)


@pytest.mark.parametrize("obs_format", ["rgb", "planes"])
def test_a_window_is_cut_from_the_whole(obs_format):
    whole = make_vec("mini-pacman", 4, view="full", obs_format=obs_format)
    windows = {view: make_vec("mini-pacman", 4, view=view, obs_format=obs_format) for view in (3, 5, 21)}
    observation, _ = whole.reset(seed=0)
    seen = {view: envs.reset(seed=0)[0] for view, envs in windows.items()}
    outside = 255 if obs_format == "rgb" else np.array([255, 0, 0, 0, 0, 0])[:, None, None]
    for actions in np.random.default_rng(0).integers(0, 5, (200, 4)):
        for slot in range(4):
            row, column = divmod(int(whole.members["pacman"][slot]), WIDTH)
            for view in windows:
                padded = np.empty((len(observation[slot]), HEIGHT + view - 1, WIDTH + view - 1), np.uint8)
                padded[:] = outside
                border = view // 2
                padded[:, border : border + HEIGHT, border : border + WIDTH] = observation[slot]
                np.testing.assert_array_equal(seen[view][slot], padded[:, row : row + view, column : column + view])
        observation, *_ = whole.step(actions)
        seen = {view: envs.step(actions)[0] for view, envs in windows.items()}


@pytest.mark.parametrize(
    ("power", "green", "dangerous", "edible"), [(0, 0, 255, 0), (5, 64, 191, 64), (20, 255, 0, 255)]
)
def test_colours_and_planes(power, green, dangerous, edible):
    things = {"food": [(8, 1), (7, 2), (6, 1)], "pills": [(6, 1)], "ghosts": [((7, 2), 0)], "power": power + 1}
    wall, pill, pacman, ghost, food = [255] * 3, [0, 255, 255], [0, 255, 0], [255, green, 0], [0, 0, 255]
    picture = [[wall, pill, wall], [wall, pacman, ghost], [wall, food, wall]]
    observation, *_ = scripted((7, 1), **things, view=3).step([STAY])
    np.testing.assert_array_equal(observation[0].transpose(1, 2, 0), picture)
    observation, *_ = scripted((7, 1), **things, view=3, obs_format="planes").step([STAY])
    assert observation[0, :, 0, 1].tolist() == [0, 255, 0, 0, 0, 255]
    assert observation[0, :, 1, 1].tolist() == [0, 0, 255, 0, 0, 0]
    assert observation[0, :, 1, 2].tolist() == [0, 255, 0, dangerous, edible, 0]


@pytest.mark.parametrize(
    "options", [{"view": "full"}, {"obs_format": "planes"}, {"view": "full", "obs_format": "planes"}]
)
def test_check_env(options):
    check_env(gymnasium.make("engram:engram/MiniPacman-v0", **options).unwrapped, skip_render_check=True)


def test_rendering_frames_the_view():
    things = {"food": [(8, 1)], "pills": [(6, 1)], "ghosts": [((1, 1), 0)]}
    plain = scripted((7, 2), **things, view="full", render_mode="rgb_array").render()[0]
    framed = scripted((7, 2), **things, render_mode="rgb_array").render()[0]
    assert plain.shape == framed.shape == (240, 304, 3)
    rows, columns = np.nonzero((plain != framed).any(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (80, 159, 0, 79)
    text = scripted((7, 2), **things, render_mode="ansi").render()[0].splitlines()
    assert text[0] == "step 0/3000, level 1, power 0"
    assert [line[:4] for line in (text[2], *text[7:10])] == ["#G  ", "#o##", "# P ", "#.##"]


# --- known policies -------------------------------------------------------------------------------------------------


def returns(name, num_envs, episodes, **options):
    """Returns of the first `episodes` of every member."""
    envs = make_vec("mini-pacman", num_envs, **options)
    policy = reference_policies("mini-pacman")[name](envs, seed=1)
    observation, _ = envs.reset(seed=1)
    starts, ended = np.ones(num_envs, bool), np.zeros(num_envs, bool)
    totals, num_ended = np.zeros((num_envs, episodes + 1)), np.zeros(num_envs, int)
    while num_ended.min() < episodes:
        observation, rewards, terminated, truncated, _ = envs.step(policy(observation, starts))
        totals[np.arange(num_envs), num_ended] += rewards
        starts, ended = ended, terminated | truncated
        num_ended = np.minimum(num_ended + ended, episodes)
    return totals[:, :episodes].ravel()


@pytest.mark.parametrize(
    ("name", "num_envs", "episodes", "mode", "expected", "error"),
    [  # means and standard errors of other implementations
        ("random", 500, 8, "regular", 9.62, 0.15),
        ("random", 500, 8, "rush", 0.46, 0.06),
        ("random", 500, 8, "avoid", -16.60, 0.05),
        ("random", 500, 8, "hunt", -19.78, 0.02),
        ("random", 500, 8, "ambush", -20.81, 0.02),
        ("greedy", 200, 2, "regular", 543, 12),
    ],
)
def test_mean_return(name, num_envs, episodes, mode, expected, error):
    sample = returns(name, num_envs, episodes, mode=mode)
    standard_error = sample.std() / len(sample) ** 0.5
    assert sample.mean() == pytest.approx(expected, abs=3 * np.hypot(standard_error, error))


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "easy"}, "mode must be one of 'regular', 'avoid', 'hunt', 'ambush', 'rush'; got 'easy'"),
        ({"view": 4}, "view must be an odd integer in 3..199, or 'full'; got 4"),
        ({"view": None}, "view must be an odd integer in 3..199, or 'full'; got None"),
        ({"obs_format": "grey"}, "obs_format must be one of 'rgb', 'planes'; got 'grey'"),
        ({"frame_cap": 0}, "frame_cap must be an integer at least 1; got 0"),
        ({"num_pills": 0}, "num_pills must be an integer in 1..15; got 0"),
        ({"pill_duration": 0}, "pill_duration must be an integer in 1..1000; got 0"),
        ({"ghost_speed": -0.1}, "ghost_speed must be a number at least 0; got -0.1"),
        ({"ghost_speed_increment": "fast"}, "ghost_speed_increment must be a number at least 0; got 'fast'"),
        ({"ghost_randomness": float("nan")}, "ghost_randomness must be a number in .0, 1.; got nan"),
        ({"safe_distance": 9}, "safe_distance must be an integer in 0..8; got 9"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message.replace("..", r"\.\.")):
        make_vec("mini-pacman", 2, **options)
