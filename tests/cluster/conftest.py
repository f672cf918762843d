"""The lab for the tests of this folder, brought up when the first of them asks for it.

One that was brought up by hand (`python -m tests.cluster.lab up cluster`) is used and stays up.
Tests that need only containerd come first, on a node without Kubernetes.
"""

import pytest

from tests.cluster.lab import machine, paths, tiers, turns

_turn = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not _is_tier_1(item))


def _is_tier_1(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return "containerd" in names and "cluster" not in names


def pytest_collection_finish(session: pytest.Session) -> None:
    """Wait for our turn here, where no test's time counts yet."""
    config = session.config
    if not any(item.get_closest_marker("cluster") for item in session.items):
        return
    if config.option.collectonly or _is_worker(config) or machine.unfit():
        return
    # Other folders take these hooks over, too.
    if config.stash.get(_turn, False):
        return
    config.stash[_turn] = True

    def waiting() -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"another run uses the lab in {paths.LAB}: waiting for its end")

    turn = turns.turn(waiting)
    turn.__enter__()
    config.add_cleanup(lambda: turn.__exit__(None, None, None))


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.fixture(scope="session")
def _lab(request: pytest.FixtureRequest) -> None:
    if reason := machine.unfit():
        pytest.skip(f"no lab: {reason}")
    if _is_worker(request.config):
        pytest.fail("there is one lab, and so there is one worker: add `-n 0`", pytrace=False)


@pytest.fixture(scope="session")
def containerd(_lab: None) -> None:
    """Tier 1 runs: the node, containerd and a registry."""
    tiers.ensure_containerd()


@pytest.fixture(scope="session")
def cluster(_lab: None) -> None:
    """Tier 2 runs: Kubernetes on tier 1."""
    tiers.ensure_cluster()
