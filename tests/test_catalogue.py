"""The sizes that the catalogue of cores (policies/README.md) lists are those of the cores."""

from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from engram.policies import CORES, Core

CATALOGUE = Path(__file__).parents[1] / "policies" / "README.md"
INPUT_SIZE = 17


class Elementwise(TorchDispatchMode):
    """Counts the numbers that operations write which are neither products nor views."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if not func.is_view and func._overloadpacket not in flop_registry:
            self.numbers += sum(leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))
        return output


def operations(core: Core) -> int:
    """Floating-point operations of the literal step of one row."""
    state, x = core.initial_state(1), torch.zeros(1, core.input_size)
    with FlopCounterMode(display=False) as products, Elementwise() as others:
        core.step(x, state)
    return products.get_total_flops() + others.numbers


def row(names: list[str], core: Core) -> str:
    parameters = sum(parameter.numel() for parameter in core.parameters())
    state = 4 * sum(leaf.numel() for leaf in core.initial_state(1)) / 1024
    shown = ", ".join(f"`{name}`" for name in names)
    return f"| {shown} | {parameters:,} | {state:.1f} | {operations(core) / 1e6:.2f} |"


def test_the_sizes_of_the_catalogue():
    alike = {}
    for name, config in CORES.items():
        alike.setdefault(config, []).append(name)
    rows = [row(names, config.build(INPUT_SIZE)) for config, names in alike.items()]
    assert "\n".join(rows) in CATALOGUE.read_text()
