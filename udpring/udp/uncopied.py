"""Objects that own a ring or memory of the core. A copy would be a second owner."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Uncopied"]


class Uncopied:
    """Refuses copy.copy, copy.deepcopy and pickle with a cure."""

    __slots__ = ()

    _instead = ""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: {self._instead}")
