"""The habits that benchmarks.planning finds in policies whose habits are known."""

import pytest

from benchmarks.planning import FAR, habits
from engram import envs
from engram.agents.evaluate import ReferencePlayer


@pytest.fixture(scope="module")
def found():
    played = envs.make_vec("graph-pomdp", 200, split="test", num_levels=None)
    references = envs.reference_policies("graph-pomdp")
    return {name: habits(ReferencePlayer(references[name](played, 0)), played) for name in ("explorer", "random")}


def test_the_explorer_takes_every_known_way_that_is_shorter_than_a_guess(found):
    total, rows = found["explorer"]
    assert 115 < total < 125
    assert rows[1][1] == rows[2][1] == 1
    assert rows[3][1] < 1, "an untried pair is taken for 2.5 edges"
    assert rows[FAR][1] > 0.5
    assert sum(share for share, _ in rows.values()) == pytest.approx(1)


def test_random_play_takes_a_third(found):
    _, rows = found["random"]
    assert rows[1][1] == pytest.approx(0.36, abs=0.06), "two actions may lead to the goal"
