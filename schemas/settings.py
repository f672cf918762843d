"""How a service reads its settings: a TOML file, the environment over it, one Struct out.

Every service has one frozen Struct that forbids unknown fields. A wrong value
or an unknown variable stops the service at once with the variable's name,
because a setting that is silently ignored is found out in production.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


class SettingsError(Exception):
    """A setting is wrong. The message names it and is meant for the operator."""


def read_settings(struct: type[S], prefix: str, environ: Mapping[str, str], file: str = "") -> S:
    """Return `struct` filled from the TOML `file` (if any) and from `environ` over it.

    The variable of field `nats_url` with prefix `WASMFN_ROUTER_` is
    `WASMFN_ROUTER_NATS_URL`. Values are converted from text by their field's
    type; nested Structs and lists are given as JSON.

    Raises:
        SettingsError: unreadable file, unknown field or variable, wrong value.
    """
    values: dict[str, Any] = {}
    if file:
        import tomllib  # noqa: PLC0415 - a keeper has no file, and starts while somebody waits

        try:
            values = tomllib.loads(Path(file).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"cannot read the settings file {file}: {error}") from error
    known = {field.encode_name for field in msgspec.structs.fields(struct)}
    for variable, text in environ.items():
        if variable.startswith(prefix):
            name = variable.removeprefix(prefix).lower()
            if name not in known:
                raise SettingsError(
                    f"there is no setting {variable}; known are "
                    + ", ".join(sorted(prefix + k.upper() for k in known))
                )
            values[name] = _from_text(text)
    try:
        return msgspec.convert(values, struct, strict=False)
    except msgspec.ValidationError as error:
        _, of_field, path = str(error).rpartition("$.")
        where = path.rstrip("`").partition(".")[0].upper() if of_field else "*"
        raise SettingsError(f"setting {prefix}{where}: {error}") from error


def _from_text(text: str) -> Any:
    """Return a JSON object or list as such, and any other text as it is."""
    if text[:1] in ("{", "["):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return text
