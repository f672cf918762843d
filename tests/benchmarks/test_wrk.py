import msgspec
import pytest

from benchmarks.harness.result import WrongAnswerError
from benchmarks.harness.wrk import Load, Request, check, parse, script

FINE = Load(requests=1000, duration_us=2_000_000, bytes=5, p50_us=1, p90_us=2, p99_us=3, max_us=4)
OUTPUT = """\
Running 1s test @ http://127.0.0.1:1/f
  1 threads and 1 connections
Requests/sec:   6945.00
"""


def test_what_wrk_says_of_a_run_is_read():
    assert parse(OUTPUT + "\nJSON " + msgspec.json.encode(FINE).decode() + "\n") == FINE
    assert FINE.rate == 500


@pytest.mark.parametrize("output", ["", OUTPUT, 'JSON {"requests":', 'JSON {"requests":"x"}'])
def test_a_run_that_wrk_does_not_tell_of_is_an_error(output):
    with pytest.raises(ValueError, match="wrk"):
        parse(output)


@pytest.mark.parametrize("field", ["connect", "read", "write", "status", "timeout"])
def test_a_run_with_any_error_is_refused(field):
    check(FINE, refused=False)
    with pytest.raises(WrongAnswerError):
        check(msgspec.structs.replace(FINE, **{field: 1}), refused=False)


def test_a_run_without_an_answer_is_refused():
    with pytest.raises(WrongAnswerError):
        check(msgspec.structs.replace(FINE, requests=0), refused=False)


def test_where_a_refusal_is_the_right_answer_a_success_is_an_error():
    check(msgspec.structs.replace(FINE, status=1000), refused=True)
    with pytest.raises(WrongAnswerError):
        check(msgspec.structs.replace(FINE, status=999), refused=True)


def test_a_body_of_any_bytes_stands_in_the_script_as_digits():
    text = script(Request("/", 'a"\\\n]]é'))
    assert 'wrk.body = "\\097\\034\\092\\010\\093\\093\\195\\169"' in text
