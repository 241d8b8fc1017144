"""Nodes for Ray's autoscaler, on this machine: what a cloud, or KubeRay, is to it. Imported by Ray's monitor process, by its name.

A group with `never` in its `node_config` is one whose nodes are asked for and do not come, as spot nodes that nobody has.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from itertools import count as counting
from typing import Any

import psutil
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

__all__ = ["HEAD_ID", "HEAD_TYPE", "LocalNodes", "config"]

HEAD_TYPE = "ray.head.default"
HEAD_ID = "f" * 51 + "00000"
_LEGACY = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


def config(port: int, groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `ray start --autoscaling-config` takes. `groups`: {"spot": {"resources": {"CPU": 2}, "max_workers": 2, "node_config": {}}}."""
    module = "tests.node_provider.LocalNodes"
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    types = {
        name: {"min_workers": 0, "node_config": {}, "labels": {"ray.io/node-group": name}, **group}
        for name, group in groups.items()
    }
    return {
        "cluster_name": "test",
        "max_workers": 8,
        "idle_timeout_minutes": 60,
        "upscaling_speed": 10,
        "provider": {"type": "external", "module": module, "port": port},
        "head_node_type": HEAD_TYPE,
        "available_node_types": {HEAD_TYPE: head, **types},
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{f"{name}_commands": [] for name in _LEGACY},
        "file_mounts_sync_continuously": False,
    }


class LocalNodes(NodeProvider):
    """A node is a `ray start` of its own, with a short folder of its own."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._tags = {HEAD_ID: self._node_tags(HEAD_ID, NODE_KIND_HEAD, HEAD_TYPE)}
        self._numbers = counting(1)  # groups are asked for on threads of their own
        # those that have come
        self._processes: dict[str, tuple[subprocess.Popen[bytes], str]] = {}

    @staticmethod
    def _node_tags(node: str, kind: str, group: str) -> dict[str, str]:
        return {
            TAG_RAY_NODE_KIND: kind,
            TAG_RAY_USER_NODE_TYPE: group,
            TAG_RAY_NODE_NAME: node,
            TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
        }

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return [node for node, tags in list(self._tags.items()) if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id == HEAD_ID or node_id in self._processes

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self._tags[node_id]

    def external_ip(self, node_id: str) -> str:
        return node_id

    def internal_ip(self, node_id: str) -> str:
        return node_id

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: dict[str, float], labels: Any
    ) -> None:
        for _ in range(count):
            node = HEAD_ID[:-5] + str(next(self._numbers)).zfill(5)
            group = tags[TAG_RAY_USER_NODE_TYPE]
            if not node_config.get("never"):
                self._processes[node] = self._start(node, group, resources, labels)
            self._tags[node] = {**self._node_tags(node, NODE_KIND_WORKER, group), **tags}

    def _start(self, node: str, group: str, resources: dict[str, float], labels: Any) -> Any:
        from ray._private.services import get_node_ip_address

        folder = tempfile.mkdtemp(prefix="sf-", dir="/tmp")
        options = {
            "address": f"{get_node_ip_address()}:{self.provider_config['port']}",
            "temp-dir": folder,
            "num-cpus": int(resources.get("CPU", 0)),
            "object-store-memory": 80_000_000,
            "dashboard-agent-listen-port": 0,
            "min-worker-port": 0,
            "max-worker-port": 0,
        }
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_OVERRIDE")},
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node,
            "RAY_CLOUD_INSTANCE_ID": node,
            "RAY_NODE_TYPE_NAME": group,
            "RAY_OVERRIDE_LABELS": json.dumps(labels),
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words]
        with open(f"{folder}/start.log", "wb") as out:
            return subprocess.Popen(command, env=env, stdout=out, stderr=out), folder

    def terminate_node(self, node_id: str) -> None:
        del self._tags[node_id]
        process, folder = self._processes.pop(node_id, (None, ""))
        if process is not None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            for one in family:
                if one.is_running():
                    one.kill()
            shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config
