"""Learners: losses over one `Rollout`, and where rollouts come from. Environments arrive as objects."""

from engram.agents.a2c import A2C

AGENTS = {"a2c": A2C()}
"""name -> its default costs; the class has the loss"""
