"""What the paper shows of a recipe, measured again: a plan, its stages, a report."""

from granet_lab.reproduction.plan import STAGES, Plan, plan
from granet_lab.reproduction.run import reproduce

__all__ = ["STAGES", "Plan", "plan", "reproduce"]
