"""The maps of keys and queries compiled for the CPU, and functions that they share with the cells of recurrent ones."""

import numpy as np

from engram.kernels import FAST, njit
from engram.policies.key_maps import LEAST_NORM, SUM_EPS


@njit(cache=True, fastmath=FAST, nogil=True)
def phi(x, which, y):
    """Fills y with the map of x, whose place in `key_maps.PHIS` is `which`; returns what it divides by."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    if which == 1:
        return softmax(x, y)
    divisor = zero
    if which == 0:
        for m in range(len(x)):
            y[m] = x[m] + one if x[m] > zero else np.exp(x[m])
            divisor += y[m]
        divisor += x.dtype.type(SUM_EPS)
    else:
        for m in range(len(x)):
            y[m] = x[m] * sigmoid(x[m], one)
            divisor += y[m] * y[m]
        divisor = max(np.sqrt(divisor), x.dtype.type(LEAST_NORM))
    for m in range(len(x)):
        y[m] /= divisor
    return divisor


@njit(cache=True, fastmath=FAST, nogil=True)
def phi_backward(x, y, divisor, which, grad, grad_x):
    zero, one = x.dtype.type(0), x.dtype.type(1)
    if which == 1:
        softmax_backward(y, grad, grad_x)
        return
    along = zero
    for m in range(len(x)):
        along += grad[m] * y[m]
    if which == 0:
        for m in range(len(x)):
            slope = one if x[m] > zero else y[m] * divisor
            grad_x[m] = (grad[m] - along) / divisor * slope
    else:
        for m in range(len(x)):
            s = sigmoid(x[m], one)
            grad_x[m] = (grad[m] - y[m] * along) / divisor * s * (one + x[m] * (one - s))


@njit(cache=True, fastmath=FAST, nogil=True)
def softmax(x, y):
    """Fills y, which may be x; returns the sum of the exponentials."""
    largest, total = x[0], x.dtype.type(0)
    for m in range(1, len(x)):
        largest = max(largest, x[m])
    for m in range(len(x)):
        y[m] = np.exp(x[m] - largest)
        total += y[m]
    for m in range(len(x)):
        y[m] /= total
    return total


@njit(cache=True, fastmath=FAST, nogil=True)
def softmax_backward(y, grad, grad_x):
    """Fills grad_x, which may be `grad`."""
    along = y.dtype.type(0)
    for m in range(len(y)):
        along += y[m] * grad[m]
    for m in range(len(y)):
        grad_x[m] = y[m] * (grad[m] - along)


@njit(cache=True, fastmath=FAST, nogil=True)
def sigmoid(x, one):
    """`one` of the type of x, without which it would be a double."""
    return one / (one + np.exp(-x))
