"""A log line is one JSON object whatever is logged."""

import json
import logging
import sys

from hypothesis import given
from hypothesis import strategies as st

from services.logs import JsonFormatter


def line(record: logging.LogRecord) -> dict:
    text = JsonFormatter("tester").format(record)
    assert "\n" not in text
    return json.loads(text)


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    return logging.getLogger("a.b").makeRecord(
        "a.b", logging.WARNING, __file__, 1, message, args, None, extra=extra
    )


def test_a_line_has_time_level_service_logger_message_and_fields():
    said = line(record("%d of %s", 3, "sort", namespace="default", size=7))
    assert said.pop("time").endswith("Z")
    assert said == {
        "level": "warning",
        "service": "tester",
        "logger": "a.b",
        "message": "3 of sort",
        "fields": {"namespace": "default", "size": 7},
    }


def test_an_exception_is_one_field_of_the_line():
    try:
        int("why")
    except ValueError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()
    assert line(failed)["traceback"].endswith("base 10: 'why'")


@given(
    st.text(st.characters(codec=None)), st.recursive(st.none() | st.text() | st.binary(), st.lists)
)
def test_any_text_and_any_field_make_a_line(message, field):
    assert line(record("%s", message, field=field))["message"] == message
