from tests.examples.interpreters import cpython, micropython, quickjs

__all__ = ["cpython", "micropython", "quickjs"]
