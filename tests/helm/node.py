"""A stand-in for a Kubernetes node: runs a rendered pod's containers as local processes, as kubelet would.

Each pod has a network, a process table and a root file system of its own, which is read-only.
Its volumes are folders, its user is not root.
What it cannot stand in for: images (the programs are those of this environment), limits, probes and NetworkPolicies.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ..kernel import do, forbidden
from .chart import ROOT

UID = 10001
# the network of this process: of the 256 in 10.214.0.0/16
_NET = f"10.214.{os.getpid() % 256}"
STOP_S = 30.0


@dataclass(slots=True, kw_only=True)
class Cluster:
    """The bridge between pods, the names that they know each other by, and what Secrets, ConfigMaps and claims hold."""

    folder: Path
    bridge: str
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    configs: dict[str, Mapping[str, str]] = field(default_factory=dict)
    # addresses by Service
    names: dict[str, str] = field(default_factory=dict)
    _count: int = 1

    @property
    def gateway(self) -> str:
        """The address of this machine among the pods."""
        return f"{_NET}.1"

    def address(self) -> str:
        self._count += 1
        return f"{_NET}.{self._count}"

    def env(self, container: Mapping[str, Any]) -> dict[str, str]:
        """The container's environment and nothing else, but for the image's PATH."""
        # gRPC's own resolver knows no /etc/hosts, which stands in for the cluster's DNS
        found = {"GRPC_DNS_RESOLVER": "native"}
        found |= {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin"}
        for source in container.get("envFrom", []):
            kind = self.configs if "configMapRef" in source else self.secrets
            [reference] = source.values()
            found |= kind[reference["name"]]
        for one in container.get("env", []):
            if reference := one.get("valueFrom", {}).get("secretKeyRef"):
                found[one["name"]] = self.secrets[reference["name"]][reference["key"]]
            else:
                found[one["name"]] = str(one["value"])
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A container that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    def first(self) -> psutil.Process:
        """The first process in it, which gets the signals."""
        return psutil.Process(self.process.pid).children()[0]

    def terminate(self) -> None:
        """What kubelet does first."""
        self.first().send_signal(signal.SIGTERM)

    def kill(self) -> None:
        with suppress(psutil.NoSuchProcess, IndexError):
            self.first().kill()  # and with the first process all others of its table
        self.process.kill()
        self.process.wait(STOP_S)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    bridge = f"sfb{os.getpid()}"
    try:
        do("ip", "link", "add", bridge, "type", "bridge")
    except OSError as error:
        forbidden(f"no network bridge can be made here: {error}")
    try:
        do("ip", "address", "add", f"{_NET}.1/24", "dev", bridge)
        do("ip", "link", "set", bridge, "up")
        yield Cluster(folder=folder, bridge=bridge)
    finally:
        do("ip", "link", "delete", bridge)


@contextmanager
def network(cluster: Cluster, address: str) -> Iterator[str]:
    """A pod's network: the name of its namespace."""
    name = f"sfp{os.getpid()}-{address.rpartition('.')[2]}"
    outer = name.replace("sfp", "v")[-15:]
    do("ip", "netns", "add", name)
    try:
        do("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        do("ip", "link", "set", outer, "master", cluster.bridge, "up")
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            # Ray takes the address that it would go out by
            ["route", "add", "default", "via", f"{_NET}.1"],
        ):
            do("ip", "-n", name, *words)
        try:
            yield name
        finally:
            # sockets that say goodbye to nobody would keep the wire, and the namespace, for minutes
            do("ip", "link", "delete", outer)
    finally:
        do("ip", "netns", "delete", name)


@contextmanager
def container(
    cluster: Cluster,
    pod: Mapping[str, Any],
    name: str,
    address: str,
    namespace: str,
    *,
    more_env: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Run one container of the pod for the duration, in the pod's network, which it may share with the one before it."""
    [found] = [one for one in [*pod.get("initContainers", []), *pod["containers"]] if one["name"] == name]
    env = {"HOSTNAME": f"pod-{address.rpartition('.')[2]}", **(more_env or {}), **cluster.env(found)}
    log = cluster.folder / f"{name}-{address.rpartition('.')[2]}.log"
    command = [*found["command"], *found.get("args", [])]
    with ExitStack() as stack:
        setup = _setup(cluster, pod, found)
        (script := log.with_suffix(".sh")).write_text(f"{setup}\nexec {_as_user()} {shlex.join(command)}\n")
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *_ISOLATED, "bash", "-e", str(script)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        running = Running(process=process, log=log)
        stack.callback(running.kill)
        yield running


_ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def _as_user() -> str:
    return f"setpriv --reuid={UID} --regid={UID} --clear-groups --bounding-set=-all --no-new-privs --"


def _setup(cluster: Cluster, pod: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Shell that makes the pod's file system: what the environment needs stays visible, volumes are mounted, the rest is read-only."""
    lines = ["mount --make-rprivate /", "mount -t tmpfs tmpfs /mnt"]
    needed = [ROOT, Path(sys.base_prefix), *_site_packages()]
    hidden = {"/tmp", *(str(closed) for path in needed if (closed := _closed(path)))}
    inside = [path for path in needed if any(path.is_relative_to(place) for place in hidden)]
    lines += [f"mkdir /mnt/{n}; mount --bind {shlex.quote(str(path))} /mnt/{n}" for n, path in enumerate(inside)]
    files = _files(cluster)
    lines += [f"mkdir -p /mnt/files; cp -a {shlex.quote(str(files))}/. /mnt/files"]
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    claims = cluster.folder / "claims"
    mounts = sorted(found.get("volumeMounts", []), key=lambda mount: str(mount["mountPath"]))
    for mount in mounts:
        if "emptyDir" not in volumes.get(mount["name"], {}):
            folder = _folder(claims, cluster, mount["name"], volumes.get(mount["name"], {}))
            lines.append(
                f"mkdir -p /mnt/v-{mount['name']}; mount --bind {shlex.quote(str(folder))} /mnt/v-{mount['name']}"
            )
    lines += [f"mount -t tmpfs -o mode=1777 tmpfs {place}" for place in sorted(hidden)]
    lines += [
        f"mkdir -p {shlex.quote(str(path))}; mount --bind /mnt/{n} {shlex.quote(str(path))}"
        for n, path in enumerate(inside)
    ]
    lines += [f"mount --bind /mnt/files/{name} /etc/{name}" for name in ("hosts", "passwd", "resolv.conf")]
    for mount in mounts:
        path, volume = mount["mountPath"], volumes.get(mount["name"], {})
        # what an image has no folder for, kubelet makes
        lines.append(f"mkdir -p {path}")
        if "emptyDir" in volume:
            size = volume["emptyDir"]["sizeLimit"].replace("i", "")
            lines.append(f"[ {path} = /tmp ] || mount -t tmpfs -o mode=1777,size={size} tmpfs {path}")
        else:
            lines.append(f"mount --bind /mnt/v-{mount['name']} {path}")
    lines += ["umount --lazy --recursive /mnt", "mount -o remount,bind,ro /"]
    return "\n".join(lines)


def _site_packages() -> list[Path]:
    """Where this environment's packages are, those of another one that it looks into included."""
    here = Path(sysconfig.get_path("purelib"))
    told = [Path(line) for pth in here.glob("*.pth") for line in pth.read_text().splitlines() if line.startswith("/")]
    return [path for path in told if path.is_dir() and not path.is_relative_to(ROOT)]


def _closed(path: Path) -> Path | None:
    """The folder on the way to it that only root may enter."""
    return next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001), None)


def _files(cluster: Cluster) -> Path:
    """/etc/hosts in place of the cluster's DNS, and the image's user."""
    folder = cluster.folder / "etc"
    folder.mkdir(exist_ok=True)
    names = "".join(f"{address} {name}\n" for name, address in cluster.names.items())
    _write(folder / "hosts", f"127.0.0.1 localhost\n{names}")
    # nobody is asked by the network: there is no cluster's DNS here, and its silence would be waited for
    _write(folder / "resolv.conf", "nameserver 127.0.0.1\n")
    user = f"surefoot:x:{UID}:{UID}::/tmp:/usr/sbin/nologin\n"
    _write(folder / "passwd", Path("/etc/passwd").read_text() + user)
    return folder


def _write(path: Path, text: str) -> None:
    """At once: a container that was started just before may still be copying it."""
    whole = path.parent.with_name(f"{path.name}.new")
    whole.write_text(text)
    whole.replace(path)


def _folder(claims: Path, cluster: Cluster, name: str, volume: Mapping[str, Any]) -> Path:
    """A folder for a volume that stays: a claim's, or a Secret's files."""
    folder = claims / name
    folder.mkdir(parents=True, exist_ok=True)
    if secret := volume.get("secret"):
        for item in secret["items"]:
            (folder / item["path"]).write_text(cluster.secrets[secret["secretName"]][item["key"]])
            (folder / item["path"]).chmod(0o644)
    else:
        # as fsGroup does: the root's, with the pod's group
        folder.chmod(0o2775)
        shutil.chown(folder, group=UID)
    return folder
