"""A core of Engram where nn.LSTM would stand: it learns to say what it was told two steps before."""

import torch
import torch.nn.functional as F
from torch import nn

from engram.policies import make_core

SYMBOLS, DELAY, T, B = 4, 2, 12, 32


def main(total_steps: int = 100) -> float:
    """Share of symbols echoed."""
    torch.manual_seed(0)
    core = make_core("fwm", input_size=SYMBOLS)  # nn.LSTM(SYMBOLS, 32)
    head = nn.Linear(core.output_size, SYMBOLS)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(total_steps):
        said = torch.randint(SYMBOLS, (T, B))
        ys, _, _ = core(F.one_hot(said, SYMBOLS).float(), core.initial_state(B))
        logits, answers = head(ys)[DELAY:].flatten(0, 1), said[:-DELAY].flatten()
        optimizer.zero_grad()
        F.cross_entropy(logits, answers).backward()
        optimizer.step()
    return (logits.argmax(-1) == answers).float().mean().item()


if __name__ == "__main__":
    print(f"symbols echoed: {main():.0%}")
