"""How far each log was read, kept in a file, so that a restart repeats and skips nothing."""

import asyncio
import logging
from pathlib import Path
from typing import Final

import msgspec

from schemas.unreadable import UNREADABLE

log = logging.getLogger(__name__)

_SAVE_EVERY_S: Final = 0.5


class Position(msgspec.Struct, frozen=True):
    """A place in a log that is truncated now and then.

    `generation` counts the truncations, so that pod, generation and offset
    together name one line for ever.
    """

    inode: int
    generation: int = 0
    offset: int = 0


class Offsets:
    """The position in each pod's log, by uid."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._changed = asyncio.Event()
        try:
            self._positions = msgspec.json.decode(file.read_bytes(), type=dict[str, Position])
        except FileNotFoundError:
            self._positions = {}
        except (OSError, *UNREADABLE) as error:
            log.warning("logs are read from their beginning: %s: %s", file, error)
            self._positions = {}

    def get(self, uid: str, inode: int) -> Position:
        """Return where to go on in the log `inode` of a pod."""
        position = self._positions.get(uid)
        return position if position and position.inode == inode else Position(inode)

    def last(self, uid: str) -> Position | None:
        """Return the last position in any log of a pod."""
        return self._positions.get(uid)

    def put(self, uid: str, position: Position) -> None:
        """Remember that everything before `position` is told."""
        self._positions[uid] = position
        self._changed.set()

    def keep(self, uids: set[str]) -> None:
        """Forget every pod but these."""
        self._positions = {uid: at for uid, at in self._positions.items() if uid in uids}
        self._changed.set()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        temporary = self._file.with_name(f".{self._file.name}.new")
        try:
            temporary.write_bytes(msgspec.json.encode(self._positions))
            temporary.replace(self._file)
        except OSError as error:
            log.warning("cannot remember how far logs were read: %s", error)

    async def run(self) -> None:
        """Save what changed, now and then, and once more when cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self.save()
                await asyncio.sleep(_SAVE_EVERY_S)
        finally:
            self.save()
