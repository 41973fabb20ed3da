"""The page of a report in a real browser: what it draws, what it says, what it asks the network for (nothing)."""

import argparse
import base64
import csv
import fcntl
import io
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval_rl
import train_rl
from engram import checkpoint
from engram.supervised import train as train_supervised
from engram.supervised.tasks import AssociativeRetrieval

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
]


class Chromium:
    """A headless Chromium with one page, driven by the DevTools protocol over a pair of pipes.

    `events` are all that it has reported so far, `complaints` what went wrong in it.
    """

    def __init__(self, timeout: float = 120.0):
        self.timeout, self.events, self._ids, self._buffer = timeout, [], itertools.count(1), b""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands, answers = ([fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe()] for _ in range(2))
        script = f'exec "$0" "$@" 3<&{commands[0]} 4>&{answers[1]}'  # it reads from 3 and writes to 4
        flags = [*FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, EXECUTABLE, *flags],
            pass_fds=(commands[0], answers[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands[0])
        os.close(answers[1])
        self._write, self._read = commands[1], answers[0]
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """A command's result; RuntimeError with what the browser says if it fails."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        deadline = time.monotonic() + self.timeout
        while True:
            answer = self._message(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _message(self, deadline):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            found = os.read(self._read, 1 << 20) if ready else b""
            if not found:
                raise RuntimeError(f"Chromium does not answer within {self.timeout} s")
            self._buffer += found
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, path):
        """Load a report, until all of it is drawn."""
        self.events.clear()
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        deadline = time.monotonic() + self.timeout
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._message(deadline)
        self.run("new Promise((done) => (function look() { waiting.length ? setTimeout(look) : done(); })())")

    def run(self, expression):
        """The value of a JavaScript expression, as JSON carries it; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def settle(self):
        """Wait until what was asked for has been drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def size(self, width, height, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def media(self, kind="", scheme="light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def screenshot(self, path, whole=True):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    @property
    def requests(self):
        """Addresses asked for since `open`, but for data that the page brings itself."""
        sent = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "blob:"))]

    @property
    def complaints(self):
        """Exceptions, and lines of the console that are errors or warnings, since `open`."""
        found = [e["params"]["exceptionDetails"] for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        calls = [e["params"] for e in self.events if e["method"] == "Runtime.consoleAPICalled"]
        entries = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        found += [call for call in calls if call["type"] in ("error", "warning", "assert")]
        return found + [entry for entry in entries if entry["level"] in ("error", "warning")]

    def close(self):
        os.close(self._write)  # it ends when nobody commands it
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        self._profile.cleanup()


# --- the runs -------------------------------------------------------------------------------------------------------

LENGTH, LEVELS = 14, 9
SMALL = f"--env graph-pomdp --env.kwargs.episode-length {LENGTH} --env.kwargs.num-levels {LEVELS} --env.num-envs 8"
SMALL += " --unroll-length 7 --eval-episodes 4 --total-steps 700 --eval-interval 200 --log-interval 1"
CORES = {
    "fwm-s0": "--core fwm --core.hidden-size 8 --core.memory-size 6 --core.num-reads 2",
    "fwm-s1": "--core fwm --core.hidden-size 8 --core.memory-size 6 --core.num-reads 2 --seed 1",
    "lstm": "--core lstm --core.hidden-size 8 --optim.learning-rate 0.01",
    "rmc": "--core rmc --core.head-size 4 --core.num-heads 2 --core.num-slots 3",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds a run of each of CORES, and reports of them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, core in CORES.items():
        assert train_rl.main([*f"{SMALL} {core} --folder {folder / name}".split()]) == 0
    return folder


def evaluated(folder, *flags):
    assert eval_rl.main([*map(str, flags)]) == 0
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    """What --json says beside the report that most tests open."""
    runs = [folder / name for name in CORES]
    evaluated(folder, *runs, "--report", folder / "report.html", "--json", folder / "scores.json", "--episode", 5)
    return json.loads((folder / "scores.json").read_text())


@pytest.fixture(scope="module")
def browser():
    if EXECUTABLE is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    chromium = Chromium()
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def opened(browser, folder, rows):
    browser.size(1200, 900)
    browser.media()
    browser.open(folder / "report.html")
    return browser


@pytest.fixture
def page(opened):
    """The report at desktop size in light colours, nothing having gone wrong in it, before and after the test."""
    assert (opened.complaints, len(opened.requests)) == ([], 1)
    yield opened
    assert (opened.complaints, len(opened.requests)) == ([], 1)


def chart(page, name, expression):
    """A JavaScript expression about the chart `node`."""
    return page.run(f"""(() => {{
        const node = document.querySelector('[data-chart="{name}"]');
        return {expression};
    }})()""")


def choose(page, value, within="main"):
    """Press the radio button of a value, or pick it from a list."""
    page.run(f"""(() => {{
        const within = document.querySelector('{within}');
        const button = within.querySelector('input[value="{value}"]');
        if (button) button.click();
        else {{
            const list = within.querySelector('option[value="{value}"]').closest("select");
            list.value = "{value}";
            list.dispatchEvent(new Event("change"));
        }}
    }})()""")
    page.settle()


def go(page, step):
    page.run(f"""(() => {{
        const slider = document.querySelector("#walk input");
        slider.value = {step};
        slider.dispatchEvent(new Event("input"));
    }})()""")
    page.settle()


def saved(page, name):
    """Rows of the CSV that a button saves, as dictionaries."""
    text = page.run(f"""(async () => {{
        const make = URL.createObjectURL;
        let blob;
        URL.createObjectURL = (given) => {{ blob = given; return "data:,"; }};
        document.querySelector('[data-csv="{name}"]').click();
        URL.createObjectURL = make;
        return blob.text();
    }})()""")
    return list(csv.DictReader(io.StringIO(text)))


def metrics(folder, name, scalar="return"):
    """Lines of a run's metrics that have a scalar."""
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if scalar in line]


# --- curves and scores ----------------------------------------------------------------------------------------------


def test_curves_have_their_points(page, folder, rows):
    traces = chart(page, "curves graph-pomdp", "node.data.map((t) => ({name: t.name, x: t.x, y: t.y, mode: t.mode}))")
    by = {}
    for trace in traces:
        if trace["mode"] != "lines+text":
            by.setdefault(trace.get("name"), []).append(trace)
    levels = [trace for trace in traces if trace["mode"] == "lines+text"]
    assert [name for name in by if name] == ["fwm (2 seeds)", "lstm", "rmc"]
    assert len(by[None]) == 4, "two edges of a band, in training and in evaluations"
    for name in "lstm", "rmc":
        train, test = by[name]
        lines = metrics(folder, name)
        held = metrics(folder, name, "test_return")
        assert (len(train["x"]), len(test["x"])) == (len(lines), len(held))
        assert train["x"] == [line["step"] for line in lines]
        assert test["y"] == pytest.approx([line["test_return"] for line in held], rel=1e-5)
    means = {row["mean"] for row in rows if row["policy"] != "agent" and row["split"] == "test"}
    assert {trace["y"][0] for trace in levels} == means


def test_curves_over_wall_time(page, folder, rows):
    choose(page, "seconds", "#curves")
    name = "node.data.find((t) => t.name === 'lstm')"
    assert chart(page, "curves graph-pomdp", f"{name}.x") == pytest.approx(
        [line["wall_time"] for line in metrics(folder, "lstm")], rel=1e-4
    )
    assert "wall time" in chart(page, "curves graph-pomdp", "node.layout.xaxis.title.text")
    choose(page, "step", "#curves")
    assert "steps" in chart(page, "curves graph-pomdp", "node.layout.xaxis.title.text")


def test_axes_are_named(page):
    charts = page.run("[...document.querySelectorAll('.js-plotly-plot')].map((node) => node.dataset.chart)")
    assert charts == ["curves graph-pomdp", "returns graph-pomdp", "map", "row", "traces"]
    for name in charts:
        assert chart(page, name, "node.layout.xaxis.title.text"), name


def test_the_table_shows_the_numbers_of_the_json(page, rows):
    shown = page.run(
        "[...document.querySelectorAll('[data-scores] tbody tr')].map((r) => [...r.children].map((c) => c.textContent))"
    )
    agents = [row for row in rows if row["policy"] == "agent"]
    assert [line[0] for line in shown[:4]] == [
        f"{row['core']} · {name}" for row, name in zip(agents[::2], CORES, strict=True)
    ]
    expected = {}
    for row in rows:
        name = row["policy"] if row["policy"] != "agent" else row["run"].rpartition("/")[2]
        expected.setdefault(name, {})[row["split"]] = f"{row['mean']:.2f} ± {row['standard_error']:.2f}"
    assert len(shown) == len(expected) == 8, "references once, since all runs have the same"
    for first, _, train, test in shown:
        assert expected[first.rpartition(" ")[2]] == {"train": train, "test": test}


def test_csv_of_the_scores(page, rows):
    for line, row in zip(saved(page, "scores-graph-pomdp"), rows, strict=True):
        assert line.keys() == row.keys()
        for name, value in row.items():
            assert line[name] == ("" if value is None else str(value)) or float(line[name]) == value


def test_csv_of_curves_and_returns(page, folder, rows):
    lines = [line for line in saved(page, "curves-graph-pomdp") if line["curve"] == "lstm" and line["kind"] == "train"]
    assert [int(line["step"]) for line in lines] == [line["step"] for line in metrics(folder, "lstm")]
    own = [row for row in rows if row["policy"] == "agent" and row["split"] == "test"]
    returns = saved(page, "returns-graph-pomdp")
    for row in own:
        found = [
            float(r["return"]) for r in returns if (r["run"], r["policy"], r["split"]) == (row["run"], "agent", "test")
        ]
        assert len(found) == LEVELS
        assert np.mean(found) == pytest.approx(row["mean"], abs=1e-3)


def test_returns_of_a_split(page, rows):
    def drawn():
        return chart(page, "returns graph-pomdp", "node.data.map((t) => t.x.reduce((a, b) => a + b) / t.x.length)")

    of = {split: [row["mean"] for row in rows if row["split"] == split] for split in ("train", "test")}
    assert all(any(mean == pytest.approx(m, abs=1e-3) for m in of["test"]) for mean in drawn())
    choose(page, "train", "#scores")
    assert len(drawn()) == 8
    assert all(any(mean == pytest.approx(m, abs=1e-3) for m in of["train"]) for mean in drawn())


def test_settings(page):
    lines = page.run("[...document.querySelectorAll('#settings > .wide tbody tr')].map((r) => r.innerText)")
    fields = {line.split()[0]: line.split()[1:] for line in lines}
    assert fields["core_name"] == ["fwm", "fwm", "lstm", "rmc"]
    assert fields["seed"] == ["0", "1", "0", "0"]
    assert fields["optim.learning_rate"][2] == "0.01"


# --- memory ---------------------------------------------------------------------------------------------------------


def test_the_slider_walks_the_episode(page):
    cells = chart(page, "map", "node.data[0].z")
    assert np.shape(cells) == (LENGTH, LENGTH)
    agents = page.run("data.memories[0].scenes.agent")
    for step in (0, 3, LENGTH - 1, 5):
        go(page, step)
        assert chart(page, "map", "[node.layout.shapes.length, node.layout.shapes[0].y0]") == [1, step - 0.5]
        assert chart(page, "traces", "[node.layout.shapes.length, node.layout.shapes[0].x0]") == [1, step]
        rows = chart(page, "row", "node.data[0].z")
        assert rows[-1] == cells[step], "the last read is the one the map shows"
        assert page.run("document.querySelector('[data-agent]').dataset.agent") == str(agents[step])
        assert page.run("document.getElementById('where').textContent") == f"step {step} of {LENGTH - 1}"
        assert page.run("document.querySelector('tr.here').dataset.step") == str(step)


def test_pointing_at_a_step_shows_its_row(page):
    go(page, 2)
    chart(page, "map", "node.emit('plotly_hover', {points: [{x: 1, y: 7}]}), 0")
    page.settle()
    assert page.run("document.querySelector('#walk input').value") == "7"
    assert chart(page, "row", "node.data[0].z").pop() == chart(page, "map", "node.data[0].z")[7]
    chart(page, "traces", "node.emit('plotly_click', {points: [{x: 4, y: 0}]}), 0")
    page.settle()
    assert page.run("document.querySelector('#walk input').value") == "4"


def test_maps_are_those_of_the_core(page, folder):
    """The CSV of a map against the maps computed here."""
    args = argparse.Namespace(episode=5, seed=0, greedy=False)
    judged = eval_rl.Judged.load(str(folder / "fwm-s0"), "test")
    _, memory = eval_rl.recall(judged, args)
    for name, found in memory.maps.items():
        choose(page, name, "#memory")
        lines = saved(page, f"map-{name}")
        assert len(lines) == found.values.size
        step = np.abs(found.values).max() / 32767
        for line in lines[:: 1 + len(lines) // 200]:
            cell = found.values[tuple(int(line[axis]) for axis in found.axes)]
            assert float(line["value"]) == pytest.approx(cell, abs=step)
    last = found.at(read=found.values.shape[2] - 1)
    for chosen, expected in ((None, last.at(chain=0)), ("mean", last.mean("chain")), (0, last.at(chain=0))):
        if chosen is not None:
            choose(page, chosen, "#memory fieldset:nth-of-type(2)")  # behind the choice of a map
        np.testing.assert_allclose(chart(page, "map", "node.data[0].z"), expected.values, atol=2 * step)
    choose(page, "query_key", "#memory")


def test_edges_light_up_by_what_taught_them(page):
    """The width of an edge in the graph is the largest cell of the steps that taught it."""
    memory = page.run("({scenes: data.memories[0].scenes, action: data.memories[0].action})")
    scenes, step = memory["scenes"], LENGTH - 1
    go(page, step)
    cells = chart(page, "map", "node.data[0].z")[step]
    weights = {}
    for t in range(1, step + 1):
        before, action = scenes["agent"][t - 1], memory["action"][t - 1]
        after = scenes["successors"][0][before][action]
        if after >= 0:
            weights.setdefault(f"{before},{after}", []).append(cells[t])
    edges = "[...document.querySelectorAll('[data-edge]')]"
    drawn = page.run(f"{edges}.map((e) => ({{...e.dataset, dash: e.getAttribute('stroke-dasharray')}}))")
    assert {edge["edge"] for edge in drawn} >= weights.keys()
    for edge in drawn:
        expected = max(weights.get(edge["edge"], [0]), key=abs)
        assert float(edge["weight"]) == pytest.approx(expected)
        assert (edge["dash"] == "") == (edge["edge"] in weights), "dashed: not tried yet"


def test_other_runs(page):
    """A core without maps says so and the rest is drawn; slots have names."""
    choose(page, 2, "#memory")
    assert "LSTM has no maps" in page.run("document.querySelector('#memory .missing').textContent")
    assert page.run("document.querySelectorAll('#memory .js-plotly-plot').length") == 1
    go(page, 3)
    assert chart(page, "traces", "node.layout.shapes[0].x0") == 3
    choose(page, 3, "#memory")
    assert chart(page, "map", "node.layout.xaxis.ticktext") == ["slot 0", "slot 1", "slot 2", "input 0"]
    cells = np.array(chart(page, "map", "node.data[0].z"))
    np.testing.assert_allclose(cells.sum(1), 1, atol=1e-3)
    choose(page, 0, "#memory")
    assert page.run("document.querySelectorAll('#memory .js-plotly-plot').length") == 3


# --- looks ----------------------------------------------------------------------------------------------------------


def colour(page, of="background-color", node="body"):
    style = page.run(f"getComputedStyle(document.querySelector('{node}')).getPropertyValue('{of}')")
    return [int(part) for part in re.findall(r"\d+", style)[:3]]


def test_light_and_dark(page):
    assert min(colour(page)) > 240
    page.media(scheme="dark")
    page.settle()
    assert max(colour(page)) < 60
    dark = chart(page, "map", "[node.layout.font.color, node.data[0].colorscale]")
    page.run("document.getElementById('theme').click()")
    page.settle()
    assert min(colour(page)) > 240
    light = chart(page, "map", "[node.layout.font.color, node.data[0].colorscale]")
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    page.run("delete document.documentElement.dataset.theme")
    page.media()
    page.settle()


def test_on_a_phone_nothing_sticks_out(page):
    page.size(390, 800, mobile=True)
    page.settle()
    page.settle()
    assert page.run("document.documentElement.scrollWidth") <= 390
    widths = page.run(
        "[...document.querySelectorAll('.js-plotly-plot .main-svg')].map((n) => n.getBoundingClientRect().width)"
    )
    assert max(widths) <= 390
    page.size(1200, 900)
    page.settle()
    page.settle()


def test_on_paper_it_is_light_and_fits(page):
    page.media(kind="print", scheme="dark")
    page.settle()
    page.settle()
    assert min(colour(page)) > 240
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    widths = page.run(
        "[...document.querySelectorAll('.js-plotly-plot .main-svg')].map((n) => n.getBoundingClientRect().width)"
    )
    assert max(widths) <= 690
    page.media()
    page.settle()
    page.settle()
    assert page.run("document.documentElement.dataset.theme ?? null") is None


# --- a planted association ------------------------------------------------------------------------------------------


def test_a_planted_association_is_the_bright_cell(browser, folder, tmp_path):
    """An FWM made by hand, whose keys and queries are the state it is in: each step reads the visits of that state."""
    run = tmp_path / "planted"
    sizes = "--core.hidden-size 5 --core.memory-size 5 --core.num-reads 1 --core.num-chains 1"
    flags = f"{SMALL} --core fwm {sizes} --folder {run}"
    assert train_rl.main(flags.split()) == 0
    (path,) = sorted((run / "checkpoints").glob("*.pt"))[-1:]
    content = checkpoint.load(path)
    weights = content["state"]["learner"]["policy"]
    for name, value in weights.items():
        if name.startswith("core."):
            value.zero_()
    one = torch.eye(5)
    weights["core.lstm.weight_ih"][10:15, 5:10] = 9 * one  # the cell's input is the agent's place, one-hot
    gates = weights["core.lstm.bias_ih"]
    gates[:5], gates[5:10], gates[15:] = 9, -9, 9  # all of it comes in, nothing stays, all of it goes out
    weights["core.write.weight"][:10] = 4 * torch.cat([one, one])
    weights["core.read.weight"][:] = 4 * torch.cat([one, one])
    checkpoint.save(path, content)
    evaluated(tmp_path, run, "--split", "test", "--report", tmp_path / "planted.html")
    browser.size(1200, 900)
    browser.media()
    browser.open(tmp_path / "planted.html")
    places = browser.run("data.memories[0].scenes.agent")[:LENGTH]
    cells = np.array(chart(browser, "map", "node.data[0].z"))
    again = 0
    for t, place in enumerate(places):
        visits = [s for s in range(t + 1) if places[s] == place]
        again += len(visits) > 1
        bright = np.flatnonzero(cells[t] > 0.9 * cells.max())
        assert bright.tolist() == visits, f"step {t}"
        go(browser, t)
        told = browser.run("[...document.querySelectorAll('#said li')].map((line) => line.textContent.trim())")
        named = [int(line.split()[1]) for line in told if line.startswith("step ")]
        assert set(named) <= set(visits)
        assert named
    assert again > 3, "an episode in which states come back"
    assert browser.complaints == []


# --- a sentence -----------------------------------------------------------------------------------------------------

WORDS = "c 9 k 8 j 3 ? ? k"
RECALL = "--task associative-retrieval --task.num-pairs 4 --batch-size 4 --total-updates 2 --eval-interval 2"


def inspected(folder, chosen, page, capsys):
    """Draws a page; returns what is printed beside it."""
    capsys.readouterr()
    argv = ["--eval", str(folder), "--inspect", chosen, "--report", str(page)]
    assert train_supervised.main(argv) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def few_valid(monkeypatch):
    monkeypatch.setattr(AssociativeRetrieval, "valid_size", 8)


@pytest.fixture
def recalling(tmp_path, few_valid):
    """An FWM made by hand, whose keys and queries are the token it reads: each token reads where it was before."""
    run, size = tmp_path / "planted", 37
    flags = f"{RECALL} --core fwm --core.hidden-size {size} --core.memory-size {size} --core.num-reads 2"
    assert train_supervised.main([*flags.split(), "--model.embedding-size", str(size), "--folder", str(run)]) == 0
    path = max((run / "checkpoints").glob("*.pt"))
    content = checkpoint.load(path)
    weights = content["state"]["model"]
    for name, value in weights.items():
        if name.startswith("core."):
            value.zero_()
    one = torch.eye(size)
    weights["encoder.weight"].copy_(one)
    weights["core.lstm.weight_ih"][2 * size : 3 * size] = 9 * one
    gates = weights["core.lstm.bias_ih"]
    gates[:size], gates[size : 2 * size], gates[3 * size :] = 9, -9, 9
    weights["core.write.weight"][: 2 * size] = 4 * torch.cat([one, one])
    weights["core.read.weight"][: 2 * size] = 4 * torch.cat([one, one])
    content["state"]["best"] = None
    checkpoint.save(path, content)
    return run


def test_a_word_finds_the_step_where_it_was(browser, recalling, tmp_path, capsys):
    """The planted association: in the row of the word asked for, the bright cells are that word's."""
    printed = inspected(recalling, WORDS, tmp_path / "page.html", capsys)
    browser.size(1200, 900)
    browser.media()
    browser.open(tmp_path / "page.html")
    assert (browser.complaints, len(browser.requests)) == ([], 1)
    words = WORDS.split()
    assert printed["words"] == words
    charts = browser.run("[...document.querySelectorAll('.js-plotly-plot')].map((node) => node.dataset.chart)")
    assert charts == ["map", "row", "traces", "curves associative-retrieval"]
    choose(browser, 0, ".two .controls")  # the first read
    for axis in ("xaxis", "yaxis"):
        assert chart(browser, "map", f"node.layout.{axis}.ticktext") == words
        assert chart(browser, "map", f"node.layout.{axis}.tickvals") == list(range(len(words)))
        assert chart(browser, "map", f"node.layout.{axis}.title.text").startswith("word at which memory")
    cells = np.array(chart(browser, "map", "node.data[0].z"))
    for t, word in enumerate(words):
        same = [s for s in range(t + 1) if words[s] == word]
        assert np.flatnonzero(cells[t] > 0.9 * cells.max()).tolist() == same, f"step {t}"
        go(browser, t)
        shown = browser.run("[...document.querySelectorAll('.word')].map((word) => ({...word.dataset}))")
        assert [float(word["weight"]) for word in shown] == pytest.approx(cells[t])
        coloured = browser.run("[...document.querySelectorAll('.word')].map((word) => word.style.background !== '')")
        assert np.flatnonzero(coloured).tolist() == same
        assert browser.run("document.querySelector('.word.now').dataset.word") == str(t)
        told = browser.run("[...document.querySelectorAll('#said li')].map((line) => line.textContent.trim())")
        assert told[0] == f"Step {t} reads “{word}”."
        assert {line.split(":")[0] for line in told if line.startswith("step ")} <= {f"step {s} ({word})" for s in same}
    browser.run("document.querySelector('[data-word=\"2\"]').click()")
    browser.settle()
    assert browser.run("document.querySelector('#walk input').value") == "2"


def test_the_answers_are_those_of_the_json(browser, recalling, tmp_path, capsys):
    printed = inspected(recalling, "5", tmp_path / "page.html", capsys)
    browser.size(1200, 900)
    browser.open(tmp_path / "page.html")
    (memory,) = browser.run("data.memories")
    shared = printed.keys() - {"page"}
    assert {name: memory[name] for name in shared} == {name: printed[name] for name in shared}
    (answer,) = printed["answers"]
    said = browser.run("document.getElementById('said').innerText")
    assert f"It answers “{answer['said']}”" in said
    lines = saved(browser, "steps")
    assert [line["word"] for line in lines] == printed["words"]
    asked = lines.pop(answer["step"])
    assert (asked["answer"], asked["right answer"]) == (answer["said"], answer["right"])
    assert float(asked["probability"]) == answer["probability"]
    assert float(asked["its probability"]) == answer["right_probability"]
    assert all(line["answer"] == line["probability"] == "" for line in lines)
    bars = chart(browser, "traces", "node.data[0].y")
    assert bars == [None] * answer["step"] + [answer["right_probability"]]
    shown = browser.run("document.querySelector('.answer').textContent")
    assert shown == f" → {answer['said']} {'✓' if answer['said'] == answer['right'] else '✗'}"
    for width in (390, 1200):
        browser.size(width, 800, mobile=width < 500)
        browser.settle()
        browser.settle()
        assert browser.run("document.documentElement.scrollWidth") <= width
    assert (browser.complaints, len(browser.requests)) == ([], 1)


@pytest.mark.parametrize("core", ["mlp", "rmc"])
def test_a_sentence_of_a_core_that_looks_at_no_past(core, browser, few_valid, tmp_path, capsys):
    run = tmp_path / core
    assert train_supervised.main([*RECALL.split(), "--core", core, "--folder", str(run)]) == 0
    (run / "metrics.jsonl").unlink()
    inspected(run, WORDS, tmp_path / "page.html", capsys)
    browser.size(1200, 900)
    browser.open(tmp_path / "page.html")
    assert (browser.complaints, len(browser.requests)) == ([], 1)
    said = browser.run("[...document.querySelectorAll('.missing')].map((node) => node.textContent)")
    assert any("no learning curve" in line for line in said)
    assert any("MLP has no maps" in line for line in said) == (core == "mlp")
    charts = browser.run("[...document.querySelectorAll('.js-plotly-plot')].map((node) => node.dataset.chart)")
    assert charts == (["traces"] if core == "mlp" else ["map", "row", "traces"])
    go(browser, 3)
    assert browser.run("document.querySelector('.word.now').textContent") == "8"
    if core == "rmc":
        assert chart(browser, "map", "node.layout.yaxis.ticktext") == WORDS.split()


# --- what is missing, what cannot be written ------------------------------------------------------------------------


def test_a_report_of_what_there_is(browser, folder, tmp_path, capsys):
    """Two environments, a run without checkpoints, one without metrics."""
    cartpole = tmp_path / "cartpole"
    flags = "--env CartPole-v1 --core gru --core.hidden-size 4 --total-steps 300 --env.num-envs 4 --eval-episodes 3"
    assert train_rl.main([*flags.split(), "--unroll-length", "9", "--folder", str(cartpole)]) == 0
    lost, silent = (Path(shutil.copytree(folder / "lstm", tmp_path / name)) for name in ("lost", "silent"))
    shutil.rmtree(lost / "checkpoints")
    (silent / "metrics.jsonl").unlink()
    evaluated(tmp_path, cartpole, lost, silent, "--report", tmp_path / "report.html", "--episodes", 4)
    browser.size(1200, 900)
    browser.open(tmp_path / "report.html")
    assert (browser.complaints, len(browser.requests)) == ([], 1)
    charts = browser.run("[...document.querySelectorAll('.js-plotly-plot')].map((node) => node.dataset.chart)")
    assert charts[:4] == ["curves CartPole-v1", "curves graph-pomdp", "returns CartPole-v1", "returns graph-pomdp"]
    said = browser.run("[...document.querySelectorAll('.missing')].map((node) => node.textContent)")
    assert f"no learning curve: {silent} has no metrics.jsonl" in said
    assert f"{lost} has no usable checkpoint: none was saved" in said
    assert browser.run("[...document.querySelectorAll('#memory option, #memory input[type=radio]')].length") >= 2


def test_what_cannot_be_written_is_one_line(folder, tmp_path, capsys):
    def failed(*flags):
        assert eval_rl.main([*map(str, flags)]) == 2
        errors = capsys.readouterr().err
        assert re.fullmatch(r"error: [^\n]+\n", errors), errors
        return errors

    run = folder / "lstm"
    assert "there is no folder" in failed(run, "--report", tmp_path / "nowhere" / "report.html")
    assert "it is a folder" in failed(run, "--report", tmp_path)
    assert "choose .gif or .mp4" in failed(run, "--video", tmp_path / "film.avi")
    assert "a report is a page, .html" in failed(run, "--report", tmp_path / "report.pdf")
    assert "--video films one run; got 2" in failed(run, folder / "rmc", "--video", tmp_path / "film.gif")
    assert "there is no run folder" in failed(run, tmp_path / "nowhere", "--report", tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_a_film_of_a_run(folder, tmp_path):
    evaluated(tmp_path, folder / "rmc", "--split", "test", "--episodes", 2, "--video", tmp_path / "film.gif")
    film = Image.open(tmp_path / "film.gif")
    assert film.n_frames == LENGTH + 1
