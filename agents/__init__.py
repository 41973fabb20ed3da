"""Learners: losses over one `Rollout`, and where rollouts come from. Environments arrive as objects."""

from engram.agents.a2c import A2C
from engram.agents.impala import IMPALA

AGENTS = {"a2c": A2C(), "impala": IMPALA()}
"""name -> its default costs; the class has the loss"""
