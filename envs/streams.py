"""Random numbers inside compiled kernels: a SplitMix64 stream kept in the field `rng` of a record.

NumPy's generators promise no stable stream across versions and cannot be stored per member; eight bytes can. A
*stream* below is any record with a `uint64` field `rng`, such as one member of a batched environment. Its array has to
come from outside of the kernel: Numba does not keep an array alive for the sake of a record in it.
"""

import numpy as np

from engram.kernels import njit

STREAM = np.dtype([("rng", "u8")])

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_27, _30, _31, _32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


@njit(cache=True)
def mix(word):
    """A bijection of 64-bit words in which every input bit moves every output bit (Steele et al. 2014)."""
    word = np.uint64(word) + _INCREMENT
    word = (word ^ (word >> _30)) * _MIX_1
    word = (word ^ (word >> _27)) * _MIX_2
    return word ^ (word >> _31)


@njit(inline="always")  # records of different games are different types, each compiled into its own kernel
def below(stream, n):
    """Next integer of the stream, uniform in 0..n-1, for 0 < n <= 2**31 (bias below n / 2**32)."""
    word = mix(stream.rng)
    stream.rng += _INCREMENT
    return np.int64(((word >> _32) * np.uint64(n)) >> _32)


@njit(inline="always")
def other_than(stream, n, excluded):
    """Next integer of the stream, uniform in 0..n-1 without `excluded`."""
    value = below(stream, n - 1)
    return value + 1 if value >= excluded else value


@njit(inline="always")
def chance(stream, probability):
    """True with this probability, from the next integer of the stream."""
    return below(stream, 2**31) < probability * 2**31


def seeded(seeds: list[int]) -> np.ndarray:
    """One well mixed `uint64` stream state per seed, [len(seeds)]."""
    return np.array([np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] for seed in seeds], np.uint64)
