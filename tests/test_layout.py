"""The folders stay apart: who may import whom, what is packaged, what `import engram` loads."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHARED = {"checkpoint", "command_line", "flags", "optim", "progress", "ranks", "run", "stop"}
MAY_IMPORT = {  # folder: libraries, parts of engram
    "engram": (
        {"PIL", "imageio_ffmpeg", "numba", "numpy", "plotly", "rich", "torch", "tyro"},
        {"envs", "report", *SHARED},
    ),
    "envs": ({"envpool", "gymnasium", "numpy"}, {"envs", "kernels"}),
    "policies": ({"numpy", "torch"}, {"kernels", "policies"}),
    "agents": (
        {"numpy", "ray", "sb3_contrib", "stable_baselines3", "torch", "tyro"},
        {"agents", "policies", *SHARED},
    ),
    "supervised": ({"numpy", "torch", "tyro"}, {"envs", "kernels", "policies", "report", "supervised", *SHARED}),
}


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path):
    """Dotted names of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_folder_has_its_rule():
    assert set(PROJECT["tool"]["setuptools"]["package-dir"].values()) == MAY_IMPORT.keys()


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_import_directions(folder):
    libraries, parts = MAY_IMPORT[folder]
    files = sources(folder)
    assert files
    for path in files:
        for name in imports(path):
            root, _, rest = name.partition(".")
            allowed = rest.split(".")[0] in parts if root == "engram" else root in libraries | sys.stdlib_module_names
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_supervised_tasks_take_nothing_but_random_streams_from_environments():
    for path in sources("supervised"):
        for name in imports(path):
            assert not name.startswith("engram.envs") or name.startswith("engram.envs.streams."), f"{path}: {name}"


def test_folders_are_imported_through_engram():
    bare = MAY_IMPORT.keys() - {"engram"}
    files = [*ROOT.glob("*.py"), *sources(*MAY_IMPORT, "tests", "benchmarks", "examples")]
    assert ROOT / "train_rl.py" in files
    for path in files:
        for name in imports(path):
            assert name.split(".")[0] not in bare, f"{path.relative_to(ROOT)} imports {name}, not engram.{name}"


def test_packages_are_complete():
    from_a_checkout_only = {"benchmarks", "examples"}
    top = {path.parent.name for path in ROOT.glob("*/__init__.py")} - from_a_checkout_only
    assert top == MAY_IMPORT.keys()
    folders = {path.parent.relative_to(ROOT) for path in sources(*top)}
    for folder in folders:
        assert (ROOT / folder / "__init__.py").is_file()
    packages = {
        ".".join(folder.parts if folder.parts[0] == "engram" else ("engram", *folder.parts)) for folder in folders
    }
    declared = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(declared) == sorted(packages)
    for package, folder in PROJECT["tool"]["setuptools"]["package-dir"].items():
        assert package in declared
        assert (ROOT / folder).is_dir()


def test_importing_engram_is_light():
    code = "import sys, engram; print(*{'torch', 'numba', 'tyro', 'tensorboard', 'envpool'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_the_two_commands_of_the_readme():
    commands = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (training,) = (command for command in commands if "python train_rl.py --env graph-pomdp --core fwm" in command)
    (testing,) = (command for command in commands if "pytest" in command)
    for command in training, testing:
        assert command.count("\n") == 1
        assert "pip install -r requirements.txt" in command
    (pattern,) = re.findall(r"grep -E '(.*)' README.md", (ROOT / ".ci/run").read_text())
    found = [line for line in (ROOT / "README.md").read_text().splitlines() if re.search(pattern, line)]
    assert found == [testing.strip()], ".ci/run runs README's line"
