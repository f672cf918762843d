"""HTTP in, functions out: the one room that every invocation passes.

Decisions (which route, which endpoint, retry or not, how a message is framed)
are pure functions over plain data: `admission`, `paths`, `table`, `choice`,
`state`, `parking`, `retry`, `framing`, `answer`, `limits`, `tracing`,
`problems`. The shells around them do the I/O: `sync` follows the bus, `demand`
asks the scheduler, `upstream` talks to keepers, `protocol` is the client's side.

A plain invocation is served from callbacks alone: `invocation` and its `call`, with `upload`
for long bodies and `reply` for the answer. What is more than that (a stored
invocation, a path of the platform's own) is served by the ASGI application in
`invoke`. Both stand on the same decisions, and one test holds them against each
other.

The router keeps serving what it knows when the bus, the scheduler or any other
service is gone; only a fact or a failed call takes an endpoint away.
"""
