"""Podwatch: tells the platform which pods of its node run, where, and whether they answer.

One runs on each node. Whoever starts and ends pods is asked (a `source`), the
pod itself is probed, and what comes out is published as facts. The same program
carries the functions' log lines to the bus, because it is the one that is where
the logs are.
"""
