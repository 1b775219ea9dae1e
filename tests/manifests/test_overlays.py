"""Every overlay builds with kustomize, fits Kubernetes' schemas, and keeps to our policies."""

import re
import shutil
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from components import USER
from pipelines import client, placement, store
from tests.conftest import ROOT

MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
VERSIONS = ("1.31", "1.34", "1.37")
KUBECTL = Path(sys.executable).parent / "kubectl"
PINNED = re.compile(r"^[\w./-]+:(?!latest)[\w.-]*\d[\w.-]*$|^[\w./:-]+@sha256:[0-9a-f]{64}$")


def build(folder):
    """The documents that `kubectl apply -k` would send."""
    done = subprocess.run(
        [KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=["base", *OVERLAYS])
def documents(request):
    folder = "base" if request.param == "base" else f"overlays/{request.param}"
    return build(MANIFESTS / folder)


def named(documents, kind, name):
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def pods(documents):
    """Kind and pod specification of everything that starts pods."""
    return [
        (document["kind"], document["spec"]["template"]["spec"])
        for document in documents
        if "template" in document.get("spec", {})
    ]


def containers(documents):
    return [
        container
        for _, pod in pods(documents)
        for container in [*pod.get("initContainers", []), *pod["containers"]]
    ]


def test_overlays():
    assert OVERLAYS == ["gpu", "gpu-standalone", "kind"]


@pytest.mark.parametrize("version", VERSIONS)
def test_schemas(documents, version):
    """Strictly, and nothing is of a kind that the schemas do not know."""
    for document in documents:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kubernetes_validate.validate(document, version, strict=True)


def test_schemas_refuse_what_is_wrong(documents):
    deployment = named(documents, "Deployment", "judge")
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_images_are_pinned(documents):
    found = [container["image"] for container in containers(documents)]
    assert found
    for image in found:
        assert PINNED.match(image), image


@pytest.mark.parametrize("image", ["ollama", "a/b:latest", "a/b:stable", "a/b@sha256:12"])
def test_loose_images_would_be_seen(image):
    assert not PINNED.match(image)


def test_no_root_no_privileges(documents):
    for _, pod in pods(documents):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))
    for container in containers(documents):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not context.get("privileged")


def test_limits_and_requests(documents):
    for container in containers(documents):
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][kind]), container["name"]


def test_probes(documents):
    for kind, pod in pods(documents):
        for container in pod["containers"] if kind == "Deployment" else []:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert probe in container, container["name"]


def test_tokens_only_where_they_are_used(documents):
    for _, pod in pods(documents):
        assert pod["automountServiceAccountToken"] is False


def test_least_rights(documents):
    """No wildcard, nothing cluster-wide, no secret or setting that is not named."""
    for document in documents:
        assert document["kind"] not in ("ClusterRole", "ClusterRoleBinding", "Secret")
        for rule in document.get("rules") or []:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if {"secrets", "configmaps"} & set(rule["resources"]):
                assert rule["resourceNames"] and rule["verbs"] == ["get"]


def test_network_is_closed_by_default(documents):
    policy = named(documents, "NetworkPolicy", "deny-by-default")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert not policy.get("ingress") and not policy.get("egress")
    opened = [
        rule
        for document in documents
        if document["kind"] == "NetworkPolicy"
        for rule in document["spec"].get("ingress", []) + document["spec"].get("egress", [])
    ]
    assert opened and all(rule["ports"] for rule in opened)
    for rule in opened:
        for peer in rule.get("to", []):
            assert "169.254.0.0/16" in peer.get("ipBlock", {}).get("except", ["169.254.0.0/16"])


def test_our_namespace_is_restricted():
    for folder in ("base", "overlays/gpu"):
        documents = build(MANIFESTS / folder)
        labels = named(documents, "Namespace", "llada")["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        policy = named(documents, "NetworkPolicy", "deny-by-default")
        assert policy["spec"]["podSelector"] == {}


@pytest.mark.parametrize("overlay", ["kind", "gpu-standalone"])
def test_standalone_leaves_kubeflow_alone(overlay):
    """Beside Kubeflow, nothing of ours closes its pods or replaces its settings."""
    documents = build(MANIFESTS / "overlays" / overlay)
    for settings in ("kfp-launcher", "artifact-repositories"):
        assert not any(document["metadata"]["name"] == settings for document in documents)
    assert {document["metadata"]["namespace"] for document in documents} == {"kubeflow"}
    for name in ("deny-by-default", "names"):
        assert named(documents, "NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"]


def test_a_namespace_of_our_own_runs_beside_profiles():
    """KFP's store lets it in, and Argo asks for no secret that only profiles have."""
    documents = build(MANIFESTS / "overlays" / "gpu")
    labels = named(documents, "Namespace", "llada")["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "kubeflow-profile"
    repositories = named(documents, "ConfigMap", "artifact-repositories")
    (name,) = repositories["metadata"]["annotations"].values()
    assert yaml.safe_load(repositories["data"][name]) == {"archiveLogs": False}


def test_nothing_but_its_own_kustomization_is_in_the_operators_namespace(documents):
    """`kubectl apply` ends at the first namespace that is not there."""
    found = {d["metadata"]["namespace"] for d in documents if "namespace" in d["metadata"]}
    assert len(found) == 1 and "gpu-operator" not in found


def test_names_are_asked_of_the_node_too(documents):
    """NodeLocal DNSCache answers at an address of the node, which no selector of pods reaches."""
    (rule,) = named(documents, "NetworkPolicy", "names")["spec"]["egress"]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in rule["to"]
    assert {port["port"] for port in rule["ports"]} == {53}


def test_judge_is_reachable_by_the_stages_alone(documents):
    service = named(documents, "Service", "judge")["spec"]
    pod = named(documents, "Deployment", "judge")["spec"]["template"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    policy = named(documents, "NetworkPolicy", "judge")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["ingress"][0]["ports"][0]["port"] == service["ports"][0]["port"]


@pytest.mark.parametrize("overlay", ["gpu", "gpu-standalone"])
def test_placement_and_manifests_agree(overlay):
    documents = build(MANIFESTS / "overlays" / overlay)
    for wanted in placement.PROFILES["gpu"].values():
        claims = [wanted.cache, *(wanted.shared or ())[:1]]
        for claim in filter(None, claims):
            assert named(documents, "PersistentVolumeClaim", claim)
            owner = named(documents, "Job", f"{claim}-owner")["spec"]["template"]["spec"]
            assert owner["securityContext"]["fsGroup"] == USER
            assert owner["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    pod = named(documents, "Deployment", "judge")["spec"]["template"]["spec"]
    assert set(pod["nodeSelector"]) == set(placement.GPU.nodes)


def test_the_disk_of_a_node_is_requested_where_a_namespace_is_ours():
    """Two containers a pod, together as much as a model that comes in and one that goes out."""
    (limit,) = named(build(MANIFESTS / "overlays/gpu"), "LimitRange", "disk")["spec"]["limits"]
    size = limit["defaultRequest"]["ephemeral-storage"]
    assert limit["type"] == "Container" and 2 * int(size.removesuffix("Gi")) << 30 >= 32e9
    for overlay in ("kind", "gpu-standalone"):
        documents = build(MANIFESTS / "overlays" / overlay)
        assert not any(document["kind"] == "LimitRange" for document in documents)


def test_the_account_that_submit_names_may_submit(documents):
    name = re.search(r"create token ([\w-]+)", client.NEW_TOKEN)[1]
    assert named(documents, "ServiceAccount", name)
    binding = named(documents, "RoleBinding", name)
    assert [subject["name"] for subject in binding["subjects"]] == [name]
    rule, again, shown = named(documents, "Role", binding["roleRef"]["name"])["rules"]
    assert (shown["resources"], shown["verbs"]) == (["viewers"], ["get"])
    assert again["resources"] == ["runs"] and set(again["verbs"]) == {"retry", "readLog"}
    assert set(rule["verbs"]) == {"create", "get", "list"}
    assert {"pipelines", "pipelines/versions", "experiments", "runs"} == set(rule["resources"])


def test_the_judge_takes_a_slice_of_a_gpu():
    documents = build(MANIFESTS / "overlays" / "gpu")
    (settings,) = build(MANIFESTS / "gpu-operator")
    assert settings["metadata"] == {"name": "time-slicing", "namespace": "gpu-operator"}
    sharing = yaml.safe_load(settings["data"]["judge"])
    sliced = sharing["sharing"]["timeSlicing"]
    assert sliced["renameByDefault"] and sliced["resources"][0]["replicas"] > 1
    pod = named(documents, "Deployment", "judge")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu.shared"] == 1
    assert placement.GPU.gpu == "nvidia.com/gpu"


def test_secrets_have_the_keys_that_the_stages_read(tmp_path):
    folder = tmp_path / "secrets"
    shutil.copytree(MANIFESTS / "secrets", folder)
    for example in folder.glob("*.env.example"):
        assert all(line.endswith("=") for line in example.read_text().splitlines())
        shutil.copyfile(example, example.with_suffix(""))
    found = {d["metadata"]["name"]: set(d["data"]) for d in build(folder)}
    wanted = {name: set(keys) for name, keys in placement.SECRETS.items()}
    wanted.pop(store.SECRET)  # with the launcher's settings: tests/pipelines/test_store.py
    assert found == wanted


def test_secrets_without_values_do_not_build():
    """Nothing half filled in reaches a cluster."""
    command = [KUBECTL, "kustomize", MANIFESTS / "secrets"]
    if not list((MANIFESTS / "secrets").glob("*.env")):
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_kubeflow_is_pinned_to_the_sdk():
    text = (MANIFESTS / "kfp" / "kustomization.yaml").read_text()
    assert set(re.findall(r"\?ref=([\w.]+)", text)) == {metadata.version("kfp")}
