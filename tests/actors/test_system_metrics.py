"""What a trainer uses of its machine: of its processes, its container's bounds, its GPU, and its time; sampled beside it."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.actors.harness import Keep, Stage

from surefoot.events import Command, CommandKind
from surefoot.spec import JobState
from surefoot.system import SystemSample
from surefoot_actors.supervisor.system_metrics import SystemMetrics
from surefoot_actors.system_metrics import counters
from surefoot_actors.system_metrics.counters import Counts
from surefoot_actors.system_metrics.gpu import find_gpu
from surefoot_actors.system_metrics.machine import Machine, Memory
from surefoot_actors.system_metrics.processes import used_by
from surefoot_actors.system_metrics.sampler import Sampler
from surefoot_actors.uplink.memory import MemoryUplink

GIB = 2**30
MEMINFO = "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n"


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def machine(tmp_path: Path, files: Mapping[str, str], cgroup: str = "0::/pod/container\n") -> Machine:
    write(tmp_path, {"proc/meminfo": MEMINFO, f"proc/{os.getpid()}/cgroup": cgroup, **files})
    return Machine(os.getpid(), proc=tmp_path / "proc", cgroups=tmp_path / "cgroup")


# ---- a container's bounds


def test_a_container_s_memory_counts_and_not_what_the_kernel_can_give_back(tmp_path: Path) -> None:
    """Kubernetes, cgroup 2: 87% of 4 GiB is what it says."""
    used = int(3.48 * GIB)
    files = {
        "cgroup/cgroup.controllers": "cpu memory",
        "cgroup/pod/container/memory.max": f"{4 * GIB}\n",
        "cgroup/pod/container/memory.current": f"{used + GIB}\n",
        "cgroup/pod/container/memory.stat": f"anon 1\ninactive_file {GIB}\n",
        "cgroup/pod/container/cpu.max": "150000 100000\n",
        "cgroup/pod/memory.max": "max\n",
        "cgroup/pod/memory.current": f"{5 * GIB}\n",
    }
    found = machine(tmp_path, files)
    assert found.memory() == Memory(used, 4 * GIB)
    assert round(found.memory().used / found.memory().limit, 2) == 0.87  # type: ignore[union-attr]
    assert found.cpus() == min(1.5, len(os.sched_getaffinity(0)))


def test_the_tightest_bound_above_it_counts(tmp_path: Path) -> None:
    files = {
        "cgroup/cgroup.controllers": "",
        "cgroup/pod/container/memory.max": f"{8 * GIB}",
        "cgroup/pod/container/memory.current": f"{GIB}",
        "cgroup/pod/memory.max": f"{2 * GIB}",
        "cgroup/pod/memory.current": f"{int(1.5 * GIB)}",
    }
    assert machine(tmp_path, files).memory() == Memory(int(1.5 * GIB), 2 * GIB)


def test_where_only_the_root_is_to_be_seen(tmp_path: Path) -> None:
    """A container with a namespace of its own: the host's path is told, and is not there."""
    files = {
        "cgroup/cgroup.controllers": "",
        "cgroup/memory.max": f"{GIB}",
        "cgroup/memory.current": "5",
        "cgroup/cpu.max": "max 100000",
    }
    assert machine(tmp_path, files, "0::/../../kubepods/burstable/x\n").memory() == Memory(5, GIB)


def test_version_1(tmp_path: Path) -> None:
    files = {
        "cgroup/memory/docker/x/memory.limit_in_bytes": f"{GIB}",
        "cgroup/memory/docker/x/memory.usage_in_bytes": "700",
        "cgroup/memory/docker/x/memory.stat": "total_inactive_file 200\n",
        "cgroup/cpu/docker/x/cpu.cfs_quota_us": "50000",
        "cgroup/cpu/docker/x/cpu.cfs_period_us": "100000",
    }
    found = machine(tmp_path, files, "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/\n")
    assert (found.memory(), found.cpus()) == (Memory(500, GIB), 0.5)


def test_without_a_bound_the_machine_counts(tmp_path: Path) -> None:
    """Version 1 says a number beyond all memory where there is no bound; version 2 has no file at the root."""
    unbounded = {"cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}", "cgroup/memory/memory.usage_in_bytes": "7",
                 "cgroup/cpu/cpu.cfs_quota_us": "-1", "cgroup/cpu/cpu.cfs_period_us": "100000"}  # fmt: skip
    assert machine(tmp_path / "1", unbounded, "4:memory:/\n").memory() == Memory(8 * GIB, 16 * GIB)
    found = machine(tmp_path / "2", {"cgroup/cgroup.controllers": ""})
    assert found.memory() == Memory(8 * GIB, 16 * GIB)
    assert found.cpus() == len(os.sched_getaffinity(0))


# ---- processes


def test_children_are_counted_and_strangers_are_not(tmp_path: Path) -> None:
    def stat(parent: int, ticks: int) -> str:
        return f"1 (a) b) S {parent} 1 1 0 -1 0 0 0 0 0 {ticks} {ticks} 0 0 20 0 1 0 1 1 1\n"

    net = "Inter-|\n face |\n    lo: 9 1 0 0 0 0 0 0 9 1\n  eth0: 100 1 0 0 0 0 0 0 40 1\n  eth1:5 1 0 0 0 0 0 0 2 1\n"
    write(tmp_path, {
        "10/stat": stat(1, 100), "11/stat": stat(10, 50), "12/stat": stat(11, 25), "13/stat": stat(1, 999), "self/stat": "",
        "10/statm": "900 300 200 0 0 0 0", "11/statm": "900 300 200 0 0 0 0", "12/statm": "900 300 250 0 0 0 0", "10/net/dev": net,
    })  # fmt: skip
    used, page = used_by(10, proc=tmp_path), os.sysconf("SC_PAGE_SIZE")
    assert used.cpu_s == 2 * (100 + 50 + 25) / os.sysconf("SC_CLK_TCK")
    assert used.memory_bytes == (300 + 100 + 50) * page
    assert (used.received_bytes, used.sent_bytes) == (105, 42)
    with pytest.raises(ProcessLookupError):
        used_by(99, proc=tmp_path)


def test_a_process_may_be_called_by_half_a_character(tmp_path: Path) -> None:
    """Linux cuts a name off after 15 bytes: one such process on a machine would end the samples of all its trainers."""
    write(
        tmp_path, {"10/stat": f"10 (a) S 1 {'0 ' * 40}", "10/statm": "9 3 2 0 0 0 0", "10/net/dev": "\n\n", "11/x": ""}
    )
    (tmp_path / "11" / "stat").write_bytes("11 (verschlüsselüüng".encode()[:-3] + b") S 10 " + b"0 " * 40)
    assert used_by(10, proc=tmp_path).memory_bytes > 0


def test_a_real_process_that_computes() -> None:
    code = """if True:
        import sys
        data = bytearray(50_000_000)
        print("ready", flush=True)
        sum(range(10**7))
        print("done", flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        sampler = Sampler(child.pid, Counts)
        child.stdout.readline()
        told = sampler.sample()
        child.kill()
    assert told["cpus"] > 0
    assert told["memory_bytes"] > 50_000_000
    assert told["machine_memory_bytes"] <= told["machine_memory_limit_bytes"]
    assert told["cpus_limit"] > 0
    assert SystemSample(trainer="t0", **told).gpu_percent is None, "without a GPU there is nothing of one, and no zeros"


# ---- a GPU: these libraries are simulated. The real one was not there when this was written.


class SimulatedNvml:
    """NVML as ctypes would load it: `answers` by function; what is missing answers "not supported"."""

    NOT_SUPPORTED = 3

    def __init__(self, **answers: Any) -> None:
        self.answers, self.asked = answers, list[tuple[str, Any]]()

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:
        return self._found(index.value, handle)

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        return self._found(uuid, handle)

    def _found(self, device: object, handle: Any) -> int:
        self.asked.append(("handle", device))
        handle._obj.value = 42
        return 0

    def __getattr__(self, name: str) -> Any:
        def ask(handle: ctypes.c_void_p, answer: Any) -> int:
            assert handle.value == 42
            if name not in self.answers:
                return self.NOT_SUPPORTED
            for field, value in self.answers[name].items():
                setattr(answer._obj, field, value)
            return 0

        return ask


def test_a_simulated_gpu_is_told() -> None:
    nvml = SimulatedNvml(
        nvmlDeviceGetUtilizationRates={"gpu": 95, "memory": 40},
        nvmlDeviceGetMemoryInfo={"total": 80 * GIB, "free": 40 * GIB, "used": 40 * GIB},
        nvmlDeviceGetPowerUsage={"value": 312_500},
    )
    gpu = find_gpu({"CUDA_VISIBLE_DEVICES": "3,4"}, nvml)
    assert gpu is not None
    assert gpu.sample() == {
        "gpu_percent": 95, "gpu_memory_bytes": 40 * GIB, "gpu_memory_limit_bytes": 80 * GIB, "gpu_watts": 312.5,
    }  # fmt: skip
    assert nvml.asked == [("handle", 3)]


def test_a_simulated_gpu_that_does_not_tell_all() -> None:
    nvml = SimulatedNvml(nvmlDeviceGetMemoryInfo={"total": GIB, "free": 0, "used": GIB})
    gpu = find_gpu({"CUDA_VISIBLE_DEVICES": "MIG-1234"}, nvml)
    assert gpu is not None
    assert gpu.sample() == {"gpu_memory_bytes": GIB, "gpu_memory_limit_bytes": GIB}
    assert nvml.asked == [("handle", b"MIG-1234")]


def test_a_process_that_sees_no_gpu_has_none() -> None:
    assert find_gpu({"CUDA_VISIBLE_DEVICES": ""}, SimulatedNvml()) is None
    if not os.path.exists("/dev/nvidiactl"):
        assert find_gpu({}) is None, "without the driver's library there is none"


# ---- what a trainer counts


def test_what_is_counted_is_read_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.memfd_create("counts")
    os.ftruncate(fd, 16 + counters.SIZE)
    with mmap.mmap(fd, 16 + counters.SIZE) as memory:
        counters.attach(memory, 16)
        assert counters.read(fd, 16) == Counts()
        counters.stepped(10.5)
        counters.exchanged(0.25, 0.5)
        counters.stepped(10.5)
        assert counters.read(fd, 16) == Counts(2, 21.0, 0.25, 0.5)
        monkeypatch.setattr(counters, "_memory", None)
    os.close(fd)


def test_means_are_over_the_steps_of_the_window() -> None:
    now, counts = [0.0], [Counts(10, 640.0, 1.0, 2.0)]
    sampler = Sampler(os.getpid(), lambda: counts[0], clock=lambda: now[0])
    now[0], counts[0] = 10.0, Counts(30, 1920.0, 2.0, 6.0)
    told = sampler.sample()
    assert (told["samples_per_s"], told["wait_s"], told["exchange_s"], told["window_s"]) == (128.0, 0.05, 0.2, 10.0)
    now[0] = 20.0
    assert not {"samples_per_s", "wait_s", "exchange_s"} & set(sampler.sample()), "no step, no mean"


# ---- on its way


def test_what_is_no_sample_goes_nowhere() -> None:
    uplink = MemoryUplink()
    intake = SystemMetrics(uplink, {"t0"})
    for told in ("", "[]", "{", '{"cpus":-1}', '{"cpus":"many"}', '{"cpus":1e400}'):
        intake.take("t0", told)
    intake.take("lost", '{"cpus":1}')
    assert uplink.samples == []
    intake.take("t0", '{"cpus":1,"newer":2,"trainer":"somebody"}')
    assert uplink.samples == [SystemSample(trainer="t0", cpus=1.0)]


def test_trainers_that_train_tell_samples(stage: Stage) -> None:
    """With real processes: until both have told of steps, and then it is cancelled."""
    told: dict[str, SystemSample] = {}

    async def drive(uplink: MemoryUplink, _: Keep) -> None:
        while len(told) < 2:
            await uplink.changed()
            told.update({sample.trainer: sample for sample in uplink.samples if sample.wait_s is not None})
        uplink.command(Command(n=1, kind=CommandKind.CANCEL))
        await asyncio.Event().wait()

    story = stage.run(trainers=2, sub_tasks=4, config={"steps": 1_000_000}, drive=drive)
    assert story.outcome.state is JobState.CANCELLED
    for sample in told.values():
        assert sample.cpus is not None
        assert sample.cpus > 0.0
        assert sample.memory_bytes is not None
        assert sample.memory_bytes > 50e6, "torch alone has more"
        assert sample.samples_per_s is not None
        assert sample.samples_per_s > 0
        assert sample.exchange_s is not None
        assert sample.exchange_s > 0
        assert sample.gpu_percent is None
