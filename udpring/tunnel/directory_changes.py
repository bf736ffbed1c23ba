"""Announced changes on their way to those who follow a directory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable

__all__ = ["ChangeFeed"]


class ChangeFeed:
    """Hands each announced key to every follower. A key that waits already is not added again, so what waits
    is bounded by the number of keys. Use it in one event loop."""

    def __init__(self) -> None:
        self._followers: list[tuple[OrderedDict[bytes, None], asyncio.Event]] = []

    def announce(self, keys: Iterable[bytes]) -> None:
        """These peers were added, changed or removed."""
        keys = dict.fromkeys(keys)
        for waiting, some in self._followers:
            waiting.update(keys)
            if waiting:
                some.set()

    async def follow(self) -> AsyncIterator[bytes]:
        """Announcements from the first step on."""
        follower: tuple[OrderedDict[bytes, None], asyncio.Event] = (OrderedDict(), asyncio.Event())
        waiting, some = follower
        self._followers.append(follower)
        try:
            while True:
                await some.wait()
                some.clear()
                while waiting:
                    yield waiting.popitem(last=False)[0]
        finally:
            self._followers = [each for each in self._followers if each is not follower]
