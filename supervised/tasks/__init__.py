"""Supervised sequence tasks by name. Imports no torch."""

from engram.supervised.tasks.associative_retrieval import AssociativeRetrieval
from engram.supervised.tasks.babi import Babi
from engram.supervised.tasks.catbabi import CatBabi
from engram.supervised.tasks.code_execution import CodeExecution
from engram.supervised.tasks.dictionary_inference import DictionaryInference
from engram.supervised.tasks.double_copy import DoubleCopy
from engram.supervised.tasks.geometry import ConvexHull, TravellingSalesman
from engram.supervised.tasks.graphs import ShortestPath, SpanningTree
from engram.supervised.tasks.language_modelling import LanguageModelling
from engram.supervised.tasks.learning_to_execute import LearningToExecute, Memorisation
from engram.supervised.tasks.listops import ListOps
from engram.supervised.tasks.nth_farthest import NthFarthest
from engram.supervised.tasks.relational_recall import RelationalRecall
from engram.supervised.tasks.stream import Stream
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
    "babi": Babi(),
    "catbabi-qa": CatBabi(),
    "catbabi-lm": CatBabi(mode="lm"),
    "penn-treebank": LanguageModelling(),
    "wikitext-2": LanguageModelling(corpus="wikitext-2"),
    "wikitext-103": LanguageModelling(corpus="wikitext-103"),
    "convex-hull": ConvexHull(),
    "travelling-salesman": TravellingSalesman(),
    "shortest-path": ShortestPath(),
    "spanning-tree": SpanningTree(),
}
"""name -> the task with its default options"""

__all__ = [
    "TASKS",
    "AssociativeRetrieval",
    "Babi",
    "Batch",
    "CatBabi",
    "CodeExecution",
    "ConvexHull",
    "Copy",
    "DictionaryInference",
    "DoubleCopy",
    "LanguageModelling",
    "LearningToExecute",
    "ListOps",
    "Memorisation",
    "NthFarthest",
    "PrioritySort",
    "RelationalRecall",
    "ShortestPath",
    "SpanningTree",
    "Stream",
    "Task",
    "Tokens",
    "TravellingSalesman",
    "Vectors",
]
