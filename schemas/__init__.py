"""The contract: every message, subject and stream that crosses a process boundary.

This room imports nothing but msgspec and the standard library, so that every
other room, and any tool of a user, can depend on it without cost.
`python -m schemas` writes it out for other languages: JSON Schemas for the
specs and an AsyncAPI document for the bus.
"""
