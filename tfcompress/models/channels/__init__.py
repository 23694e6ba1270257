"""Channels of a model: which can only be cut together, and the smaller model without some of them.

Example:
    >>> groups = channel_groups(model)  # doctest: +SKIP
    >>> smaller = narrowed(model, groups, {"stem": [0, 2, 3]})  # doctest: +SKIP
"""

from tfcompress.models.channels.counting import macs, parameters
from tfcompress.models.channels.finding import OUTPUT, channel_groups
from tfcompress.models.channels.groups import ChannelGroup, Member, remaining, rows
from tfcompress.models.channels.narrowing import narrowed

__all__ = ["OUTPUT", "ChannelGroup", "Member", "channel_groups", "macs", "narrowed", "parameters", "remaining", "rows"]
