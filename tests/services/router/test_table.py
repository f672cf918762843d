"""The route table against a slow plain matcher that reads like the specification."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.active import ActiveRoute
from schemas.specs import RouteSpec
from services.router.table import Match, Route, Table, WrongMethod, compact

METHODS = ("GET", "HEAD", "POST")
SEGMENTS = ("a", "b", "c")


def route(name: str, pattern: str, *, prefix: bool = False, **fields: Any) -> Route:
    values: dict[str, Any] = {
        "namespace": "default", "revision": 1, "methods": ("GET",), "host": "",
        "function": ("default", name),
    } | fields  # fmt: skip
    return Route(
        name=name,
        pattern=pattern,
        is_prefix=prefix,
        parameters=tuple(s[1:-1] for s in pattern.split("/") if s.startswith("{")),
        **values,
    )


def table(*routes: Route) -> Table:
    made = Table()
    for item in routes:
        made.put(item)
    return made


def served(found: Match | WrongMethod | None) -> str:
    assert isinstance(found, Match)
    return found.route.name


def plain_match(  # noqa: C901 - one plain piece, to be read beside the specification
    routes: list[Route], host: str, method: str, path: str
) -> Match | WrongMethod | None:
    """Match by trying every route, in the order of precedence that the module promises."""
    found: list[tuple[Any, Match]] = []
    allowed: set[str] = set()
    segments = path[1:].split("/")
    for r in routes:
        if r.host not in ("", host):
            continue
        values: list[str] = []
        if r.is_prefix:
            if path != r.pattern and not path.startswith(r.pattern + "/"):
                continue
            rank: Any = (2, -r.pattern.count("/"))
        else:
            pattern = r.pattern[1:].split("/")
            if len(pattern) != len(segments):
                continue
            values = [s for p, s in zip(pattern, segments, strict=True) if p.startswith("{")]
            if "" in values or any(
                not p.startswith("{") and p != s for p, s in zip(pattern, segments, strict=True)
            ):
                continue
            rank = (1, [p.startswith("{") for p in pattern]) if values else (0,)
        allowed.update(r.methods)
        if method in r.methods:
            exactness = 0
        elif method == "HEAD" and "GET" in r.methods:
            exactness = 1
        else:
            continue
        order = (r.host == "", rank, exactness, r.revision, r.namespace, r.name)
        found.append((order, Match(r, tuple(values))))
    if found:
        return min(found, key=lambda pair: pair[0])[1]
    if "GET" in allowed:
        allowed.add("HEAD")
    return WrongMethod(tuple(sorted(allowed))) if allowed else None


segment = st.sampled_from(SEGMENTS)
pattern_segment = st.one_of(segment, st.sampled_from(("{x}", "{y}")))


@st.composite
def routes(draw: st.DrawFn) -> list[Route]:
    made: list[Route] = []
    for i in range(draw(st.integers(0, 8))):
        prefix = draw(st.booleans())
        parts = draw(st.lists(segment if prefix else pattern_segment, max_size=3))
        parts = [p.replace("}", f"{n}}}") if p.startswith("{") else p for n, p in enumerate(parts)]
        pattern = "/" + "/".join(parts)
        made.append(
            route(
                f"r{i}",
                pattern.rstrip("/") if prefix else pattern,
                prefix=prefix,
                methods=tuple(draw(st.sets(st.sampled_from(METHODS), min_size=1))),
                host=draw(st.sampled_from(("", "a.example"))),
                revision=draw(st.integers(1, 3)),
            )
        )
    return made


requests = st.tuples(
    st.sampled_from(("", "a.example", "b.example")),
    st.sampled_from((*METHODS, "PUT")),
    st.lists(st.sampled_from((*SEGMENTS, "")), max_size=4).map(lambda p: "/" + "/".join(p)),
)


@given(routes(), st.lists(requests, min_size=1, max_size=8))
def test_the_table_agrees_with_a_plain_matcher(
    made: list[Route], asked: list[tuple[str, str, str]]
) -> None:
    under_test = table(*made)
    for host, method, path in asked:
        assert under_test.match(host, method, path) == plain_match(made, host, method, path)


@given(routes(), st.data())
def test_removing_and_replacing_routes_leaves_what_a_fresh_table_has(
    made: list[Route], data: st.DataObject
) -> None:
    under_test = table(*made)
    kept = [r for r in made if data.draw(st.booleans())]
    for r in made:
        if r not in kept:
            under_test.remove((r.namespace, r.name))
    for host, method, path in data.draw(st.lists(requests, max_size=5)):
        assert under_test.match(host, method, path) == plain_match(kept, host, method, path)
    for r in kept:
        under_test.remove((r.namespace, r.name))
    assert len(under_test) == 0
    assert under_test._hosts == {}


def test_a_literal_path_comes_before_a_parameter_and_both_before_a_prefix() -> None:
    under_test = table(
        route("prefix", "/users", prefix=True),
        route("parameter", "/users/{id}"),
        route("literal", "/users/me"),
    )
    assert served(under_test.match("", "GET", "/users/me")) == "literal"
    assert under_test.match("", "GET", "/users/7") == Match(
        route("parameter", "/users/{id}"), ("7",)
    )
    assert served(under_test.match("", "GET", "/users/7/posts")) == "prefix"
    assert served(under_test.match("", "GET", "/users")) == "prefix"
    assert under_test.match("", "GET", "/usersx") is None


def test_a_parameter_matches_no_empty_segment() -> None:
    assert table(route("r", "/users/{id}")).match("", "GET", "/users/") is None


def test_the_longest_prefix_wins() -> None:
    under_test = table(
        route("all", "", prefix=True),
        route("api", "/api", prefix=True),
        route("v1", "/api/v1", prefix=True),
    )
    assert served(under_test.match("", "GET", "/api/v1/x")) == "v1"
    assert served(under_test.match("", "GET", "/api/v2")) == "api"
    assert served(under_test.match("", "GET", "/")) == "all"


def test_a_route_of_the_host_comes_before_one_of_any_host() -> None:
    under_test = table(route("any", "/x"), route("mine", "", prefix=True, host="a.example"))
    assert served(under_test.match("a.example", "GET", "/x")) == "mine"
    assert served(under_test.match("b.example", "GET", "/x")) == "any"


def test_a_path_that_takes_other_methods_is_told_with_all_of_them() -> None:
    under_test = table(
        route("get", "/x"), route("put", "/x", methods=("PUT",)), route("all", "/", prefix=True)
    )
    assert under_test.match("", "DELETE", "/x") == WrongMethod(("GET", "HEAD", "PUT"))


def test_head_is_answered_by_a_get_route_unless_a_route_names_it() -> None:
    get, head = route("get", "/x"), route("head", "/x", methods=("HEAD",))
    assert served(table(get).match("", "HEAD", "/x")) == "get"
    assert served(table(get, head).match("", "HEAD", "/x")) == "head"


def test_while_two_routes_overlap_the_elder_serves_and_then_the_other() -> None:
    under_test = table(route("new", "/x", revision=2), route("old", "/x", revision=1))
    assert served(under_test.match("", "GET", "/x")) == "old"
    under_test.remove(("default", "old"))
    assert served(under_test.match("", "GET", "/x")) == "new"


def test_a_route_that_moves_leaves_its_old_place() -> None:
    under_test = table(route("r", "/old"))
    under_test.put(route("r", "/new"))
    assert under_test.match("", "GET", "/old") is None
    assert served(under_test.match("", "GET", "/new")) == "r"


@pytest.mark.parametrize(
    ("spec", "pattern"),
    [(RouteSpec("f", prefix="/api/"), "/api"), (RouteSpec("f", prefix="/"), ""),
     (RouteSpec("f", path="/a/"), "/a/"), (RouteSpec("f", path="/a/{x}"), "/a/{x}")],
)  # fmt: skip
def test_a_prefix_is_kept_without_its_final_slash_and_a_path_as_it_is(
    spec: RouteSpec, pattern: str
) -> None:
    made = compact(ActiveRoute("default", "r", 1, spec))
    assert made.pattern == pattern
    assert made.is_prefix is (spec.path is None)


def test_a_look_up_costs_the_same_among_ten_thousand_routes_as_among_ten() -> None:
    def cost(count: int) -> float:
        under_test = table(*(route(f"r{i}", f"/p{i}", prefix=True) for i in range(count)))
        best = float("inf")
        for _ in range(20):
            began = time.perf_counter()
            for _ in range(100):
                under_test.match("", "GET", "/p7/x")
            best = min(best, time.perf_counter() - began)
        return best

    # A linear search would be a thousand times slower.
    assert cost(10_000) < 20 * cost(10)
