"""Invocations that nobody waits for: accepted once stored, run at least once, accounted for.

Every router accepts, and every router runs what any of them accepted, over one
shared pull consumer for each function. Decisions are pure (`identity`,
`policy`, `report`, `outlet`); around them `accept` answers 202, `lanes` pull,
`delivery` carries one message to its end, `execution` calls an instance, `door`
answers at the location, `redrive` brings the dead back.

The order of writes is what makes the promise. A message leaves the queue last:
after its outcome was sent on, and after its result or its dead letter was
stored. Whatever dies in between, the message is still there, and what was
written is found again under the same id.
"""
