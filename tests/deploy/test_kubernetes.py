"""The manifests against the API's own schemas, and against what the gateway is."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from actors.config.file import parse_config
from actors.config.schema import Config
from actors.servers.docker.engine import PING
from tests.deploy import DEPLOY
from tests.gateway import Gateway

FOLDER = DEPLOY / "kubernetes"
OLDEST = "1.30"
NEWEST = kubernetes_validate.latest_version()


def manifests(folder: Path) -> dict[str, Any]:
    """The objects of a folder, by kind."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    objects = [yaml.safe_load((folder / name).read_text()) for name in listed if name.endswith(".yaml")]
    return {item["kind"]: item for item in objects}


BASE = manifests(FOLDER / "base")
SETTINGS = FOLDER / "base" / "config.yaml"
POD = BASE["Deployment"]["spec"]["template"]["spec"]


def rendered(folder: Path) -> dict[str, Any]:
    """What `kubectl apply -k` would send, by kind; the test is skipped without kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    command = ["kubectl", "kustomize", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {item["kind"]: item for item in yaml.safe_load_all(made)}


def container(deployment: Any) -> Any:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("kind", BASE)
def test_the_api_takes_it(kind: str, version: str) -> None:
    kubernetes_validate.validate(BASE[kind], version, strict=True)


def test_the_schema_finds_what_is_wrong() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(BASE["Deployment"]))
    container(wrong)["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_with_gpus(version: str) -> None:
    objects = rendered(FOLDER / "nvidia")
    assert objects.keys() == {*BASE, "ConfigMap"}
    for item in objects.values():
        kubernetes_validate.validate(item, version, strict=True)
    gateway = container(objects["Deployment"])
    assert gateway["image"] == "llama-smart-proxy:cuda"
    limits = {"memory": "16Gi", "ephemeral-storage": "4Gi", "nvidia.com/gpu": 1}
    assert gateway["resources"]["limits"] == limits
    names = {variable["name"] for variable in gateway["env"]}
    assert names == {"GATEWAY_KEY", "HF_TOKEN", "CUDA_DEVICE_ORDER", "NVIDIA_DRIVER_CAPABILITIES"}


def test_the_patch_for_gpus_is_valid_by_itself() -> None:
    patch = yaml.safe_load((FOLDER / "nvidia" / "deployment.yaml").read_text())
    container(patch)["image"] = "llama-smart-proxy:cuda"
    patch["spec"] |= {"selector": BASE["Deployment"]["spec"]["selector"]}
    kubernetes_validate.validate(patch, NEWEST, strict=True)


@pytest.mark.parametrize("folder", ["base", "nvidia"])
def test_other_settings_are_another_pod(folder: str, tmp_path: Path) -> None:
    copy = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, copy)
    before = rendered(copy / folder)
    settings = copy / "base" / "config.yaml"
    settings.write_text(settings.read_text().replace("size: 4", "size: 5"))
    after = rendered(copy / folder)
    named = [
        one["Deployment"]["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]
        for one in (before, after)
    ]
    assert named == [one["ConfigMap"]["metadata"]["name"] for one in (before, after)]
    assert before["Deployment"] != after["Deployment"], "so that the pod is replaced"
    assert rendered(copy / folder) == after, "and only then"


def test_a_kustomization_of_ones_own_as_the_readme_has_it(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "llama-smart-proxy" / "deploy" / "kubernetes")
    (text,) = re.findall(r"```yaml\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    own = tmp_path / "my-gateway"
    own.mkdir()
    (own / "kustomization.yaml").write_text(text)
    (own / "config.yaml").write_text("server: {host: 0.0.0.0}\n")
    objects = rendered(own)
    assert objects["ConfigMap"]["data"]["config.yaml"] == "server: {host: 0.0.0.0}\n"
    volumes = objects["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert volumes[0]["configMap"]["name"] == objects["ConfigMap"]["metadata"]["name"]
    image = container(objects["Deployment"])["image"]
    assert image == "registry.example.org/llama-smart-proxy:1"


def test_the_settings_load_and_fit_the_grace_period() -> None:
    secret = {"GATEWAY_KEY": "the-secret-of-the-cluster"}
    config: Config = parse_config(yaml.safe_load(SETTINGS.read_text()), folder=FOLDER, environment=secret)
    pause = int(container(BASE["Deployment"])["lifecycle"]["preStop"]["exec"]["command"][1])
    agents = 5
    needed = pause + config.server.drain_timeout + config.server_pool.stop_timeout + agents
    assert POD["terminationGracePeriodSeconds"] > needed
    assert container(BASE["Deployment"])["ports"][0]["containerPort"] == config.server.port


def test_a_pod_that_may_no_more_than_it_must() -> None:
    assert POD["automountServiceAccountToken"] is False
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["fsGroup"] == POD["securityContext"]["runAsUser"] == 10001
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    gateway = container(BASE["Deployment"])
    assert gateway["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for volume in POD["volumes"]:
        assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], "it must not fill the node's disk"
    for amount in (gateway["resources"]["requests"], gateway["resources"]["limits"]):
        assert {"memory", "ephemeral-storage"} <= amount.keys()


def test_what_is_missing_outside_does_not_restart_it() -> None:
    gateway = container(BASE["Deployment"])
    paths = {
        probe: gateway[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    assert gateway["readinessProbe"]["timeoutSeconds"] > PING, "or the engine's answer is not waited for"


def test_who_reaches_it_and_whom_it_reaches() -> None:
    policy = BASE["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    (rule,) = policy["ingress"]
    (port,) = rule["ports"]
    assert port["port"] == container(BASE["Deployment"])["ports"][0]["name"], "no model server's port"
    assert rule["from"]
    for peer in rule["from"]:
        for selector in peer.values():
            assert selector["matchLabels"], "not everybody, and in no namespace whoever wants to"
    reached = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert reached == {53, 443, 11434}
    for rule in policy["egress"]:
        for peer in rule.get("to", ()):
            if "ipBlock" in peer:
                assert peer["ipBlock"]["except"], "the hub is outside"


def test_what_is_named_is_there(gateway: Gateway) -> None:
    deployment = BASE["Deployment"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for kind, selector in (
        ("Service", BASE["Service"]["spec"]["selector"]),
        ("Deployment", deployment["spec"]["selector"]["matchLabels"]),
        ("NetworkPolicy", BASE["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]),
        ("PodDisruptionBudget", BASE["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
    ):
        assert selector.items() <= labels.items(), kind
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container(deployment)["volumeMounts"]} == volumes.keys()
    (made,) = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())["configMapGenerator"]
    assert volumes["config"]["configMap"]["name"] == made["name"]
    claim = BASE["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = container(deployment)[probe]["httpGet"]["path"]
        assert gateway.client.get(path).status_code == 200
    assert gateway.client.get(pod["metadata"]["annotations"]["prometheus.io/path"]).status_code == 200
