"""Every target by its name: a function of any bytes, which raises only if a promise is broken."""

from collections.abc import Callable
from typing import Final

from tests.fuzz import connections, documents, entry, functions, heads, keepers

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "client": connections.client,
    "instance": connections.instance,
    "keeper": keepers.keeper,
    "framing": heads.framing,
    "paths": heads.paths,
    "table": heads.table,
    "target": heads.target,
    "ids": heads.ids,
    "preferences": heads.preferences,
    "keys": entry.keys,
    "tokens": entry.tokens,
    "spec": documents.spec,
    "subject": documents.subject,
    "schedule": documents.schedule,
    "log": documents.log,
    "rotated": documents.rotated,
    "event": documents.event,
    "control": documents.control,
    "load": documents.load,
    "cgi": functions.cgi,
    "variables": functions.variables,
    "arguments": functions.arguments,
}
