"""Several processes that train one model: how they start, meet, share what they made, and end."""

from ttvr.distributed._group import (
    any_of,
    average_gradients,
    averaging,
    from_first,
    gather,
    is_launched,
    is_member,
    joined,
    leads,
    local,
    mean_of,
    own_chance,
    part,
    rank,
    sizes,
    start_alike,
    world,
)
from ttvr.distributed._launch import launch

__all__ = [
    "any_of",
    "average_gradients",
    "averaging",
    "from_first",
    "gather",
    "is_launched",
    "is_member",
    "joined",
    "launch",
    "leads",
    "local",
    "mean_of",
    "own_chance",
    "part",
    "rank",
    "sizes",
    "start_alike",
    "world",
]
