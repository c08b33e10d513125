"""Arbitrary frames at the broker and the Proxy, while a well-behaved peer checks that it is served.

``python -m tests.fuzz --help``. :mod:`~tests.fuzz.messages` makes the messages, :mod:`~tests.fuzz.attack` sends them
to a broker in a process of its own, :mod:`~tests.fuzz.witness` is the well-behaved peer, and
:mod:`~tests.fuzz.inside` drives the same handlers in its own process, led by coverage.
"""
