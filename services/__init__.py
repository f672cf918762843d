"""The event-driven services: router, builder, scheduler and podwatch, over one bus.

They share what is beside them here (`bus`, `process`, `workqueue` and smaller things)
and nothing of each other: what one must tell another goes over the bus.
"""
