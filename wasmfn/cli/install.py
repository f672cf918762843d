"""`wasmfn install`, `uninstall` and `status`: the platform in a Kubernetes cluster."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from wasmfn import cluster, clusterapplications, clusterstatus
from wasmfn.cli.output import document, note, progress, write
from wasmfn.cli.verb import Verb
from wasmfn.cluster import FUNCTIONS, NAMESPACE, Kubectl, Object, find_kubectl
from wasmfn.errors import DeadlineError, RejectedError, UnreachableError, WasmfnError
from wasmfn.render import Span, table

_WAIT_S: Final = 300
_LASTING: Final = ("StatefulSet", "Deployment", "DaemonSet")
_MANAGER: Final = "--field-manager=wasmfn"


def cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that name a cluster."""
    command = click.option(
        "--context", metavar="NAME", help="Context of the kubeconfig; by default its current one."
    )(command)
    return click.option(
        "--kubeconfig",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="How to reach the cluster (KUBECONFIG; else ~/.kube/config, else that of k3s).",
    )(command)


@click.command(cls=Verb)
@click.option(
    "--overlay",
    default="k3s",
    show_default=True,
    metavar="NAME|DIRECTORY",
    help="One of ours (k3s, ha), or a directory with a kustomization of your own.",
)
@click.option(
    "--registry",
    default="",
    metavar="HOST[:PORT][/PATH]",
    help="Where the images are pulled from; by default they are on the nodes.",
)
@click.option(
    "--subject", "subjects", multiple=True, metavar="SUBJECT",
    help="A NATS subject for subscriptions and for programs of yours (repeatable). [app.>]",
)  # fmt: skip
@click.option(
    "--stream", "streams", multiple=True, metavar="NAME=SUBJECT[,...]",
    help="A JetStream stream that keeps such subjects (repeatable).",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be applied, and change nothing.")
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait until everything is ready."
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=1), default=_WAIT_S, show_default=True,
    metavar="SECONDS", help="The longest wait.",
)  # fmt: skip
@cluster_options
def install(
    overlay: str,
    registry: str,
    subjects: tuple[str, ...],
    streams: tuple[str, ...],
    dry_run: bool,
    wait: bool,
    timeout_s: float,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Install or upgrade the platform in a Kubernetes cluster.

    Applies the manifests with kubectl and waits until every part is ready. Keys
    and passwords are made in the cluster, once. Harmless to repeat.

    Examples:
      wasmfn install                                      on k3s
      wasmfn install --registry 192.168.1.10:5000         images from a registry
      wasmfn install --overlay ha                         three NATS servers
      wasmfn install --dry-run | less
      WASMFN_NATS=kubernetes: wasmfn deploy sort.wasm     then use it
      wasmfn install --subject 'app.>' --subject 'shop.>' --stream 'ORDERS=shop.orders.>'
    """
    kubectl = find_kubectl(kubeconfig, context, offline=dry_run)
    given = clusterapplications.parse(subjects, streams) if subjects or streams else None
    objects = cluster.render(kubectl, overlay, registry, given)
    if dry_run:
        import yaml  # noqa: PLC0415 - only here

        write(yaml.safe_dump_all(objects, sort_keys=False).rstrip("\n"))
        return
    if given is None:
        _keep_applications(kubectl, objects)
    # A pod that lacks a key when it starts asks for it ever more seldom, so keys come first.
    lasting = _of(objects, _LASTING)
    steps = ([o for o in objects if o not in lasting], lasting) if wait else (objects,)
    by = time.monotonic() + timeout_s
    for step in steps:
        _apply(kubectl, step)
        if wait:
            _wait(kubectl, step, by)
    note(f"applied {len(objects)} objects")
    if wait:
        note("the platform is ready; reach it with WASMFN_NATS=kubernetes:")


@click.command(cls=Verb)
@click.option("--overlay", default="k3s", show_default=True, metavar="NAME|DIRECTORY",
              help="What was installed.")  # fmt: skip
@click.option("--keep-data", is_flag=True, help="Leave the volumes of NATS, the keys and secrets.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cluster_options
def uninstall(
    overlay: str,
    keep_data: bool,
    yes: bool,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Remove the platform from a Kubernetes cluster, with all that it holds.

    Functions, their modules, logs and the platform's keys go with it, unless
    --keep-data is given; `wasmfn export` saves the specs before.

    Examples:
      wasmfn uninstall
      wasmfn uninstall --keep-data --yes
    """
    kubectl = find_kubectl(kubeconfig, context)
    objects = cluster.render(kubectl, overlay)
    if not yes:
        what = "the platform" if keep_data else "the platform with all functions, logs and keys"
        click.confirm(f"remove {what}?", abort=True, err=True)
    if keep_data:
        objects = [o for o in objects if o["kind"] != "Namespace"]
    lasting = _of(objects, _LASTING)
    with progress("removing"):
        # Who makes pods goes first, and then the pods. A namespace that goes with pods in it looks
        # for their end after half of their grace periods, which may be a minute.
        said = _delete(kubectl, lasting, "--cascade=foreground")
        # They belong to nothing that is deleted here: the scheduler has made them.
        kubectl.run(
            "delete", "deployments,pods", f"--namespace={FUNCTIONS}", "--selector=wasmfn/role",
            "--ignore-not-found", within_s=_WAIT_S,
        )  # fmt: skip
        said += _delete(kubectl, [o for o in objects if o not in lasting])
    note(f"removed {len(said.splitlines())} objects")


@click.command(cls=Verb)
@click.option(
    "-o", "--output", "form", type=click.Choice(["table", "json"]), default="table",
    help="How to print it.",
)  # fmt: skip
@cluster_options
def status(form: str, kubeconfig: Path | None, context: str | None) -> None:
    """Show how the platform in a Kubernetes cluster is.

    Its parts and their pods, what NATS says of streams and of the leader, and
    the keepers. Exits with 1 if something is not well.

    Examples:
      wasmfn status
      wasmfn status -o json --context production
    """
    kubectl = find_kubectl(kubeconfig, context)
    here = f"--namespace={NAMESPACE}"
    workloads = kubectl.get("statefulsets,deployments,daemonsets", here)["items"]
    if not workloads:
        raise UnreachableError(
            "there is no platform in this cluster; `wasmfn install` puts one there"
        )
    pods = kubectl.get("pods", here)["items"]
    holding = kubectl.get("pods", f"--namespace={FUNCTIONS}", "--selector=wasmfn/role")["items"]
    parts = clusterstatus.parts(workloads, pods)
    keepers = clusterstatus.keepers(holding)
    troubles = clusterstatus.troubles([*pods, *holding])
    checks = asyncio.run(_checks(kubectl))
    if form == "json":
        document(
            {"parts": parts, "keepers": keepers, "troubles": troubles, "checks": checks}, "json"
        )
    else:
        write(*table(("PART", "READY", "RESTARTS", "IMAGE"), (
            (p.name, Span(f"{p.ready}/{p.wanted}", "green" if p.whole else "bold red"),
             str(p.restarts), p.image) for p in parts
        )))  # fmt: skip
        write("")
        write(*table(("CHECK", "STATE", "DETAIL"), (
            (c.name, Span(c.state, "green" if c.state == "good" else "bold red"),
             f"{c.detail}; {c.advice}" if c.advice else c.detail) for c in checks
        )))  # fmt: skip
        if keepers:
            write("")
            write(*table(("KEEPER", "NAMESPACE", "NODE", "IP", "PHASE", "READY"), (
                (k.name, k.tenant, k.node, k.ip, k.phase, "yes" if k.ready else "no")
                for k in keepers
            )))  # fmt: skip
        for trouble in troubles:
            note(f"warning: {trouble}")
    bad = [p.name for p in parts if not p.whole] + [c.name for c in checks if c.state == "bad"]
    if bad:
        raise WasmfnError(f"not well: {', '.join(bad)}")


def _keep_applications(kubectl: Kubectl, objects: list[Object]) -> None:
    """Refuse to take subjects away from applications because nobody named them again."""
    here = f"--namespace={NAMESPACE}"
    found = kubectl.get("deployments", here, "--field-selector=metadata.name=scheduler")["items"]
    before, now = (clusterapplications.of_objects(o) for o in (found, objects))
    if before is not None and now is not None and before.restricted and before != now:
        raise RejectedError(
            "applications have other subjects in this cluster than this would leave them; say which"
            f" they are to have: {clusterapplications.options(before)} keeps those that they have,"
            f" {clusterapplications.options(now)} gives those of the overlay"
        )


def _of(objects: list[Object], kinds: tuple[str, ...]) -> list[Object]:
    return [o for o in objects if o["kind"] in kinds]


def _name(o: Object) -> tuple[str, str]:
    metadata = o["metadata"]
    return f"{o['kind'].lower()}/{metadata['name']}", f"--namespace={metadata['namespace']}"


def _apply(kubectl: Kubectl, objects: list[Object]) -> None:
    with progress("applying the manifests"):
        # A Job cannot be changed. What ours makes, it makes once.
        for job in _of(objects, ("Job",)):
            kubectl.run("delete", *_name(job), "--ignore-not-found", within_s=60)
        kubectl.run(
            "apply", "--server-side", "--force-conflicts", _MANAGER, "--filename=-",
            given=cluster.as_list(objects), within_s=120,
        )  # fmt: skip


def _delete(kubectl: Kubectl, objects: list[Object], *options: str) -> str:
    """Delete what is there of `objects`, and return what kubectl says when they are gone."""
    return kubectl.run(
        "delete", "--ignore-not-found", *options, "--filename=-",
        given=cluster.as_list(objects), within_s=_WAIT_S,
    )  # fmt: skip


def _wait(kubectl: Kubectl, objects: list[Object], by: float) -> None:
    """Return when every workload is ready; say what each wait is for.

    Raises:
        DeadlineError: one was not when the monotonic clock said `by`; the message says why.
    """
    with progress("waiting") as tell:
        for o in _of(objects, ("Job", *_LASTING)):
            name, namespace = _name(o)
            left_s = max(1, int(by - time.monotonic()))
            tell(f"waiting for the {name.replace('/', ' ')}")
            words = (
                ("wait", "--for=condition=complete") if o["kind"] == "Job"
                else ("rollout", "status")
            )  # fmt: skip
            try:
                kubectl.run(*words, name, namespace, f"--timeout={left_s}s", within_s=left_s + 10)
            except RejectedError as error:
                pods = kubectl.get("pods", namespace)["items"]
                why = "; ".join(clusterstatus.troubles(pods)) or str(error)
                raise DeadlineError(
                    f"{name} was not ready in time: {why}; `wasmfn status` tells how it goes on"
                ) from error


async def _checks(kubectl: Kubectl) -> list[Any]:
    """Return what NATS says of the platform."""
    from wasmfn.checks import Check, on_the_bus  # noqa: PLC0415 - nats-py is slow to import
    from wasmfn.client import connect  # noqa: PLC0415
    from wasmfn.clusterforward import reach  # noqa: PLC0415

    try:
        async with connect(reach(kubectl)) as client:
            return [check async for check in on_the_bus(client)]
    except WasmfnError as error:
        return [Check("nats", "bad", "it cannot be reached", str(error))]
