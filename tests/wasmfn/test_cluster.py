"""kubectl's words become errors with an exit code, and images come from where they are."""

from pathlib import Path

import pytest

from wasmfn import cluster
from wasmfn.cluster import Kubectl, failure, find_kubectl, from_registry, overlays, render
from wasmfn.errors import RejectedError, UnreachableError, WasmfnError


@pytest.mark.parametrize(
    "said",
    [
        "The connection to the server localhost:8080 was refused - did you specify the right host?",
        "Unable to connect to the server: dial tcp 10.0.0.1:6443: i/o timeout",
        "error: You must be logged in to the server (Unauthorized)",
        "Unable to connect to the server: x509: certificate signed by unknown authority",
    ],
)
def test_a_cluster_that_cannot_be_talked_to_is_told_apart(said: str) -> None:
    assert isinstance(failure(f"E1123 noise\n{said}\n"), UnreachableError)


def test_what_the_cluster_refuses_is_told_in_kubectls_words() -> None:
    error = failure('Error from server (Forbidden): pods is forbidden: User "x" cannot list\n')
    assert isinstance(error, RejectedError)
    assert 'User "x" cannot list' in str(error)


def test_kubectl_that_says_nothing_is_told_as_that() -> None:
    assert "did not say why" in str(failure(""))


def test_a_program_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WasmfnError, match="cannot run"):
        Kubectl((str(tmp_path / "kubectl"),)).run("version")


def test_a_cluster_that_does_not_answer_in_time_is_unreachable() -> None:
    with pytest.raises(UnreachableError, match=r"within 0\.2 s"):
        Kubectl(("sleep",)).run("5", within_s=0.2)


def test_without_kubectl_the_user_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(WasmfnError, match="there is no kubectl"):
        find_kubectl()


def test_the_kubectl_of_k3s_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "k3s").write_text("#!/bin/sh\n")
    (tmp_path / "k3s").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", "x")
    assert find_kubectl().command == (str(tmp_path / "k3s"), "kubectl")
    assert find_kubectl(Path("/c"), "prod").command[2:] == ("--kubeconfig=/c", "--context=prod")


def test_without_a_kubeconfig_kubectl_is_not_let_loose_on_our_own_port(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kubectl").write_text("#!/bin/sh\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cluster, "_K3S_CONFIG", tmp_path / "k3s.yaml")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/gone")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UnreachableError, match="no cluster is known here"):
        find_kubectl()
    kubectl = (str(tmp_path / "kubectl"),)
    assert find_kubectl(offline=True).command == kubectl
    assert find_kubectl(Path("/c")).command == (*kubectl, "--kubeconfig=/c")
    (tmp_path / "there").touch()
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/gone:{tmp_path}/there")
    assert find_kubectl().command == kubectl


def test_every_image_and_every_setting_that_names_one_is_taken_from_the_registry() -> None:
    container = {
        "image": "wasmfn/services:1",
        "env": [{"name": "WASMFN_SCHEDULER_KEEPER_IMAGE", "value": "wasmfn/keeper:1"}],
        "args": ["wasmfn.clusterkeys"],
    }
    assert from_registry([container], "r:5000") == [
        {
            "image": "r:5000/wasmfn/services:1",
            "env": [{"name": "WASMFN_SCHEDULER_KEEPER_IMAGE", "value": "r:5000/wasmfn/keeper:1"}],
            "args": ["wasmfn.clusterkeys"],
        }
    ]


def test_an_overlay_is_one_of_ours_or_a_directory(tmp_path: Path) -> None:
    assert {"k3s", "ha", "lab"} <= set(overlays())
    with pytest.raises(RejectedError, match="no overlay of ours"):
        render(Kubectl(("kubectl",)), str(tmp_path))


def test_the_manifests_are_beside_the_package_installed_or_not() -> None:
    assert (cluster.MANIFESTS / "base" / "kustomization.yaml").is_file()
