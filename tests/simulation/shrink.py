"""The shortest schedule that still fails: actions are removed, first many at a time, then one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .schedule import Action, Schedule


def shrunk(schedule: Schedule, fails: Callable[[Schedule], bool]) -> list[Action]:
    """The remaining actions. The delay of a removed action is kept, so others happen at the same times."""
    actions = list(schedule.actions)
    size = max(1, len(actions) // 2)
    while size:
        at = 0
        while at < len(actions):
            shorter = _without(actions, at, at + size)
            if fails(replace(schedule, actions=shorter)):
                actions = shorter
            else:
                at += size
        size //= 2
    return actions


def _without(actions: list[Action], first: int, last: int) -> list[Action]:
    left, right = actions[:first], actions[last:]
    if right:
        waited = sum(action[0] for action in actions[first:last])
        right = [(right[0][0] + waited, *right[0][1:]), *right[1:]]
    return left + right
