"""Reports without a browser: curves, settings, numbers that survive, one file that is whole, films."""

import base64
import json
import re
import sys

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from PIL import Image

from engram.report import learning_curves, write_film, write_page
from engram.report.curves import differences, flat, group_name, run_name
from engram.report.page import packed
from engram.run import RunError


def a_config(seed=0, rate=0.1, env="graph-pomdp"):
    return {
        "env": {"name": env, "num_envs": 2},
        "core_name": "fwm",
        "optim": {"rate": rate},
        "seed": seed,
        "folder": "x",
    }


def a_run(folder, lines, torn=""):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    return str(folder)


def lines_of(steps, slope=1.0, seconds=2.0, **more):
    return [{"step": step, "wall_time": seconds * step, "return": slope * step} | more for step in steps]


# --- curves ---------------------------------------------------------------------------------------------------------


def test_a_run_has_a_point_for_every_line(tmp_path):
    lines = lines_of([10, 20, 30])
    lines[1] |= {"test_return": 5.0, "test_success_rate": 0.25}
    lines[2]["return"] = "nan"  # as JSON holds it
    folder = a_run(tmp_path / "one", lines, torn='{"step": 40, "ret')
    curves, missing = learning_curves({folder: a_config()})
    assert missing == []
    assert [(c["label"], c["kind"], c["quantity"].split()[0]) for c in curves] == [
        ("one", "train", "undiscounted"),
        ("one", "test", "undiscounted"),
        ("one", "test", "share"),
    ]
    train, test, success = (curve["by"] for curve in curves)
    assert (train["step"]["x"].tolist(), train["seconds"]["x"].tolist()) == ([10, 20, 30], [20, 40, 60])
    assert_allclose(train["step"]["mean"], [10, 20, np.nan])
    assert (test["step"]["x"].tolist(), test["seconds"]["mean"].tolist()) == ([20], [5])
    assert success["step"]["mean"].tolist() == [0.25]
    assert "low" not in train["step"]


def test_seeds_of_one_config_are_one_curve(tmp_path):
    runs = {
        a_run(tmp_path / "fwm-s0", lines_of([0, 10, 20], 1)): a_config(0),
        a_run(tmp_path / "fwm-s1", lines_of([0, 5, 10, 15, 20, 25], 3, seconds=4)): a_config(1),
        a_run(tmp_path / "fwm-s2", lines_of([0, 20], 2)): a_config(2),
        a_run(tmp_path / "other", lines_of([0, 20], 7)): a_config(0, rate=0.2),
    }
    curves, _ = learning_curves(runs)
    assert [(curve["label"], len(curve["runs"])) for curve in curves] == [("fwm (3 seeds)", 3), ("other", 1)]
    found = curves[0]["by"]["step"]
    assert found["x"].tolist() == [0, 5, 10, 15, 20, 25], "the points of the longest"
    for x, mean, low, high in zip(*(found[name] for name in ("x", "mean", "low", "high")), strict=True):
        slopes = [1, 2, 3] if x <= 20 else [3]  # two have ended
        assert (mean, low, high) == pytest.approx((x * sum(slopes) / len(slopes), x * min(slopes), x * max(slopes)))
    seconds = curves[0]["by"]["seconds"]
    assert_allclose(seconds["high"], np.maximum(seconds["x"] / 4 * 3, np.where(seconds["x"] <= 40, seconds["x"], 0)))


def test_what_is_missing_is_said_and_the_rest_is_drawn(tmp_path):
    good = a_run(tmp_path / "good", lines_of([1]))
    empty = a_run(tmp_path / "empty", [])
    (tmp_path / "none").mkdir()
    runs = {good: a_config(), empty: a_config(), str(tmp_path / "none"): a_config()}
    curves, missing = learning_curves(runs)
    assert [curve["label"] for curve in curves] == ["good"]
    assert missing == [
        f"no learning curve: {empty} has no metrics yet",
        f"no learning curve: {tmp_path}/none has no metrics.jsonl",
    ]


def test_environments_stay_apart(tmp_path):
    runs = {a_run(tmp_path / name, lines_of([1])): a_config(env=name) for name in ("maze", "boxworld")}
    assert [curve["env"] for curve in learning_curves(runs)[0]] == ["maze", "boxworld"]


def test_settings_that_differ():
    runs = {"a": a_config(0), "b": a_config(1, rate=0.2) | {"new": None, "folder": "y"}, "c": a_config(0)}
    assert differences(runs) == {"optim.rate": [0.1, 0.2, 0.1], "seed": [0, 1, 0], "new": ["absent", None, "absent"]}
    assert differences({"a": a_config(), "b": a_config() | {"new": 3}}) == {"new": ["absent", 3]}
    assert flat({"a": {"b": {"c": 1}}, "d": []}) == {"a.b.c": 1, "d": []}


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["runs/fwm-s0", "runs/fwm-s1"], "fwm (2 seeds)"),
        (["runs/fwm_seed10", "runs/fwm_seed11"], "fwm (2 seeds)"),
        (["x/one", "x/two"], "one (2 seeds)"),
        (["runs/fwm"], "fwm"),
        (["old/fwm"], "old/fwm"),
    ],
)
def test_names(names, shown):
    assert group_name(names, [*names, "new/fwm"] if names == ["old/fwm"] else names) == shown
    assert run_name("new/fwm", ["new/fwm", "old/fwm"]) == "new/fwm"


# --- the page -------------------------------------------------------------------------------------------------------

EMPTY = {"runs": [], "curves": [], "scores": [], "differences": {}, "configs": [], "memories": []}


def written(path, **data):
    write_page(path, EMPTY | {"missing": {}} | data)
    page = path.read_text()
    (content,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return page, json.loads(content, parse_constant=pytest.fail)


def test_the_page_is_whole(tmp_path):
    page, _ = written(tmp_path / "report.html")
    assert "plotly.js v" in page
    own = page.replace(re.search(r"<script>\n/\*\*.*?</script>", page, re.DOTALL)[0], "")
    assert not re.findall(r"@[A-Z]+@", own)
    assert set(re.findall(r"https?://[^\"'\s;)]+", own)) == {"http://www.w3.org/2000/svg"}, "a name, not an address"
    assert re.findall(r"(?:src|href)=\"([^\"]+)\"", own) == ["data:,"]
    assert "default-src 'none'" in own


def test_names_cannot_end_the_data(tmp_path):
    name = "</script><script>alert(1)</script> & \u2028 ünï"
    _, data = written(tmp_path / "report.html", runs=[{"name": name}])
    assert data["runs"] == [{"name": name}]


def test_numbers_of_the_page(tmp_path):
    values = {"nan": float("nan"), "array": np.array([1.0, np.nan, np.inf, 1 / 3]), "one": np.float64(2.5)}
    _, data = written(tmp_path / "report.html", about=values | {"ints": np.arange(3), "bool": np.True_, "exact": 1 / 3})
    assert data["about"] == {
        "nan": None,
        "array": [1, None, None, 0.333333],
        "one": 2.5,
        "ints": [0, 1, 2],
        "bool": True,
        "exact": 1 / 3,
    }


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_packed_cells_are_close(cells):
    values = np.array(cells)[None]
    found = packed(values)
    steps = np.frombuffer(base64.b64decode(found["data"]), "<i2").reshape(found["shape"])
    assert np.abs(steps * found["scale"] - values).max() <= 0.501 * found["scale"]
    assert found["scale"] <= max(np.abs(values).max() / 32767, 1) * (1 + 1e-12)


def test_pictures_come_back(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    _, data = written(tmp_path / "report.html", pictures=[picture])
    kind, _, content = data["pictures"][0].partition(",")
    assert kind == "data:image/png;base64"
    (tmp_path / "it.png").write_bytes(base64.b64decode(content))
    assert (np.array(Image.open(tmp_path / "it.png")) == picture).all()


def test_ten_long_runs_stay_small(tmp_path):
    """Ten runs of 5,000 points: under 10 MB, of which Plotly is a half."""
    rng, runs = np.random.default_rng(0), {}
    for run in range(10):
        steps = np.cumsum(rng.integers(17_000, 19_000, 5_000))
        lines = [
            {"step": int(s), "wall_time": round(s / 77e3, 3), "return": rng.normal(), "test_return": rng.normal()}
            for s in steps
        ]
        runs[a_run(tmp_path / f"run{run}", lines)] = a_config(rate=run)
    curves, _ = learning_curves(runs)
    assert sum(len(curve["by"]["step"]["x"]) for curve in curves) == 100_000
    path = tmp_path / "report.html"
    written(path, curves=curves)
    assert path.stat().st_size < 10e6


def test_without_plotly_a_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(RunError, match="pip install plotly"):
        write_page(tmp_path / "report.html", EMPTY)
    assert not list(tmp_path.iterdir())


# --- films ----------------------------------------------------------------------------------------------------------


def test_a_film(tmp_path):
    pictures = [np.full((30, 50, 3), 40 * i, np.uint8) for i in range(4)]
    write_film(tmp_path / "film.gif", pictures, [f"core\nstep {i}" for i in range(4)], fps=4)
    film = Image.open(tmp_path / "film.gif")
    assert (film.n_frames, film.info["loop"]) == (4, 0)
    for i in range(4):
        film.seek(i)
        frame = np.array(film.convert("RGB"))
        assert frame.shape[1] == 400, "magnified by a whole number"
        assert np.abs(frame[:240].astype(int) - 40 * i).max() <= 8
        assert np.ptp(frame[240:].astype(int)) > 100, "text below"
        assert film.info["duration"] == 250 or i == 3


def test_a_film_as_mp4(tmp_path):
    pictures = [np.full((31, 51, 3), 60 * i, np.uint8) for i in range(4)]
    path = tmp_path / "film.mp4"
    write_film(path, pictures, [f"core\nstep {i}" for i in range(4)], fps=4)
    frames = imageio_ffmpeg.read_frames(str(path))
    about = next(frames)
    width, height = about["size"]
    shown = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames]
    assert (about["fps"], about["codec"], width) == (4, "h264", 408)
    assert len(shown) == 4 + 16, "the end stays for four seconds"
    assert [round(frame[:240].mean() / 60) for frame in shown] == [0, 1, 2, *[3] * 17]


def test_other_films_are_one_line(tmp_path):
    with pytest.raises(RunError, match=r"film.avi: choose .gif or .mp4$"):
        write_film(tmp_path / "film.avi", [], [], 4)
