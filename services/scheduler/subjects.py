"""Whether a spec keeps to the subjects and streams that applications have. Pure."""

from collections.abc import Iterable

from schemas.specs import AnySpec, FunctionSpec, SubscriptionSpec
from services.bus.applications import Applications, is_covered


def subject_problem(spec: AnySpec, applications: Applications) -> tuple[str, str] | None:
    """Return the field that is wrong and why, in words for the spec's author, or None."""
    if not applications.restricted:
        return None
    if isinstance(spec, FunctionSpec):
        for outcome in ("on_success", "on_failure"):
            to = getattr(spec.asynchronous, outcome)
            if to is not None and to.subject is not None:
                field = f"$.asynchronous.{outcome}.subject"
                if not is_covered(to.subject, applications.subjects):
                    return field, _outside(field, to.subject, applications)
    if isinstance(spec, SubscriptionSpec):
        if not is_covered(spec.subject, applications.subjects):
            return "$.subject", _outside("$.subject", spec.subject, applications)
        if spec.stream is not None:
            return _stream_problem(spec.stream, spec.subject, applications)
    return None


def _outside(field: str, subject: str, applications: Applications) -> str:
    return (
        f"`{field}`: {subject!r} is outside of the subjects that applications have on this"
        f" platform, {_listed(applications.subjects)}; choose one of them, or have the operator add"
        f" yours: wasmfn install {_options(applications, subject=subject)}"
    )


def _stream_problem(
    stream: str, subject: str, applications: Applications
) -> tuple[str, str] | None:
    kept = applications.streams.get(stream)
    if kept is None:
        there = _listed(applications.streams) if applications.streams else "none at all"
        return "$.stream", (
            f"`$.stream`: applications have no stream {stream!r} on this platform, but {there};"
            " have the operator add it: wasmfn install"
            f" {_options(applications, stream=f'{stream}={subject}')}"
        )
    if not is_covered(subject, kept):
        return "$.subject", (
            f"`$.subject`: the stream {stream!r} keeps {_listed(kept)}, and not {subject!r}; name a"
            " subject that it keeps, or leave `stream` out"
        )
    return None


def _options(applications: Applications, *, subject: str = "", stream: str = "") -> str:
    """Return what installs the platform with one more subject or stream than it has."""
    streams = [f"{name}={','.join(kept)}" for name, kept in applications.streams.items()]
    options = [("--subject", one) for one in (*applications.subjects, subject) if one]
    options += [("--stream", one) for one in (*streams, stream) if one]
    return " ".join(f"{option} '{one}'" for option, one in options)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
