"""One learner in many processes: `torchrun --nproc-per-node K train_rl.py ...` starts K ranks that share every update.

Each rank plays environments of its own, and sums over ranks make their gradients those of one large rollout. Rank 0
alone logs, saves, evaluates and speaks. Without torchrun there is one rank, and nothing here communicates.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(hours=2)
"""how long ranks wait for each other, an evaluation by rank 0 included"""


class RankError(Exception):
    """Another rank has gone, or no longer answers."""


@contextmanager
def joined() -> Iterator[None]:
    """Inside this, the process is one of the ranks that torchrun has started, if it has; all but rank 0 print nothing.

    On a machine with GPUs, `cuda` then means the one that is this rank's.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere) if rank() else nullcontext():
            yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process among the ranks."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launcher(number: int | None = None) -> str:
    """What a user types to start as many ranks on one machine, as many as there are by default."""
    number = number or count()
    return "python" if number == 1 else f"torchrun --nproc-per-node {number}"


def total(tensor: Tensor) -> Tensor:
    """The sum of `tensor`, which has the same shape in every rank; in its place where there are several."""
    if count() > 1:
        _together(dist.all_reduce, tensor)
    return tensor


def add(tensors: list[Tensor]) -> None:
    """Replace each of `tensors` by its sum over ranks, in one exchange."""
    if count() > 1:
        sums = total(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, summed in zip(tensors, sums.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))


def gather(value: Any) -> list[Any] | None:
    """The values of all ranks, tensors on the CPU, in rank 0; None in the others."""
    if count() == 1:
        return [value]
    written = io.BytesIO()
    torch.save(value, written)
    parts = [None] * count() if rank() == 0 else None
    _together(dist.gather_object, written.getvalue(), parts)
    return None if parts is None else [_read(part) for part in parts]


def broadcast(make: Callable[[], Any]) -> Any:
    """What `make` returns in rank 0, which alone calls it; tensors on the CPU."""
    if count() == 1:
        return make()
    written = io.BytesIO()
    if rank() == 0:
        torch.save(make(), written)
    parts = [written.getvalue()]
    _together(dist.broadcast_object_list, parts)
    return _read(parts[0])


def _read(written: bytes) -> Any:
    return torch.load(io.BytesIO(written), map_location="cpu", weights_only=False)  # from a process of this program


def _together(collective: Callable, *args: Any) -> None:
    """Call one of torch.distributed's functions that every rank takes part in."""
    try:
        collective(*args)
    except RuntimeError as error:
        reason, _, _ = str(error).splitlines()[0].partition(". ")  # advice follows
        raise RankError(f"another rank has gone, or does not answer ({reason})") from error
