"""Invocations that nobody waits for: accepted once stored, run at least once, accounted for.

Every router accepts, and every router runs what any of them accepted, over one
shared pull consumer for each function. Decisions are pure: `identity` (which
invocation a request is), `policy` (done, again or dead), `report` (what is told
of an attempt), `outlet` (where an outcome goes).

Around them, in the order that an invocation meets them: `accept` and `door`
answer on the data port and `subscriptions` take messages of NATS, as long as
there is `room`; `lanes` pull, `delivery` carries one message to its end,
`attempting` makes one attempt by `execution`, which calls an instance, and
`ending` does what follows, by the `outbox`. `cancel` ends what nobody wants,
which `broadcast` tells to the router that runs it (`interruption`); `dead` and
`admin` bring the dead back. `store` is where all of it is kept, and `start` puts
it together.

The order of writes is what makes the promise. A message leaves the queue last:
after its outcome was sent on, and after its result or its dead letter was
stored. Whatever dies in between, the message is still there, and what was
written is found again under the same id.
"""
