"""Tests run single-threaded: their tensors are small, and several test processes share the cores."""

import os

os.environ.pop("ENGRAM_DATA", None)  # whoever has real data tests with generated data, too
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"  # for the programs that tests start

import torch

torch.set_num_threads(1)
