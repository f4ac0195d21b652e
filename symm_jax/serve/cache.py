"""Values in memory, of which the least recently used are dropped."""

import collections
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Keeps values whose sizes are together at most `limit` bytes.

    Example:
      >>> cache = Cache(5)
      >>> cache.put("a", "x", 3); cache.put("b", "y", 2); cache.get("a"); cache.put("c", "z", 1)
      'x'
      >>> cache.get("b"), cache.get("a")
      (None, 'x')
    """

    def __init__(self, limit: int):
        self._limit, self._size = limit, 0
        self._values: collections.OrderedDict[Hashable, tuple[Value, int]] = collections.OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keeps a value of `size` bytes. One that is larger than the limit is not kept."""
        if key in self._values:
            self._size -= self._values.pop(key)[1]
        self._values[key] = (value, size)
        self._size += size
        while self._size > self._limit:
            self._size -= self._values.popitem(last=False)[1][1]
