"""Training speed on supervised tasks, beside nn.LSTM: `python -m benchmarks.supervised` from the root of a checkout.

The programs take turns, an update each with a new batch; the table holds medians, at the sizes of the tasks' presets.

    sequences/s, steps/s   of `engram.supervised.train`: generator, model, loss, gradient, optimiser, checks
    generator              the share of that time which drawing the batch takes; at most 10 % is wanted
    nn.LSTM                sequences/s of a plain loop of PyTorch over the same batches, with the same encoder, head and
                           optimiser around torch's LSTM of the size of core lstm in that preset

Below the table: FWM at the size of catbAbI, learning from 200 steps of 64 rows, beside its literal recurrence.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from benchmarks.cores import MIN_ROUNDS, learning_forms, measure
from benchmarks.report import Report
from engram.command_line import check_name
from engram.policies import CORES
from engram.supervised.config import Config, make_config
from engram.supervised.metrics import task_loss
from engram.supervised.model import to_tensors
from engram.supervised.tasks import TASKS, Tokens
from engram.supervised.train import Training

COLUMNS = {
    "task, core": "",
    "parameters": ",d",
    "sequences/s": ",.0f",
    "steps/s": ",.0f",
    "generator": ".1%",
    "nn.LSTM": ",.0f",
    "ours / nn.LSTM": ".2f",
}
CATBABI = 200, 64, 256  # T, B, inputs


def plain_loop(config: Config, hidden_size: int) -> Callable[[], None]:
    """An update of nn.LSTM within the encoder and head of `config`, as a script would write it."""
    task, sizes, device = config.task, config.model, config.device
    if isinstance(task.inputs, Tokens):
        encoder, width = nn.Embedding(task.inputs.size, sizes.embedding_size), sizes.embedding_size
    else:
        encoder, width = nn.Identity(), task.inputs.size
    lstm = nn.LSTM(width, hidden_size)
    widths = [hidden_size] + [sizes.head_size] * sizes.head_layers
    hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    head = nn.Sequential(*hidden, nn.Linear(widths[-1], task.outputs.size))
    model = nn.ModuleList([encoder, lstm, head]).to(device)
    optimizer = config.optim.build(model.parameters())
    numbers = itertools.count()

    def update() -> None:
        batch = to_tensors(task.train_batch(next(numbers), config.batch_size, config.seed), torch.device(device))
        logits = head(lstm(encoder(batch.x))[0][batch.mask])
        loss = task_loss(task, logits, batch.y[batch.mask])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", metavar="A,B", help="names; all of the registry if not given")
    parser.add_argument("--cores", metavar="A,B", default="lstm,fwm", help="names, of %(default)s if not given")
    parser.add_argument("--preset", default="small", help="small or paper")
    parser.add_argument("--seconds", type=float, default=2.0, help=f"per row, and at least {MIN_ROUNDS} rounds")
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    args = parser.parse_args()
    tasks, cores = args.tasks.split(",") if args.tasks else list(TASKS), args.cores.split(",")
    for kind, names, choices in ("task", tasks, TASKS), ("core", cores, CORES):
        for name in names:
            check_name(kind, name, choices)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    report = Report(torch.get_num_threads(), ("torch", "numpy", "numba"), COLUMNS)
    for task, core in itertools.product(tasks, cores):
        config = dataclasses.replace(make_config(task, core, args.preset), device=args.device)
        training, numbers = Training(config), itertools.count()
        forms = {
            "ours": training.update,
            "generator": lambda c=config, n=numbers: c.task.train_batch(next(n), c.batch_size, c.seed),
            "LSTM": plain_loop(config, make_config(task, "lstm", args.preset).core.hidden_size),
        }
        _, times = measure(forms, args.seconds)
        rate, steps = 1000 * config.batch_size / times["ours"], training.steps_seen / training.updates
        report.add(
            f"{task}, {core}",
            sum(p.numel() for p in training.model.parameters()),
            rate,
            rate * steps / config.batch_size,
            times["generator"] / times["ours"],
            1000 * config.batch_size / times["LSTM"],
            times["LSTM"] / times["ours"],
        )
    T, B, inputs = CATBABI
    _, times = measure(learning_forms(CORES["fwm-catbabi"].build(inputs).to(args.device), T, B, 0.0), args.seconds)
    ours, loop = times["ours"], times["loop"]
    report.note(
        f"\nfwm-catbabi, T={T}, B={B}: {ours:.0f} ms, its loop {loop:.0f} ms, {loop / ours:.1f} times as long",
        fwm_catbabi_ms=ours,
        fwm_catbabi_loop_ms=loop,
    )
    if args.json:
        report.save(args.json)


if __name__ == "__main__":
    main()
