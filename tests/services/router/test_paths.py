"""Paths have one decoded form or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.paths import BadPath, decode_path, host_name


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a//b", "/a//b"),
        ("/a%20b", "/a b"),
        ("/%C3%A9", "/é"),
        ("/a%2Eb", "/a.b"),
        ("/%2541", "/%41"),
        ("/..a/b..", "/..a/b.."),
        ("/a;b=c,d@e:f", "/a;b=c,d@e:f"),
    ],
)
def test_a_path_is_decoded_once(raw: str, path: str) -> None:
    assert decode_path(raw) == path


@pytest.mark.parametrize(
    "raw",
    [
        "/a/../b", "/a/..", "/..", "/.", "/a/./b", "/a/%2e%2e/b", "/a/.%2E", "/%2e",
        "/a%2fb", "/a%2Fb", "/a\\b", "/a%5cb", "/a%00b", "/a%0ab", "/a%7f", "/a%", "/a%2", "/a%zz",
        "/%ff", "/%c3", "*", "", "a", "http://x/", "/" + "/a" * 300,
    ],
)  # fmt: skip
def test_a_path_with_two_readings_is_refused(raw: str) -> None:
    with pytest.raises(BadPath):
        decode_path(raw)


@given(st.text(alphabet="/.%2eEfF5cC0aAb\\", max_size=12).map(lambda t: "/" + t))
def test_no_decoded_path_has_dot_segments_controls_or_backslashes(raw: str) -> None:
    try:
        path = decode_path(raw)
    except BadPath:
        return
    assert not {".", ".."} & set(path.split("/"))
    assert path.count("/") == raw.count("/")
    assert "\\" not in path
    assert path.isprintable()


@pytest.mark.parametrize(
    ("header", "name"),
    [("Example.ORG:8080", "example.org"), ("example.org.", "example.org"), ("[::1]:80", "[::1]"),
     ("", "")],
)  # fmt: skip
def test_a_host_is_compared_without_port_case_and_final_dot(header: str, name: str) -> None:
    assert host_name(header) == name
