"""What every change is tried with: inputs that once broke a target, and a few hundred new ones.

These need no fuzzer and are the same in every run. `task test:fuzz` looks for
more, guided by what the code does with each input.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import kept, seeds
from tests.fuzz.targets import TARGETS

_WORDS = (
    b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\t", b"/", b"%2f", b"..", b"{", b"[", b'"', b"\\",
    b"0", b"-1", b"\xff", b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"0\r\n\r\n",
    b"host: b\r\n", b"GET /f HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"connection: close\r\n",
    b"x-wasmfn-instance: 1\r\n", b"expect: 100-continue\r\n", b"\x00\x00\x00\x00",
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, target: str) -> bytes:
    """Return a seed of the target with a few of its bytes cut, doubled, or replaced."""
    data = draw(st.sampled_from([*seeds(target), *kept(target)]))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((0, 0, 1, 2, 8, 64))))
        between = draw(
            st.one_of(st.sampled_from(_WORDS), st.binary(max_size=8), st.just(data[start:end] * 2))
        )
        data = data[:start] + between + data[end:]
    return data


def test_every_target_begins_with_something() -> None:
    assert all(seeds(target) for target in TARGETS)
    assert all(kept(target) for target in ("client", "instance", "spec", "log", "event"))


@pytest.mark.parametrize("target", TARGETS)
def test_what_once_broke_a_target_does_so_no_more(target: str) -> None:
    for data in (*seeds(target), *kept(target)):
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_holds_for_whatever_comes(target: str) -> None:
    # As the one above, but not the same each time a seed is added.
    @settings(
        max_examples=150, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(changed(target), st.binary(max_size=300)))
    def holds(data: bytes) -> None:
        TARGETS[target](data)

    holds()
