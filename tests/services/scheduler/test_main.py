"""The scheduler as a whole: what is published runs, and what runs is what was published."""

from schemas.control import DemandRefused
from stack import Stack, call, listens


async def test_a_published_function_is_built_loaded_put_in_force_and_answers(stack: Stack) -> None:
    revision = await stack.deploy("sort")
    [endpoint] = stack.endpoints("sort")
    assert endpoint.revision == revision
    answer = await call(endpoint, "3", "1", "2")
    assert answer.json()["output"] == ["1 2 3"]
    assert await stack.met("sort") == [endpoint]
