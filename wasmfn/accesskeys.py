"""Who has an API key of a route: pure changes of its spec."""

import msgspec

from schemas.access import ApiKey, ApiKeys
from schemas.specs import RouteSpec
from wasmfn.errors import ConflictError, MissingError


def with_key(route: RouteSpec, key: ApiKey) -> RouteSpec:
    """Return the route with one more key.

    Raises:
        ConflictError: it asks for something other than API keys.
    """
    asked = route.authentication
    if asked is None:
        return msgspec.structs.replace(route, authentication=ApiKeys((key,)))
    if not isinstance(asked, ApiKeys):
        raise ConflictError(
            "the route asks for tokens and has no API keys; give it one or the other"
        )
    keys = msgspec.structs.replace(asked, keys=(*asked.keys, key))
    return msgspec.structs.replace(route, authentication=keys)


def without_client(route: RouteSpec, client: str) -> RouteSpec:
    """Return the route without the keys of `client`.

    Raises:
        MissingError: it has none.
        ConflictError: nobody else has one.
    """
    asked = route.authentication
    if not isinstance(asked, ApiKeys) or all(key.client != client for key in asked.keys):
        raise MissingError(f"{client} has no key of this route")
    left = tuple(key for key in asked.keys if key.client != client)
    if not left:
        raise ConflictError(
            f"only {client} has keys; without them nobody could use the route: give another one"
            " first, delete the route, or publish it without `authentication`"
        )
    keys = msgspec.structs.replace(asked, keys=left)
    return msgspec.structs.replace(route, authentication=keys)
