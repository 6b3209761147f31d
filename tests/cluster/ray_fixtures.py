"""A cluster of raylets on loopback, for the tests of one module; nothing of it outlives them."""

from __future__ import annotations

import importlib.util
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from etui.cluster.connect import ClusterAddress, build_environment

ROOT = Path(__file__).parent.parent.parent
TOKEN = "ab" * 32
_STORE_BYTES = 80 << 20


def require_ray():
    """Skip a test where Ray is not installed; it is not imported, since it reads variables then."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'etui[cluster]'")


def loopback_environment(home):
    """Return the environment of raylets and drivers: loopback only, one token, no reports."""
    near = build_environment(ClusterAddress("127.0.0.1", 1), {}, home)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**near, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": path}


@contextmanager
def start_cluster(home, *behaviours):
    """Start a raylet of one CPU for each behaviour of fake nodes; yield Ray's test cluster."""
    require_ray()
    before = dict(os.environ)
    os.environ.update(loopback_environment(home))
    known = {child.pid for child in psutil.Process().children(recursive=True)}
    cluster = None
    try:
        from ray.cluster_utils import Cluster

        options = {
            "num_cpus": 1,
            "num_gpus": 0,
            "node_ip_address": "127.0.0.1",
            "object_store_memory": _STORE_BYTES,
        }
        for behaviour in behaviours:
            os.environ["ETUI_FAKE_NODE"] = json.dumps(behaviour)
            if cluster is None:
                head = {**options, "include_dashboard": False}
                cluster = Cluster(initialize_head=True, head_node_args=head)
            else:
                cluster.add_node(**options)
        yield cluster
    finally:
        with suppress(Exception):
            import ray

            ray.shutdown()
        with suppress(Exception):
            if cluster is not None:
                cluster.shutdown()
        for child in psutil.Process().children(recursive=True):
            if child.pid not in known:
                with suppress(psutil.Error):
                    child.kill()
        os.environ.clear()
        os.environ.update(before)


def find_workers():
    """Find the processes of nodes that this test started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.cmdline() and child.cmdline()[0].startswith("ray::NodeActor"):
                found.append(child)
    return found


def find_ray_processes():
    """Find every process of Ray that this process started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            words = " ".join(child.cmdline())
            if "ray" in words and ("raylet" in words or "gcs_server" in words or "ray::" in words):
                found.append(child)
    return found
