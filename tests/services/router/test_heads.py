"""What is remembered of heads, and that remembering changes nothing that anybody sees."""

from services.router.answer import AnswerHead
from services.router.heads import Heads
from tests.services.router.gate import Gate
from tests.services.router.instances import Call

POST = b"POST /f HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n"


def test_what_is_remembered_is_bounded_in_number_and_size() -> None:
    heads: Heads[AnswerHead] = Heads()
    for number in range(5000):
        heads.learn(b"%d" % number, AnswerHead(number, []), 10)
    assert len(heads.known) <= 512
    assert heads.known[b"4999"].status == 4999
    heads.learn(b"x" * 5000, AnswerHead(200, []), 5000)
    assert b"x" * 5000 not in heads.known


async def test_requests_that_alternate_on_a_connection_are_told_apart(gate: Gate) -> None:
    instance = await gate.instance()
    peer = await gate.client()
    other = POST.replace(b"host: a", b"host: a\r\nx-mine: 1")
    for head in (POST, other, POST, POST, other, other):
        await peer.send(head + b"x")
        assert (await peer.response()).status == 200
        assert ("x-mine" in dict(instance.calls[-1].headers)) == (head is other)
    peer.close()


async def test_a_known_head_is_served_as_it_was_the_first_time_but_with_ids_of_its_own(
    gate: Gate,
) -> None:
    instance = await gate.instance()
    peer = await gate.client()
    ids = set()
    for letter in (b"a", b"b", b"c"):
        await peer.send(POST + letter)
        response = await peer.response()
        assert (response.status, response.body) == (200, letter)
        ids.add(response.headers["x-request-id"])
    peer.close()
    assert len(gate.workings.heads.known) == 1
    assert len(ids) == 3
    own = ("x-request-id", "traceparent")
    first, *others = [[h for h in call.headers if h[0] not in own] for call in instance.calls]
    assert others == [first, first]


async def test_a_known_head_goes_where_its_route_leads_now(gate: Gate) -> None:
    await gate.instance()
    peer = await gate.client()
    for status in (200, 200, 404):
        if status == 404:
            gate.state.remove_route(("default", "f/f"))
        await peer.send(POST + b"x")
        assert (await peer.response()).status == status
    peer.close()


async def test_a_known_head_is_held_to_the_limits_that_its_function_has_now(gate: Gate) -> None:
    await gate.instance()
    peer = await gate.client()
    for limit, status in ((1, 200), (1, 200), (0, 413), (1, 200)):
        gate.function(route=False, body_bytes=limit)
        await peer.send(POST + b"x")
        assert (await peer.response()).status == status
    peer.close()


async def test_a_known_head_whose_body_comes_in_pieces_is_read_as_ever(gate: Gate) -> None:
    await gate.instance()
    peer = await gate.client()
    head = POST.replace(b": 1", b": 10")
    await peer.send(head + b"0123456789")
    assert (await peer.response()).body == b"0123456789"
    await peer.send(head + b"01234")
    await peer.send(b"56789" + POST + b"x")
    assert (await peer.response()).body == b"0123456789"
    assert (await peer.response()).body == b"x"
    peer.close()


async def test_a_known_answer_counts_as_no_other_and_breaks_off_no_less(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        await call.read_body()
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
        await call.send(b"half" if len(call.instance.calls) < 3 else b"ha")
        if len(call.instance.calls) == 3:
            call.peer.writer.write_eof()

    await gate.instance(handler)
    peer = await gate.client()
    for _ in range(2):
        await peer.send(POST + b"x")
        assert (await peer.response()).body == b"half"
    await peer.send(POST + b"x")
    assert (await peer.at_end()).endswith(b"\r\n\r\nha")
    assert gate.metrics.truncated == 1
    peer.close()


async def test_empty_lines_after_a_request_are_not_remembered_as_its_head(gate: Gate) -> None:
    instance = await gate.instance()
    peer = await gate.client()
    get = b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n"
    for empty in (b"\r\n\r\n", b"\r\n\r\n", b"\r\n"):
        await peer.send(get)
        assert (await peer.response()).status == 200
        await peer.send(empty)
        # The next answer on another connection says that what came before has been read.
        assert (await gate.request("GET", "/f")).status == 200
    assert b"\r\n\r\n" not in gate.workings.heads.known
    assert len(instance.calls) == 6
    peer.close()


async def test_a_known_head_finds_the_endpoints_of_a_function_that_was_made_anew(
    gate: Gate,
) -> None:
    first = await gate.instance()
    peer = await gate.client()
    for _ in range(2):
        await peer.send(POST + b"x")
        assert (await peer.response()).status == 200
    gate.state.remove_function(("default", "f"))
    gate.state.withdraw(("default", "f"), first.endpoint.instance)
    await peer.send(POST + b"x")
    assert (await peer.response()).status == 503
    assert not gate.state.fleets
    gate.function(route=False, revision=2)
    second = await gate.instance(revision=2)
    await peer.send(POST + b"y")
    assert (await peer.response()).body == b"y"
    assert (len(first.calls), len(second.calls)) == (2, 1)
    peer.close()
