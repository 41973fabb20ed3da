"""Supervised sequence tasks by name. Imports numpy and numba, no torch."""

from engram.supervised.tasks.associative_retrieval import AssociativeRetrieval
from engram.supervised.tasks.code_execution import CodeExecution
from engram.supervised.tasks.dictionary_inference import DictionaryInference
from engram.supervised.tasks.double_copy import DoubleCopy
from engram.supervised.tasks.learning_to_execute import LearningToExecute, Memorisation
from engram.supervised.tasks.listops import ListOps
from engram.supervised.tasks.nth_farthest import NthFarthest
from engram.supervised.tasks.relational_recall import RelationalRecall
from engram.supervised.tasks.task import Batch, Task, Tokens, Vectors
from engram.supervised.tasks.vector_sequences import Copy, PrioritySort

TASKS: dict[str, Task] = {
    "associative-retrieval": AssociativeRetrieval(),
    "dictionary-inference": DictionaryInference(),
    "nth-farthest": NthFarthest(),
    "listops": ListOps(),
    "code-execution": CodeExecution(),
    "copy": Copy(),
    "reverse": Copy(reverse=True),
    "double-copy": DoubleCopy(),
    "priority-sort": PrioritySort(),
    "relational-recall": RelationalRecall(),
    "execute-addition": LearningToExecute(),
    "execute-control": LearningToExecute(operations="control"),
    "execute-program": LearningToExecute(operations="program"),
    "memorise-copy": Memorisation(),
    "memorise-reverse": Memorisation(answer="reverse"),
    "memorise-double": Memorisation(answer="double"),
}
"""name -> the task with its default options"""

__all__ = [
    "TASKS",
    "AssociativeRetrieval",
    "Batch",
    "CodeExecution",
    "Copy",
    "DictionaryInference",
    "DoubleCopy",
    "LearningToExecute",
    "ListOps",
    "Memorisation",
    "NthFarthest",
    "PrioritySort",
    "RelationalRecall",
    "Task",
    "Tokens",
    "Vectors",
]
