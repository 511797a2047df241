"""The manifests against the API's own schemas, and against what the gateway is."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from actors.config import Config, parse_config
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
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    command = ["kubectl", "kustomize", str(FOLDER / "nvidia")]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    objects = {item["kind"]: item for item in yaml.safe_load_all(made)}
    assert objects.keys() == BASE.keys()
    for item in objects.values():
        kubernetes_validate.validate(item, version, strict=True)
    gateway = container(objects["Deployment"])
    assert gateway["image"] == "llama-smart-proxy:cuda"
    assert gateway["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 1}
    names = {variable["name"] for variable in gateway["env"]}
    assert names == {"HF_TOKEN", "CUDA_DEVICE_ORDER", "NVIDIA_DRIVER_CAPABILITIES"}


def test_the_patch_for_gpus_is_valid_by_itself() -> None:
    patch = yaml.safe_load((FOLDER / "nvidia" / "deployment.yaml").read_text())
    container(patch)["image"] = "llama-smart-proxy:cuda"
    patch["spec"] |= {"selector": BASE["Deployment"]["spec"]["selector"]}
    kubernetes_validate.validate(patch, NEWEST, strict=True)


def test_the_settings_load_and_fit_the_grace_period() -> None:
    text = BASE["ConfigMap"]["data"]["config.yaml"]
    config: Config = parse_config(yaml.safe_load(text), folder=FOLDER, environment={})
    pod = BASE["Deployment"]["spec"]["template"]["spec"]
    pause = int(container(BASE["Deployment"])["lifecycle"]["preStop"]["exec"]["command"][1])
    needed = pause + config.server.drain_timeout + config.server_pool.stop_timeout
    assert pod["terminationGracePeriodSeconds"] > needed
    assert container(BASE["Deployment"])["ports"][0]["containerPort"] == config.server.port


def test_what_is_named_is_there(gateway: Gateway) -> None:
    deployment, pod = BASE["Deployment"], BASE["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for kind, selector in (
        ("Service", BASE["Service"]["spec"]["selector"]),
        ("Deployment", deployment["spec"]["selector"]["matchLabels"]),
        ("PodDisruptionBudget", BASE["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
    ):
        assert selector.items() <= labels.items(), kind
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container(deployment)["volumeMounts"]} == volumes.keys()
    assert volumes["config"]["configMap"]["name"] == BASE["ConfigMap"]["metadata"]["name"]
    claim = BASE["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = container(deployment)[probe]["httpGet"]["path"]
        assert gateway.client.get(path).status_code == 200
    assert gateway.client.get(pod["metadata"]["annotations"]["prometheus.io/path"]).status_code == 200
