"""HTTP in, functions out: the one room that every invocation passes.

Decisions (which route, which endpoint, retry or not, how a message is framed)
are pure functions over plain data: `paths`, `table`, `choice`, `state`,
`parking`, `retry`, `framing`, `limits`, `tracing`, `problems`. The shells
around them do the I/O: `sync` follows the bus, `demand` asks the scheduler,
`upstream` talks to keepers, `connection` is the client's side, `invoke` is one
invocation from request to answer.

The router keeps serving what it knows when the bus, the scheduler or any other
service is gone; only a fact or a failed call takes an endpoint away.
"""
