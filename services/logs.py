"""What a service says about itself: one JSON object a line, on stderr.

The supervisor collects stderr whoever it is, so there are no log files and no
rotation here. Libraries' records take the same way.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_NOISY: Final = {"uvicorn.error": logging.WARNING, "asyncio": logging.WARNING}


class JsonFormatter(logging.Formatter):
    """Formats a record as `{time, level, service, logger, message, fields, traceback}`.

    `fields` holds what was passed as `extra`; `traceback` is there if there is one.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if fields:
            line["fields"] = fields
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except (ValueError, TypeError, RecursionError):
            # Something that is no text, such as half a surrogate pair in a file's name.
            return json.dumps(line, default=str, skipkeys=True)


def write_json_logs(service: str) -> None:
    """Send every log record and Python warning of this process to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(capture=True)
    for name, level in _NOISY.items():
        logging.getLogger(name).setLevel(level)
