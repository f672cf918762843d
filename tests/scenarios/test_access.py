"""Who may call, as an owner of a route and its clients see it."""

import httpx

from tests.scenarios.caller import deploy
from tests.scenarios.platforms.protocol import Platform


async def call(platform: Platform, key: str = "") -> httpx.Response:
    headers = {"x-api-key": key} if key else {}
    async with httpx.AsyncClient() as http:
        return await http.post(platform.http + "/guarded", json={}, headers=headers, timeout=60)


async def test_a_route_with_keys_takes_those_who_have_one_until_it_is_taken_back(
    platform: Platform,
) -> None:
    deploy(platform, "hello", "guarded")
    assert (await call(platform)).status_code == 200
    keys = {}
    for client in ("ann", "bob"):
        made = platform.cli("route", "grant", "guarded", "--client", client)
        assert made.returncode == 0, made.stderr.decode()
        keys[client] = made.stdout.decode().strip()
    assert (await call(platform)).status_code == 401
    assert (await call(platform, keys["ann"])).status_code == 200
    # A change of something else does not open it.
    assert platform.cli("route", "update", "guarded", "--method", "POST").returncode == 0
    deploy(platform, "hello", "guarded", "--env", "TURN=2")
    assert (await call(platform)).status_code == 401
    assert platform.cli("route", "revoke", "guarded", "--client", "ann").returncode == 0
    assert (await call(platform, keys["ann"])).status_code == 401
    assert (await call(platform, keys["bob"])).status_code == 200
    for told in (("events", "--since", "10m"), ("route", "get", "guarded", "-o", "json")):
        shown = platform.cli(*told).stdout.decode()
        assert keys["ann"] not in shown
        assert keys["bob"] not in shown
    assert platform.cli("fn", "delete", "guarded").returncode == 0
