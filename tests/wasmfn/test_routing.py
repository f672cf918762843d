"""wasmfn.routing: which routes a function gets, and what they are called."""

from datetime import UTC, datetime
from pathlib import PurePath

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.names import FileName, Name
from schemas.specs import AnySpec, RouteSpec
from schemas.status import Status
from wasmfn.errors import ConflictError
from wasmfn.objects import Key, Object
from wasmfn.routing import Wish, file_name_of, free_name, name_of, routes_for, slug_of

SORT = Key("function", "default", "sort")


def there(name: str, spec: AnySpec) -> Object:
    status = Status("route", "default", name, "active", 1, 1, "", datetime.now(UTC))
    return Object(
        key=Key("route", "default", name),
        revision=1,
        published_at=datetime.now(UTC),
        spec=spec,
        status=status,
    )


MINE = there("sort", RouteSpec(function="sort", path="/sort", methods=("POST",)))
OTHER = there("sort", RouteSpec(function="other", path="/sort"))


def test_a_function_without_a_route_gets_one_of_its_name() -> None:
    assert routes_for(SORT, [], []) == {
        Key("route", "default", "sort"): RouteSpec(function="sort", path="/sort")
    }


def test_a_function_with_a_route_keeps_it_as_it_is() -> None:
    assert routes_for(SORT, [], [MINE]) == {}
    assert routes_for(SORT, [Wish("/sort")], [MINE]) == {}
    assert routes_for(SORT, [Wish("/sort", ("POST",))], [MINE]) == {}


def test_other_methods_change_the_route_that_is_there() -> None:
    (route,) = routes_for(SORT, [Wish("/sort", ("PUT",))], [MINE]).items()
    assert route == (MINE.key, RouteSpec(function="sort", path="/sort", methods=("PUT",)))


def test_a_name_that_is_taken_is_left_alone() -> None:
    (key,) = routes_for(SORT, [Wish("/sort", ("POST",))], [OTHER])
    assert key.name == "sort-post"


def test_no_free_name_is_a_conflict() -> None:
    wish = Wish("/sort")
    digest = free_name(wish, ["sort"], SORT)
    with pytest.raises(ConflictError, match="another path"):
        free_name(wish, ["sort", digest], SORT)


def test_a_path_that_cannot_be_served_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="slash"):
        routes_for(SORT, [Wish("sort")], [])


@pytest.mark.parametrize(
    ("path", "name"), [("/", "root"), ("/users/{id}", "users-id"), ("/A_b.C", "a-b-c")]
)
def test_a_path_becomes_a_readable_name(path: str, name: str) -> None:
    assert slug_of(path) == name


@given(st.text())
def test_whatever_the_file_is_called_its_names_are_legal(text: str) -> None:
    file = PurePath(text.replace("\x00", "") + ".wasm")
    assert msgspec.convert(name_of(file), Name)
    assert msgspec.convert(file_name_of(file), FileName)
