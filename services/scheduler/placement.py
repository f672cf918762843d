"""Say which keeper takes a process, and which keepers a namespace should have.

Pure. A keeper belongs to one namespace, or to one function of it. Processes of
one function are spread, so that the loss of a keeper takes few of them; beyond
that the emptiest keeper is chosen.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec


class Keeper(msgspec.Struct, frozen=True, kw_only=True):
    """A keeper pod as placement sees it."""

    uid: str
    namespace: str
    dedicated: str = ""
    """The function that it belongs to alone, or an empty string."""
    ready: bool = False
    """It answers, as far as is known."""
    starting: bool = False
    """It does not answer yet, and is expected to."""
    engine: str = ""
    capacity: int = 0
    """Processes it can hold; known once it is ready."""
    held: int = 0
    """Processes it holds or has been asked to load."""
    of_function: int = 0
    """How many of these are of the function that is placed."""
    idle_s: float = 0.0
    """For how long it has held nothing."""
    outdated: bool = False
    """It is to be replaced, when another one can take what it holds."""
    retiring: bool = False
    """It is being replaced now: it takes nothing more."""

    @property
    def room(self) -> int:
        """How many more processes it takes."""
        return self.capacity - self.held if self.ready and not self.retiring else 0


def choose(
    keepers: Iterable[Keeper],
    namespace: str,
    dedicated: str,
    engine: str,
    avoid: AbstractSet[str] = frozenset(),
) -> str | None:
    """Return the uid of the keeper that takes one process, or None if there is no room.

    Args:
        keepers: those that there are.
        namespace: of the function.
        dedicated: the function's name if it is isolated by pod, else an empty string.
        engine: that its artifact was compiled for.
        avoid: keepers that have just refused or failed.
    """
    fitting = [
        keeper
        for keeper in keepers
        if (keeper.namespace, keeper.dedicated) == (namespace, dedicated)
        and keeper.room > 0
        and keeper.engine == engine
        and keeper.uid not in avoid
    ]
    if not fitting:
        return None
    return min(fitting, key=lambda k: (k.outdated, k.of_function, k.held / k.capacity, k.uid)).uid


class Change(msgspec.Struct, frozen=True):
    """What to do to the keepers of one namespace, or of one function isolated by pod."""

    start: int = 0
    stop: tuple[str, ...] = ()
    retire: str = ""
    """The keeper to be emptied."""


def change(
    keepers: Sequence[Keeper],
    *,
    needed: bool,
    wanted_room: int,
    capacity: int,
    most: int,
    linger_s: float,
) -> Change:
    """Return which keepers to start and stop.

    A keeper that is starting counts with its whole room, so that one want starts one. Outdated
    keepers are replaced one after another: each serves on, and takes what nobody else has room
    for, until keepers that are not outdated are ready to take all that it holds.

    Args:
        keepers: all keepers of the namespace or function, starting ones included.
        needed: whether anything is there to be run at all.
        wanted_room: room that should be free, for what waits and to spare.
        capacity: what a keeper that is started will hold.
        most: how many keepers there may be.
        linger_s: how long an empty keeper stays before it is stopped.
    """
    empty = [keeper for keeper in keepers if keeper.ready and keeper.held == 0]
    if not needed:
        return Change(stop=tuple(keeper.uid for keeper in empty))
    outdated = [keeper for keeper in keepers if keeper.outdated]
    current = [keeper for keeper in keepers if not keeper.outdated]
    retiring = [keeper for keeper in outdated if keeper.retiring]
    if emptied := [keeper.uid for keeper in retiring if keeper.held == 0]:
        return Change(stop=tuple(emptied))
    next_one = None if retiring else min(outdated, key=lambda k: (k.held, k.uid), default=None)
    if outdated:
        # One more than the most, or the last one could never be replaced.
        most += 1
    if next_one is not None:
        wanted_room += next_one.held
    starting = sum(keeper.starting for keeper in current)
    room = sum(max(0, keeper.room) for keeper in current)
    if room < wanted_room:
        missing = -(-(wanted_room - room) // capacity) - starting
        start = max(0, min(missing, most - len(keepers)))
        # At the most, what there is must do to replace one.
        if start or starting or next_one is None or room < max(1, next_one.held):
            return Change(start=start)
    if next_one is not None:
        return Change(retire=next_one.uid)
    if retiring:
        return Change()
    return Change(stop=_surplus(empty, room - wanted_room, linger_s))


def _surplus(empty: Sequence[Keeper], spare: int, linger_s: float) -> tuple[str, ...]:
    """Return which empty keepers may go when there is `spare` room beyond what is wanted."""
    stop = []
    for keeper in sorted(empty, key=lambda k: (-k.idle_s, k.uid)):
        if keeper.idle_s >= linger_s and spare >= keeper.capacity:
            spare -= keeper.capacity
            stop.append(keeper.uid)
    return tuple(stop)
