"""What deploy/ says about the program is so: a setting with a wrong name would be ignored.

`make ci-deploy` lints these files; here they are held against the program that they start.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from shardkv import config
from shardkv.auto import completed
from shardkv.cli.auto import auto
from shardkv.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
NAME = re.compile(r"\bSHARDKV_[A-Z_]+\b")
OF_THE_PROGRAM = {"SHARDKV_DATA", "SHARDKV_GROUPS", "SHARDKV_REPLICAS", "SHARDKV_ENDPOINTS"}
"""Names that are no keys of a node's settings: of `shardkv auto`, and of commands in the pod."""
KNOWN = {config.variable(key) for key in config.TABLE} | OF_THE_PROGRAM
FILES = sorted(
    path
    for path in DEPLOY.rglob("*")
    if path.is_file() and path.suffix in {".yaml", ".tpl", ".txt", ".service", ""}
)


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


def documents(path: Path) -> list[Any]:
    return [one for one in YAML(typ="safe").load_all(path.read_text()) if one]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_setting_that_is_named_exists(path: Path) -> None:
    assert set(NAME.findall(path.read_text())) - {"SHARDKV_"} <= KNOWN


def test_the_names_that_are_no_settings_are_the_programs() -> None:
    told = CliRunner().invoke(auto, ["--help"]).output

    for name in OF_THE_PROGRAM - {"SHARDKV_ENDPOINTS"}:
        assert name in told


def test_the_image_runs_commands_that_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    words = re.findall(r"^(?:CMD|ENTRYPOINT|HEALTHCHECK .*CMD) (\[.*\])$", text, re.MULTILINE)

    assert words == ['["shardkv", "probe", "ready"]', '["shardkv"]', '["auto"]']
    assert {"probe", "auto"} <= set(COMMANDS)
    assert "USER 65532:65532" in text and text.count("\nFROM ") + 1 >= 2


@pytest.mark.parametrize("nodes", [3, 6])
def test_a_compose_file_starts_a_cluster_that_can_be_founded(nodes: int) -> None:
    services = yaml(DEPLOY / "compose" / f"compose.{nodes}.yaml")["services"]

    assert len(services) == nodes
    seeds = {service["environment"]["SHARDKV_SEEDS"] for service in services.values()}
    assert seeds == {",".join(f"{name}:7400" for name in services)}
    for name, service in services.items():
        settings = load(service["environment"])
        assert (settings.node, settings.client) == (name, f"{name}:7400")
        assert settings.peer == f"{name}:7401" and settings.http == f"{name}:7402"
        assert service["hostname"] == name
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["volumes"] == [f"{name}:/var/lib/shardkv"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def load(environment: dict[str, str]) -> config.NodeConfig:
    """As `shardkv auto` in the image has it."""
    image = {"SHARDKV_LISTEN_HOST": "0.0.0.0", "SHARDKV_LOG_TO": "stderr"}
    given = {**image, **environment}
    return config.load(flags=completed({}, given), environment=given).config


def test_the_manifests_start_pods_that_find_each_other() -> None:
    found = {one["kind"]: one for one in documents(DEPLOY / "kubernetes" / "shardkv.yaml")}
    pods = found["StatefulSet"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    headless = next(
        one["metadata"]["name"]
        for one in documents(DEPLOY / "kubernetes" / "shardkv.yaml")
        if one["kind"] == "Service" and one["spec"].get("clusterIP") == "None"
    )
    environments = [environment_of(container, f"shardkv-{n}") for n in range(pods["replicas"])]

    settings = [load(environment) for environment in environments]

    assert [one.client for one in settings] == list(settings[0].seeds)
    assert {one.seeds for one in settings} == {settings[0].seeds}
    assert settings[0].client == f"shardkv-0.{headless}.shardkv.svc:7400"
    assert pods["serviceName"] == headless
    assert all(one.tls and one.tls_client_auth and not one.insecure_listen for one in settings)
    for name, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")):
        probe = container[f"{name}Probe"]["httpGet"]
        assert (probe["path"], probe["port"], probe["scheme"]) == (path, "http", "HTTPS")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def environment_of(container: dict[str, Any], pod: str) -> dict[str, str]:
    """As the kubelet resolves it."""
    found: dict[str, str] = {}
    for entry in container["env"]:
        value = entry.get("value", pod)
        found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
    return found


def test_the_example_of_the_settings_has_every_key_with_its_default(tmp_path: Path) -> None:
    text = (ROOT / "config.example.yaml").read_text()
    assert text == config.example()

    for key in config.TABLE:
        assert re.search(rf"^#?{key}: ", text, re.MULTILINE), key
    everything = tmp_path / "node.yaml"
    everything.write_text(re.sub(r"^#(\w+: )", r"\1", text, flags=re.MULTILINE))
    assert config.load(file=everything).config == config.NodeConfig(node="n1")
