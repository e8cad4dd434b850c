"""Sweeps on a Ray cluster that runs already: two raylets on this machine, with a token."""

import json
import secrets
import subprocess
import sys

import pytest

from rlhydra.cluster import capped
from tests.trials import environment

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture
def address(tmp_path):
    """Run a cluster of two nodes with a processor each; return where it is reached."""
    with (tmp_path / "cluster.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env={**environment(), **TOKEN},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def sweep(folder, *overrides, **variables):
    settings = ("meta=dev", "meta.progress=false", "env.max_frame=1000")
    command = [sys.executable, "-m", "rlhydra", "--multirun", "hydra/launcher=ray_cluster"]
    done = subprocess.run(
        [*command, f"hydra.sweep.dir={folder}", *settings, *overrides],
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_runs_on_a_cluster_and_leaves_it_running(address, tmp_path):
    for name in ("sweep", "another"):
        settings = ("agent.lr=1e-3,1e-4,1e-5", "meta.num_cpus=8")
        code, text = sweep(tmp_path / name, *settings, RAY_ADDRESS=address, **TOKEN)
        assert code == 0, text
        trials = [
            json.loads(path.read_text()) for path in tmp_path.glob(f"{name}/[012]/trial.json")
        ]
        assert [trial["status"] for trial in trials] == ["completed"] * 3


def test_a_cluster_that_is_not_there_is_one_error(tmp_path):
    code, text = sweep(tmp_path / "sweep", "seed=1,2", RAY_ADDRESS="127.0.0.1:9")
    assert code == 1
    assert "Ray could not be reached" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((4, 0), (4, 0)),
        ((99, 0), (16, 0)),
        ((4, 0.125), (2, 0.125)),  # the node with more processors has no GPU
        ((8, 1), (2, 1)),
        ((1, 1.5), (1, 2)),
        ((1, 9), (1, 2)),
    ],
)
def test_a_trial_never_asks_for_more_than_one_node_has(asked, expected):
    nodes = [{"CPU": 16.0}, {"CPU": 2.0, "GPU": 2.0}]
    assert tuple(capped(*asked, nodes).values()) == expected
    cpu, gpu = asked
    assert capped(cpu, gpu, [{"CPU": 2.0}]) == {"num_cpus": min(cpu, 2), "num_gpus": 0}
