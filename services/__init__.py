"""The event-driven services: router, builder, scheduler and podwatch, over one bus."""
