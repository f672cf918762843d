"""Run a builder: `python -P -m services.builder [SETTINGS.toml]`."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from services.builder.artifacts import Artifacts
from services.builder.broker import answering
from services.builder.builder import Builder
from services.builder.cancellation import cancelling
from services.builder.claimants import Claimants
from services.builder.collector import Collector
from services.builder.compile import clear_leftovers
from services.builder.images import ImageBuilder
from services.builder.images.local import LocalImages
from services.builder.keys import read_signing_key
from services.builder.pipeline import Bounds, Pipeline
from services.builder.records import Records
from services.builder.registry import Policy, credentials_file, read_credentials
from services.builder.settings import BuilderSettings
from services.bus.connection import connect
from services.bus.events import event_log
from services.bus.permissions import used_by
from services.bus.streams import provide
from services.process import Process, PublicError, serve

MIB = 1024 * 1024


async def main(process: Process, settings: BuilderSettings) -> None:
    """Wire the parts and run them until told to stop."""
    requests = process.ready.needs("requests", "the records of builds are not read yet")
    key = read_signing_key(Path(settings.signing_key_file))
    bounds = _bounds(settings)
    work = _work_folder(Path(settings.work_dir))
    async with (
        _images(settings) as images,
        connect(settings, "builder") as bus,
        event_log(bus) as events,
    ):
        await provide(bus, settings, used_by("builder"))
        artifacts = Artifacts(bus, key)
        records = Records(bus)
        claimants = Claimants(bus)
        pipeline = Pipeline(artifacts, images, work, bounds)
        builder = Builder(
            records,
            artifacts,
            pipeline,
            events,
            parallel=settings.parallel,
            give_up_s=settings.give_up_s,
        )
        process.start(bus.watch(), "bus")
        process.start(records.run(), "records")
        process.start(claimants.run(), "claims")
        working = process.start(builder.run(), "builds")
        await records.complete.wait()
        async with answering(bus, builder.request):
            requests.met()
            process.start(builder.learn_engine(), "engine")
            process.start(cancelling(builder, claimants, settings.cancel_after_s), "cancellation")
            collector = Collector(
                bus,
                records,
                claimants,
                pipeline,
                images,
                events,
                after_s=settings.collect_after_s,
            )
            process.start(collector.run(settings.collect_every_s), "garbage collection")
            await process.stopping.wait()
        # What is not finished stands in the records and is taken up at the next start.
        working.cancel()


@contextlib.asynccontextmanager
async def _images(settings: BuilderSettings) -> AsyncIterator[ImageBuilder]:
    """Have the image builder that the settings choose at work while inside."""
    if settings.image_builder == "local":
        yield LocalImages(Path(settings.image_dir), settings.image_platform)
        return
    from services.builder.images.contexts import Contexts  # noqa: PLC0415 - with the next one
    from services.builder.images.kaniko import (  # noqa: PLC0415 - its imports take 0.6 s
        KanikoImages,
    )

    contexts = Contexts()
    try:
        images = KanikoImages(
            settings,
            contexts,
            platform=settings.image_platform,
            insecure=settings.insecure_registries,
        )
    except ValueError as error:
        raise PublicError(str(error)) from error
    async with contextlib.AsyncExitStack() as stack:
        if not settings.kaniko_host_path:
            await stack.enter_async_context(contexts.serving(settings.kaniko_context_listen))
        yield images


def _bounds(settings: BuilderSettings) -> Bounds:
    file = credentials_file(settings.registry_credentials_file, os.environ)
    try:
        credentials = read_credentials(file) if file else {}
    except ValueError as error:
        raise PublicError(str(error)) from error
    return Bounds(
        module_bytes=settings.max_module_mib * MIB,
        memory_bytes=settings.max_memory_mib * MIB,
        compile=settings.compile,
        pull=Policy(
            max_bytes=settings.max_image_mib * MIB,
            insecure=settings.insecure_registries,
            allowed=settings.allowed_registries,
            credentials=credentials,
            timeout_s=settings.pull_timeout_s,
        ),
    )


def _work_folder(work: Path) -> Path:
    """Return `work`, without what a builder that was killed has left in it and running."""
    try:
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        clear_leftovers(work)
    except OSError as error:
        raise PublicError(f"cannot use the work directory {work}: {error.strerror}") from error
    return work


serve("builder", BuilderSettings, main)
