from hypothesis import given
from hypothesis import strategies as st

from schemas.specs import RouteSpec
from services.scheduler.routes import Claims, claims

SEGMENT = st.sampled_from(["a", "b", "{x}", "{y}"])
METHODS = st.lists(st.sampled_from(["GET", "POST", "PUT"]), min_size=1, unique=True).map(tuple)
HOST = st.sampled_from([None, "a.example", "b.example"])


@st.composite
def routes(draw: st.DrawFn) -> RouteSpec:
    prefix = draw(st.booleans())
    segments = draw(st.lists(SEGMENT, max_size=2, unique=True))
    if prefix:
        segments = [segment for segment in segments if "{" not in segment]
    pattern = "/" + "/".join(segments)
    where = {"prefix": pattern} if prefix else {"path": pattern}
    return RouteSpec(function="f", methods=draw(METHODS), host=draw(HOST), **where)


def collide(one: RouteSpec, other: RouteSpec) -> bool:
    table = Claims([(("n", "one"), one)])
    return table.collision(("n", "other"), other) is not None


@given(routes(), routes())
def test_collisions_are_symmetric(one: RouteSpec, other: RouteSpec) -> None:
    assert collide(one, other) == collide(other, one)


@given(routes())
def test_a_route_collides_with_its_like_and_never_with_itself(route: RouteSpec) -> None:
    assert collide(route, route)
    table = Claims([(("n", "r"), route)])
    assert table.collision(("n", "r"), route) is None


@given(st.lists(routes(), max_size=8))
def test_no_two_accepted_routes_serve_the_same_request(wanted: list[RouteSpec]) -> None:
    table, held = Claims(), []
    for number, route in enumerate(wanted):
        if table.collision(("n", str(number)), route) is None:
            table.take(("n", str(number)), route)
            held += claims(route)
    assert len(held) == len(set(held))


@given(routes(), routes())
def test_what_is_released_is_free(one: RouteSpec, other: RouteSpec) -> None:
    table = Claims([(("n", "one"), one)])
    table.release(("n", "one"))
    assert table.collision(("n", "other"), other) is None


def test_names_of_parameters_make_no_difference_but_everything_else_does() -> None:
    base = RouteSpec(function="f", path="/users/{id}", methods=("GET",))
    assert collide(base, RouteSpec(function="g", path="/users/{name}", methods=("GET", "PUT")))
    assert not collide(base, RouteSpec(function="g", path="/users/me", methods=("GET",)))
    assert not collide(base, RouteSpec(function="g", path="/users/{id}", methods=("PUT",)))
    assert not collide(base, RouteSpec(function="g", prefix="/users", methods=("GET",)))
    assert not collide(
        base, RouteSpec(function="g", path="/users/{id}", methods=("GET",), host="a.example")
    )


def test_a_prefix_is_the_same_with_or_without_its_last_slash() -> None:
    assert collide(RouteSpec(function="f", prefix="/a/"), RouteSpec(function="f", prefix="/a"))
    assert collide(RouteSpec(function="f", prefix="/"), RouteSpec(function="f", prefix="/"))
    assert not collide(RouteSpec(function="f", path="/a/"), RouteSpec(function="f", path="/a"))


def test_a_refusal_names_the_other_route_and_its_namespace() -> None:
    table = Claims([(("shop", "cart"), RouteSpec(function="f", path="/cart", host="a.example"))])
    refused = table.collision(
        ("blog", "mine"), RouteSpec(function="g", path="/cart", host="a.example")
    )
    assert refused is not None
    for word in ("'cart'", "'shop'", "/cart", "a.example"):
        assert word in refused.message
    assert refused.field == "$.path"
