"""Routers in the test's own process, as their own tests have them."""

from tests.services.router.conftest import gate, make_gate, platform

__all__ = ["gate", "make_gate", "platform"]
