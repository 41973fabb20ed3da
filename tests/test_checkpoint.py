"""A checkpoint file returns every value as it was, or says that it is damaged."""

import os
import random
import subprocess
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engram import checkpoint


def same(a, b) -> bool:
    """Equal in type, dtype, shape and every bit (so that NaN equals NaN)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()
        )
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


DTYPES = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes()
    | hnp.complex_number_dtypes()
    | hnp.unicode_string_dtypes()
    | hnp.datetime64_dtypes()
    | hnp.array_dtypes()
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3))
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats() | st.text(max_size=5) | ARRAYS
TREES = st.recursive(
    LEAVES | ARRAYS.map(lambda array: array.flat[0] if array.size else None),
    lambda tree: (
        st.lists(tree, max_size=3)
        | st.lists(tree, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), tree, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")  # field names beyond Latin-1
@settings(max_examples=100, deadline=None)
@given(tree=TREES)
def test_a_checkpoint_returns_every_value_as_it_was(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "file"
    checkpoint.save(path, {"tree": tree})
    assert same(checkpoint.load(path), {"tree": tree})


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.uint16, torch.uint64, torch.int64, torch.float16, torch.float64, torch.complex64],
    ids=str,
)
def test_a_checkpoint_returns_every_tensor_as_it_was(dtype, tmp_path):
    tensors = {"matrix": torch.tensor([[0, 1], [1, 0]]).to(dtype), "scalar": torch.ones((), dtype=dtype)}
    checkpoint.save(tmp_path / "file", tensors)
    assert same(checkpoint.load(tmp_path / "file"), tensors)


def test_a_model_and_its_optimiser_go_through_a_checkpoint(tmp_path):
    def trained():
        torch.manual_seed(0)
        model = torch.nn.LSTM(2, 3)
        optimiser = torch.optim.Adam(model.parameters())
        model(torch.ones(4, 1, 2))[0].sum().backward()
        optimiser.step()
        return model, optimiser

    model, optimiser = trained()
    checkpoint.save(tmp_path / "file", {"model": model.state_dict(), "optimiser": optimiser.state_dict()})
    state = checkpoint.load(tmp_path / "file")
    assert isinstance(state["model"], OrderedDict)
    assert state["model"]._metadata == model.state_dict()._metadata
    assert same(state["optimiser"], optimiser.state_dict())
    other = torch.nn.LSTM(2, 3)
    other.load_state_dict(state["model"])
    assert same(dict(other.state_dict()), dict(model.state_dict()))


def test_a_view_is_stored_without_the_tensor_it_looks_into(tmp_path):
    rollout = torch.zeros(1000, 10, requires_grad=True)
    checkpoint.save(tmp_path / "file", {"last": rollout[-1]})
    assert (tmp_path / "file").stat().st_size < 4000
    assert not checkpoint.load(tmp_path / "file")["last"].requires_grad


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"carry": [object()]}, r"state\['carry'\]\[0\] is a object"),
        ({"carry": torch.Size([1])}, r"state\['carry'\] is a Size"),
        ({"names": np.array(["a", None], dtype=object)}, r"state\['names'\] is a ndarray"),
        ({"counts": {np.int64(3): 1}}, r"state\['counts'\] has the key np.int64\(3\)"),
    ],
)
def test_what_would_not_come_back_is_refused_by_name(value, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        checkpoint.save(tmp_path / "file", value)
    assert not list(tmp_path.iterdir())


def test_random_state_goes_through_a_checkpoint(tmp_path):
    def draws():
        return random.gauss(0, 1), np.random.standard_normal(), torch.randn(3).tolist()  # noqa: NPY002

    draws()  # the generators that keep half a pair of normals hold one now
    checkpoint.save(tmp_path / "file", checkpoint.random_state())
    expected = draws()
    checkpoint.set_random_state(checkpoint.load(tmp_path / "file"))
    assert draws() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_random_state_and_map_location(tmp_path):
    torch.cuda.manual_seed(3)
    saved = {"weights": torch.zeros(3), "envs": np.eye(3), "random": checkpoint.random_state()}
    checkpoint.save(tmp_path / "file", saved)
    expected = torch.randn(3, device="cuda")
    state = checkpoint.load(tmp_path / "file", "cuda")
    checkpoint.set_random_state(state["random"])
    assert state["weights"].is_cuda
    assert same(state["envs"], saved["envs"])
    assert torch.equal(torch.randn(3, device="cuda"), expected)


def test_a_checkpoint_cut_short_or_changed_anywhere_is_noticed(tmp_path):
    path = tmp_path / "file"
    checkpoint.save(path, {"weights": torch.arange(5000.0), "rng": np.random.default_rng(1).bit_generator.state})
    content = path.read_bytes()
    torch.load(path, weights_only=True)  # plain torch reads the file as well
    lengths = [0, 1, checkpoint.DIGEST_SIZE, len(content) // 2, len(content) - 1]
    places = [0, 10, len(content) // 2, len(content) - checkpoint.DIGEST_SIZE - 1, len(content) - 1]
    damaged = [content[:length] for length in lengths]
    damaged += [content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] for place in places]
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(checkpoint.DamagedCheckpoint):
            checkpoint.load(path)


def test_what_is_no_file_is_written_to_as_it_is(tmp_path):
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_bytes)
        checkpoint.write_atomically(pipe, b"a", b"b")
        assert read.result(10) == b"ab"
    assert pipe.is_fifo()
    link.symlink_to(file)
    checkpoint.write_atomically(link, b"c")
    assert link.is_symlink()
    assert file.read_bytes() == b"c"
    program = "from engram.checkpoint import *; print('a'); write_atomically(Path('/dev/stdout'), b'b', b'c')"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"a\nbc"
    with open(file, "wb") as stdout:
        subprocess.run(command, stdout=stdout, check=True)
    assert file.read_bytes() == b"a\nbc"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_a_file_in_shared_memory_is_replaced():
    with TemporaryDirectory(dir="/dev/shm") as folder:
        file = Path(folder) / "file"
        for content in b"ab", b"c":
            checkpoint.write_atomically(file, content)
            assert file.read_bytes() == content
