"""The words of the command line: names, variables, routes, spans of time, sizes."""

import re
from typing import Any, Final, NamedTuple, get_args

import click

from schemas.specs import Method
from wasmfn.objects import name_problem

METHODS: Final = get_args(Method)
_SPAN: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")
_SIZE: Final = re.compile(r"(\d+)\s*(?:(m|mib|mb)|(g|gib|gb))?", re.IGNORECASE)


class Variable(NamedTuple):
    """`NAME=value`."""

    name: str
    value: str


class Secret(NamedTuple):
    """`VARIABLE=secret/key`."""

    variable: str
    name: str
    key: str


class Route(NamedTuple):
    """`POST:/sort`; no methods means the default ones."""

    methods: tuple[str, ...]
    path: str


class NameType(click.ParamType[str]):
    """A name of an object."""

    name = "name"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the name, or refuse it in words."""
        if problem := name_problem(value):
            self.fail(problem, param, ctx)
        return str(value)


class EnvironmentType(click.ParamType[Variable | str]):
    """`NAME=value` is a variable; a word without `=` is an environment."""

    name = "name|key=value"

    def convert(self, value: Any, param: Any, ctx: Any) -> Variable | str:
        """Return a Variable, or the name of an environment."""
        if isinstance(value, Variable):
            return value
        name, equals, text = str(value).partition("=")
        if equals:
            return Variable(name, text)
        if problem := name_problem(name):
            self.fail(f"{problem} (a variable is KEY=VALUE)", param, ctx)
        return name


class SecretType(click.ParamType[Secret]):
    """`VARIABLE=secret/key`."""

    name = "var=name/key"

    def convert(self, value: Any, param: Any, ctx: Any) -> Secret:
        """Return the three parts."""
        if isinstance(value, Secret):
            return value
        variable, equals, reference = str(value).partition("=")
        name, slash, key = reference.partition("/")
        if not (equals and slash and variable and name and key):
            self.fail(
                f"{value!r} does not say VARIABLE=secret/key, such as DB_PASSWORD=db/password",
                param,
                ctx,
            )
        return Secret(variable, name, key)


class RouteType(click.ParamType[Route]):
    """`POST:/sort`, `GET,POST:/sort` or `/sort`."""

    name = "[methods:]/path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Route:
        """Return methods and path."""
        if isinstance(value, Route):
            return value
        before, slash, path = str(value).partition("/")
        if not slash or (before and not before.endswith(":")):
            self.fail(f"{value!r} is no route; write POST:/sort or /sort", param, ctx)
        methods = tuple(before.removesuffix(":").upper().split(",")) if before else ()
        for method in methods:
            if method not in METHODS:
                self.fail(f"{method!r} is no method; use {', '.join(METHODS)}", param, ctx)
        return Route(methods, slash + path)


class SpanType(click.ParamType[float]):
    """A span of time such as `10m`, `1h30m`, `90s`, `0.5`; seconds where no unit is given."""

    name = "span"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        match = _SPAN.fullmatch(str(value).strip())
        if match is None or not any(match.groups()):
            self.fail(f"{value!r} is no span of time; write 10m, 1h30m or 90s", param, ctx)
        days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class SizeType(click.ParamType[int]):
    """A size of memory such as `64`, `64MiB` or `1GiB`."""

    name = "mib"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Return MiB."""
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size; write 64MiB or 1GiB", param, ctx)
        return int(match[1]) * (1024 if match[3] else 1)


NAME: Final = NameType()
ENVIRONMENT: Final = EnvironmentType()
SECRET: Final = SecretType()
ROUTE: Final = RouteType()
SPAN: Final = SpanType()
SIZE: Final = SizeType()
