"""The papers' supervised sequence tasks, on the memory cores of `engram.policies`."""
