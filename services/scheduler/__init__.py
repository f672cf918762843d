"""Judges what people publish and makes it run: the one service that decides.

Decisions are pure functions over plain data: `judge` and `routes` (is a spec
right), `plan` (what to do next about one function), `placement` and `scaling`
(where, and how many), `schedule` (when a timer is due). What they are made from is
the `world`, and in it what is known of each `function`.

Around them, `leader` leads for one term: it learns everything, then `reconcile`
carries plans out, function by function, by `loading` and the `keepers`' control
ports; `fleet` keeps the keepers themselves, in the `pods` of a platform, and
`watching` hears of them. `demand` answers routers that wait, and `record` writes
down whatever is decided. What runs as an image of its own is in `natives`.

One scheduler leads at a time; everything it knows is rebuilt from streams, pods
and keepers when it is elected.
"""
