"""Judges what people publish and makes it run: the one service that decides.

Decisions are pure functions over plain data (`judge`, `routes`, `placement`,
`scaling`, `plan`); the modules around them read what is, and carry out what was
decided. One scheduler leads at a time; everything it knows is rebuilt from
streams, pods and keepers when it is elected.
"""
