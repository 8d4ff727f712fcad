"""What starts the project elsewhere fits the schemas it is read by; its commands exist."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from sweeps.cli import parse

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
PINNED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
)


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return loaded


def arguments_of(command: str) -> list[str]:
    """What run_sweep.py is given, with paths of the image as they are here."""
    words = shlex.split(command.replace("/opt/vit-slim-sweeps", str(ROOT)))
    return words[[word.endswith("run_sweep.py") for word in words].index(True) + 1 :]


def test_the_cluster_file_fits_rays_schema() -> None:
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(load("aws.yaml"), json.loads(schema.read_text()))


def test_the_cluster_file_has_a_head_and_spot_workers() -> None:
    nodes, head = load("aws.yaml")["available_node_types"], load("aws.yaml")["head_node_type"]
    (workers,) = set(nodes) - {head}
    assert nodes[workers]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in nodes[head]["node_config"]
    assert nodes[workers]["min_workers"] == 1  # a run must see what a worker has


def test_the_job_has_a_head_that_trains_nothing_and_workers_of_one_image() -> None:
    job = load("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == PINNED["ray"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert workers["minReplicas"] >= 1
    pods = [group["template"]["spec"] for group in (head, workers)]
    images = {pod["containers"][0]["image"] for pod in pods}
    assert len(images) == 1
    for pod in pods:
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_commands_give_options_that_exist() -> None:
    job = parse(arguments_of(load("kuberay.yaml")["spec"]["entrypoint"]))
    assert (job.config.name, job.config.cluster) == ("deit-small", "auto")
    comments = re.findall(r"^# ?(.*)", (DEPLOY / "aws.yaml").read_text(), re.MULTILINE)
    (command,) = re.findall(r"ray exec \S+ '([^']*)'", "\n".join(comments))
    command = command.replace("\\\n", "")
    assert "\n" not in command  # where a shell would end it
    assert parse(arguments_of(command)).config.data == "/data/imagenet"


def test_the_image_copies_what_is_there_and_holds_no_credentials() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY")]
    assert all((ROOT / name).exists() for names in copied for name in names)
    instructions = [line for line in text.splitlines() if not line.startswith("#")]
    assert not re.search("AWS_|MLFLOW_|TOKEN|PASSWORD", "\n".join(instructions))


@pytest.mark.parametrize("tool", [("bash", "-n"), (str(BIN / "shellcheck"),)])
def test_the_slurm_script_is_sound(tool: tuple[str, ...]) -> None:
    done = subprocess.run([*tool, str(DEPLOY / "slurm.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
