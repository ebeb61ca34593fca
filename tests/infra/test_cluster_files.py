"""The files for a cluster say what the code says: versions, places, commands and rights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llavaflow.infra.machine import parse
from llavaflow.pipelines._catalogue import find_recipe
from llavaflow.pipelines._cli.run import command as run_command

INFRA = Path(__file__).resolve().parents[2] / "infra"
RIGHTS = {
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "download_file": "s3:GetObject",
    "put_object": "s3:PutObject",
    "upload_file": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "get_paginator": "s3:ListBucket",
}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    claim, job = yaml.safe_load_all((INFRA / "kubernetes/llava15.yaml").read_text())
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    return dict(job["spec"])


def _pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["rayClusterSpec"]
    return [part["template"]["spec"] for part in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_the_cluster_has_the_pinned_ray(job: dict[str, Any]) -> None:
    pinned = re.search(r"^ray==(.+)$", (INFRA / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None and job["rayClusterSpec"]["rayVersion"] == pinned[1]


def test_the_run_asks_for_what_the_cluster_has(job: dict[str, Any]) -> None:
    program, name, recipe, *flags = job["entrypoint"].split()
    assert (program, name) == ("pipeline", "run") and find_recipe(recipe).name == recipe
    assert set(flags[::2]) <= {option for parameter in run_command.params for option in parameter.opts}
    machine, (workers,) = parse(flags[flags.index("--machine") + 1]), job["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert workers["replicas"] == workers["minReplicas"] == machine.nodes
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) == machine.gpus
    assert job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"


def test_every_node_sees_the_same_files(job: dict[str, Any]) -> None:
    for pod in _pods(job):
        (container,) = pod["containers"]
        shared = [volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
        (place,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in shared]
        environment = {row["name"]: row["value"] for row in container["env"]}
        assert all(environment[name].startswith(f"{place}/") for name in ("LLAVAFLOW_CACHE", "HF_HOME"))


def test_the_image_is_made_by_the_installer() -> None:
    text = (INFRA / "docker/Dockerfile").read_text()
    place = re.search(r"LLAVAFLOW_VENV=(\S+)", text)
    assert place is not None and f"PATH={place[1]}/bin" in text and "RUN bash infra/install.sh" in text


def test_a_run_has_the_rights_that_the_store_uses_and_no_others() -> None:
    calls = set(re.findall(r"self\._client\.(\w+)\(", (INFRA / "store_s3.py").read_text()))
    granted = set(re.findall(r'"(s3:\w+)"', (INFRA / "terraform/store.tf").read_text()))
    # boto3 takes back the parts of an upload that fails
    assert {RIGHTS[call] for call in calls} | {"s3:AbortMultipartUpload"} == granted
