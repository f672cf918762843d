import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.builder.errors import Rejected
from services.builder.reference import Reference, parse

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sort", Reference("docker.io", "library/sort", "latest")),
        ("you/sort:1.2", Reference("docker.io", "you/sort", "1.2")),
        ("docker.io/sort", Reference("docker.io", "library/sort", "latest")),
        ("index.docker.io/you/sort", Reference("docker.io", "you/sort", "latest")),
        ("localhost/a/b", Reference("localhost", "a/b", "latest")),
        ("localhost:5000/sort", Reference("localhost:5000", "sort", "latest")),
        ("[::1]:5000/sort:x", Reference("[::1]:5000", "sort", "x")),
        ("ghcr.io/o/r/s:v1", Reference("ghcr.io", "o/r/s", "v1")),
        (f"ghcr.io/o/r@{DIGEST}", Reference("ghcr.io", "o/r", DIGEST)),
        (f"ghcr.io/o/r:v1@{DIGEST}", Reference("ghcr.io", "o/r", DIGEST)),
    ],
)
def test_a_reference_means_what_docker_pull_takes_it_for(text: str, expected: Reference):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "Sort", "a//b", "../x", "ghcr.io/", "a:b:c", "a@sha256:12", "-x.io/a", "a:-t"]
)
def test_what_is_no_reference_is_refused(text: str):
    with pytest.raises(Rejected):
        parse(text)


@given(st.text(alphabet="aZ0-._/:@[]%? \n", max_size=60))
def test_a_parsed_reference_reads_back_as_itself(text: str):
    try:
        reference = parse(text)
    except Rejected:
        return
    assert parse(str(reference)) == reference
