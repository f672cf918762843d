"""How much memory the invocations of all children may take together.

Each sandbox has its cap, but a pod has one too, and where one process over the
pod's limit ends all of them, a neighbour's burst would end everyone. So each
child adds what its invocations in flight may take to a page that all
children share, and takes no more when the sum reaches the budget: it answers
`busy`, and the router tries elsewhere.

Nothing is locked: two children that ask at the same moment may both get the
last piece, so leave room for one sandbox a core. A child that was broken into
can use up the budget, and no more than that.
"""

import mmap

_WORD_BYTES = 8


class Share:
    """One child's part of the budget."""

    __slots__ = ("_each", "_index", "_limit", "_words")

    def __init__(self, words: memoryview, index: int, limit: int, each: int) -> None:
        self._words = words
        self._index = index
        self._limit = limit
        self._each = each

    def has_room(self) -> bool:
        """Tell whether one more invocation fits."""
        return not self._limit or sum(self._words) + self._each <= self._limit

    def take(self) -> None:
        """Count an invocation in."""
        self._words[self._index] += self._each

    def give(self) -> None:
        """Count an invocation out."""
        self._words[self._index] -= self._each


class Budget:
    """The whole budget, in MiB; 0 means that there is none. Made before all forks."""

    def __init__(self, limit_mib: int, children: int) -> None:
        size = -(-children * _WORD_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE
        self.limit_mib = limit_mib
        self._words = memoryview(mmap.mmap(-1, size)).cast("q")[:children]
        self._free = set(range(children))

    def reserve(self) -> int:
        """Return the index of a new child's share. There are as many as children allowed."""
        return self._free.pop()

    def release(self, index: int) -> None:
        """Take back the share of a child that has ended, with all it had taken."""
        self._words[index] = 0
        self._free.add(index)

    def share(self, index: int, sandbox_mib: int) -> Share:
        """Return the share with `index` for sandboxes of this size; called in the child."""
        return Share(self._words, index, self.limit_mib, sandbox_mib)
