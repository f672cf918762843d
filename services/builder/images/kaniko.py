"""Has the image made and pushed by a Kubernetes Job with kaniko, or what takes its arguments.

A Job is looked for before one is made, and outlives the builder: who comes back
waits for the Job that runs and takes its result. A Job whose image was taken is
removed, so one that succeeded and is still there was not read; one that failed
stays for people to look at, and gives way when the build is tried again.

A module that got this far is valid, so whatever fails here is the world's fault
(the registry, its credentials, the cluster): `Unavailable`, with the reason.
Jobs are asked after, not watched: there are few, and nothing can be missed.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from kubernetes_asyncio.client import ApiClient, BatchV1Api, CoreV1Api

from schemas.names import new_token, sha256_hex
from services.builder.errors import Unavailable
from services.builder.garbage import Stored
from services.builder.images import Tell
from services.builder.images import job as jobs
from services.builder.images.contexts import Contexts
from services.builder.images.settings import ImageSettings
from services.kubernetes.api import ApiError, LoginError, answer, decode, login

log = logging.getLogger(__name__)

ASK_S: Final = 0.5
ANSWER_S: Final = 15.0
MAX_SAID: Final = 300
MISSING: Final = 404
CONFLICT: Final = 409
# Its pod ends too, soon after.
REMOVE: Final = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}


class KanikoImages:
    """Image builder that runs one Job a build."""

    def __init__(
        self,
        settings: ImageSettings,
        contexts: Contexts,
        *,
        platform: str,
        insecure: tuple[str, ...],
    ) -> None:
        """Raise ValueError, saying what is missing, if Jobs cannot be made by the settings."""
        jobs.check(settings)
        self._settings = settings
        self._contexts = contexts
        self._platform = platform
        self._insecure = insecure

    async def build(self, build: str, module: bytes, file_name: str, tell: Tell) -> str:
        """Return the reference, by digest, of the image that was pushed; see `ImageBuilder`."""
        work = jobs.Work(build, file_name, sha256_hex(module), len(module))
        if place := self._place(build):
            await asyncio.to_thread(_write, place, file_name, module)
        async with self._cluster() as cluster:
            job = await self._job(cluster, work)
            where = f"Job {job['metadata']['name']} in {self._settings.kaniko_namespace}"
            tell(f"the image of {file_name} is made by {where}")
            with self._contexts.offered(jobs.name(build), jobs.token_of(job), module):
                ended = await self._end(cluster, job, tell)
            if place:
                await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
            if isinstance(ended, jobs.Broken):
                raise Unavailable(f"the image build, {where}, failed: {ended.reason}")
            await cluster.remove(job)
        target = jobs.pushed_to(job)
        return f"{target.registry}/{target.repository}@{ended.digest}"

    async def discard(self, build: str) -> None:
        """End the Job of `build` if it runs; see `ImageBuilder`."""
        try:
            async with self._cluster() as cluster:
                job = await cluster.find(jobs.name(build))
                if job is None:
                    return
                if isinstance(jobs.state(job, await cluster.pods(job)), jobs.Broken):
                    return
                await cluster.remove(job)
        except Unavailable as error:
            # It ends by itself at its deadline.
            log.warning("the Job of build %s is not ended: %s", build, error)

    async def made(self) -> list[Stored]:
        """Return nothing: images are in a registry; see `ImageBuilder`."""
        return []

    async def _job(self, cluster: "_Cluster", work: jobs.Work) -> jobs.Object:
        """Return the Job of `work`: the one that is there, or a new one."""
        job = await cluster.find(jobs.name(work.build))
        if job is not None:
            if not isinstance(jobs.state(job, await cluster.pods(job)), jobs.Broken):
                return job
            await cluster.remove(job)
        return await cluster.create(
            jobs.manifest(
                work,
                self._settings,
                new_token(),
                platform=self._platform,
                insecure=self._insecure,
            )
        )

    async def _end(
        self, cluster: "_Cluster", job: jobs.Object, tell: Tell
    ) -> jobs.Pushed | jobs.Broken:
        """Return how `job` ended, as soon as it has."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        held_up = ""
        while True:
            now = jobs.state(job, await cluster.pods(job))
            if isinstance(now, jobs.Pushed):
                return now
            if isinstance(now, jobs.Broken):
                return jobs.Broken(f"{now.reason}; {held_up}" if held_up else now.reason)
            if now.held_up and now.held_up != held_up:
                tell(f"the image build, Job {name}, is held up: {now.held_up}")
            held_up = now.held_up
            await asyncio.sleep(ASK_S)
            found = await cluster.find(name)
            if found is None or found["metadata"]["uid"] != uid:
                return jobs.Broken("it was deleted")
            job = found

    def _place(self, build: str) -> Path | None:
        """Return the build's directory among those shared with the node, if they are."""
        shared = self._settings.kaniko_host_path
        return Path(shared) / jobs.name(build) if shared else None

    @contextlib.asynccontextmanager
    async def _cluster(self) -> AsyncIterator["_Cluster"]:
        """Have the API server at hand while inside. Raises Unavailable for all it does wrong."""
        try:
            client = await login(self._settings.kaniko_kubeconfig)
        except LoginError as error:
            raise Unavailable(str(error)) from error
        async with client:
            yield _Cluster(client, self._settings.kaniko_namespace)


class _Cluster:
    """The few things that are asked of the API server."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self._jobs = BatchV1Api(client)
        self._pods = CoreV1Api(client)
        self._namespace = namespace

    async def find(self, name: str) -> jobs.Object | None:
        """Return the Job called `name`, or None if there is none."""
        return await _ask(self._jobs.read_namespaced_job, name, self._namespace, also=MISSING)

    async def create(self, manifest: jobs.Manifest) -> jobs.Object:
        """Return the Job made by `manifest`."""
        made = await _ask(
            self._jobs.create_namespaced_job, self._namespace, manifest, also=CONFLICT
        )
        if made is None:
            name = manifest["metadata"]["name"]
            raise Unavailable(f"the Job {name} of an earlier try is still there")
        return made

    async def remove(self, job: jobs.Object) -> None:
        """Have `job` deleted, if it is there."""
        name = job["metadata"]["name"]
        await _ask(
            self._jobs.delete_namespaced_job, name, self._namespace, body=REMOVE, also=MISSING
        )

    async def pods(self, job: jobs.Object) -> list[jobs.Object]:
        """Return the pods of Jobs called as `job` is."""
        found = await _ask(
            self._pods.list_namespaced_pod,
            self._namespace,
            label_selector=f"job-name={job['metadata']['name']}",
        )
        return list((found or {}).get("items") or ())


async def _ask(what: Any, *words: Any, also: int = 0, **options: Any) -> jobs.Manifest | None:
    """Return the JSON of a good answer, or None for one with the status `also`.

    Raises:
        Unavailable: no answer, or another one.
    """
    try:
        data = await answer(what, *words, within_s=ANSWER_S, **options)
        return decode(data, dict[str, Any])
    except ApiError as error:
        if also and error.status == also:
            return None
        raise Unavailable(str(error)[:MAX_SAID]) from error


def _write(place: Path, file_name: str, module: bytes) -> None:
    """Write what is built into `place`. Raises Unavailable."""
    file = place / jobs.CONTEXT / file_name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The module of an earlier try cannot be written over: it is read-only.
        file.unlink(missing_ok=True)
        file.write_bytes(module)
        file.chmod(0o555)
        (place / jobs.DOCKERFILE).write_text(jobs.dockerfile(file_name))
    except OSError as error:
        raise Unavailable(f"cannot write what to build to {place}: {error.strerror}") from error
