"""One invocation through a real router process: what the client and the instance see."""

from typing import Any


async def test_a_request_reaches_its_function_and_its_answer_the_client(platform: Any) -> None:
    await platform.function()
    await platform.route()
    instance = await platform.instance()
    router = await platform.router()
    response = await router.request("POST", "/f?x=1", b"hello")
    assert (response.status, response.body) == (200, b"hello")
    call = instance.calls[0]
    assert call.target == "/f?x=1"
    assert call.header["x-wasmfn-instance"] == instance.endpoint.token
    assert call.header["x-request-id"] == response.headers["x-request-id"]
