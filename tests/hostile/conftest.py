"""Routers and keepers as their own tests have them."""

from tests.keeper.conftest import compiler, keeper
from tests.services.router.conftest import gate, make_gate, platform

__all__ = ["compiler", "gate", "keeper", "make_gate", "platform"]
