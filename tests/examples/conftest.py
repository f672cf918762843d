from tests.examples.interpreters import cpython, micropython, quickjs
from tests.examples.plain import compiled, engine, run

__all__ = ["compiled", "cpython", "engine", "micropython", "quickjs", "run"]
