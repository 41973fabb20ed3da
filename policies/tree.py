"""Trees: a tensor or array, or a dict or named tuple of trees, as observations, inputs and states are."""

from collections.abc import Callable
from typing import Any


def tree_map(function: Callable, tree: Any, *others: Any) -> Any:
    """A tree of the same form, of function(leaf, *the leaves in its place in the other trees)."""
    if isinstance(tree, dict):
        return {key: tree_map(function, *(branch[key] for branch in (tree, *others))) for key in tree}
    if isinstance(tree, tuple):
        return type(tree)(*(tree_map(function, *branches) for branches in zip(tree, *others, strict=True)))
    return function(tree, *others)
