"""What is learned how fast: parameter groups, the optimizer, and the learning rate by step."""

from ttvr.optim._bert_adam import BertAdam
from ttvr.optim._groups import SCALE, is_frozen, parameter_groups
from ttvr.optim._schedule import SCHEDULES, schedule

__all__ = ["SCALE", "SCHEDULES", "BertAdam", "is_frozen", "parameter_groups", "schedule"]
