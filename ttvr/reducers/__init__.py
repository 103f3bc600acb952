"""Token reducers, one file each, and the plan that says which act in which block of the ViT."""

from ttvr.reducers._plan import GRAMMAR, NONE, Plan, Stage, build, parse

__all__ = ["GRAMMAR", "NONE", "Plan", "Stage", "build", "parse"]
