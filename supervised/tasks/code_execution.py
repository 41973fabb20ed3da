"""Code execution: what does a program print? (Fan et al. 2020; Irie et al. 2021, Section 4.2)"""

from dataclasses import dataclass
from string import digits
from typing import ClassVar

import numpy as np

from engram.envs.streams import below
from engram.kernels import njit
from engram.supervised.tasks.task import Batch, Task, Tokens, time_first

LOWEST, HIGHEST = -8, 16
VARIABLES = "x", "y", "z", "a", "b"
SYMBOLS = "=", ";", "++", "--", "print", "if", "<", ">", ":"
EQUALS, END, PLUS, MINUS, PRINT, IF, LESS, GREATER, COLON = range(10, 19)
FIRST_VARIABLE = 19
LONGEST_STATEMENT = 9
ASSIGN, CHANGE, SHOW, CONDITION = range(4)


@dataclass(frozen=True)
class CodeExecution(Task):
    """A program of statements such as `x = 7 ; x ++ ; if x > 3 : y = 0 ; print y ;`.

    The target is 0 at every step but the `;` of a print that is executed, where it is the value printed + 9. Values
    stay in -8..16. Tokens: digits 0-9, `=`, `;`, `++`, `--`, `print`, `if`, `<`, `>`, `:`, the variables, padding.
    """

    train_size: int | None = 10_000
    num_variables: int = 3
    """x, y, z, a, b; 3 and 5 in the paper"""
    num_statements: int = 100
    """the first is an assignment and the last a print"""
    reassign_in_condition: bool = True
    """an assignment under a condition that holds takes effect always; in the authors' program only on a variable
    that never had a value"""

    metrics: ClassVar = ("sequence_accuracy", "output_accuracy", "no_output_accuracy")
    test_size: ClassVar = 1_000

    outputs: ClassVar = Tokens(HIGHEST - LOWEST + 2, names=("no output", *map(str, range(LOWEST, HIGHEST + 1))))

    def __post_init__(self):
        super().__post_init__()
        self.require(1 <= self.num_variables <= len(VARIABLES), "num_variables", f"in 1..{len(VARIABLES)}")
        self.require(self.num_statements >= 2, "num_statements", "at least 2")

    @property
    def inputs(self) -> Tokens:
        names = *digits, *SYMBOLS, *VARIABLES[: self.num_variables], "_"
        return Tokens(len(names), names=names)

    def asked(self, x: np.ndarray) -> np.ndarray:
        return np.ones(len(x), bool)

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        B, room = len(streams), LONGEST_STATEMENT * self.num_statements
        tokens, targets, lengths = np.empty((B, room), np.int8), np.zeros((B, room), np.int8), np.empty(B, np.int64)
        count, reassign = self.num_statements, self.reassign_in_condition
        _generate(streams, count, self.num_variables, reassign, tokens, targets, lengths)
        mask = np.arange(lengths.max())[:, None] < lengths
        return Batch(time_first(tokens, lengths, self.inputs.size - 1), time_first(targets, lengths, 0), mask, lengths)


@njit(cache=True)
def _generate(streams, count, num_variables, reassign, tokens, targets, lengths):
    values, assigned = np.empty(num_variables, np.int64), np.empty(num_variables, np.int64)
    for b in range(len(streams)):
        stream, row = streams[b], tokens[b]
        t, known = 0, 0  # variables with a value, the first `known` of `assigned`
        for i in range(count):
            kind = ASSIGN if i == 0 else SHOW if i == count - 1 else below(stream, 4)
            holds, conditional = True, kind == CONDITION
            if conditional:
                variable, greater, limit = assigned[below(stream, known)], below(stream, 2), below(stream, 10)
                holds = values[variable] > limit if greater else values[variable] < limit
                row[t], row[t + 1], row[t + 2] = IF, FIRST_VARIABLE + variable, GREATER if greater else LESS
                row[t + 3], row[t + 4] = limit, COLON
                t, kind = t + 5, below(stream, 3)
            if kind == ASSIGN:
                variable, value = below(stream, num_variables), below(stream, 10)
                row[t], row[t + 1], row[t + 2] = FIRST_VARIABLE + variable, EQUALS, value
                t += 3
                is_known = variable in assigned[:known]
                if holds and not (conditional and is_known and not reassign):
                    values[variable] = value
                    if not is_known:
                        assigned[known] = variable
                        known += 1
            elif kind == CHANGE:
                variable, up = assigned[below(stream, known)], below(stream, 2)
                value = values[variable] + (1 if up else -1)
                if not LOWEST <= value <= HIGHEST:
                    up = 1 - up
                    value = values[variable] + (1 if up else -1)
                row[t], row[t + 1] = FIRST_VARIABLE + variable, PLUS if up else MINUS
                t += 2
                if holds:
                    values[variable] = value
            else:
                variable = assigned[below(stream, known)]
                row[t], row[t + 1] = PRINT, FIRST_VARIABLE + variable
                t += 2
                if holds:
                    targets[b, t] = values[variable] - LOWEST + 1
            row[t] = END
            t += 1
        lengths[b] = t
