"""Cores, memory and accelerators that this process may use, and the identity of machines and processes."""

import contextlib
import ctypes
import os
import pathlib
import socket
import sys


def cores() -> int:
    """Number of cores that this process may use, limited by the environment variable NPROC, as in XLA."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("NPROC", "")
    return min(there, int(asked)) if asked.isdecimal() and int(asked) else there


def _limits(root: str = "/sys/fs/cgroup", groups: str = "/proc/self/cgroup") -> list[int]:
    """Bytes left within the memory limit of each control group of this process, as set for a container."""
    left = []
    with contextlib.suppress(OSError, ValueError):
        for line in pathlib.Path(groups).read_text().splitlines():
            number, kinds, group = line.split(":", 2)
            if number == "0":  # version 2 of control groups
                top, limit, used = root, "memory.max", "memory.current"
            elif "memory" in kinds.split(","):
                top, limit, used = f"{root}/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            else:
                continue
            folder = pathlib.Path(top + group)
            # In a container the group's own path may be missing; its files are then at the root.
            for place in (folder, *folder.parents):
                if not place.is_relative_to(top):
                    break
                with contextlib.suppress(OSError, ValueError, LookupError):
                    # Cached files count as used, but the system frees their memory on demand.
                    stat = dict(row.split() for row in (place / "memory.stat").read_text().splitlines())
                    cached = int(stat.get("total_inactive_file") or stat["inactive_file"])
                    left.append(int((place / limit).read_text()) - int((place / used).read_text()) + cached)
    return left


def available_memory() -> int:
    """Bytes that this process can still allocate; the machine's total memory if the system does not report this."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                machine = int(line.split()[1]) * 1024
    return max(0, min([machine, *_limits()]))


def has_accelerator() -> bool:
    """Whether the machine has a GPU or TPU that this process may use. Does not start JAX."""
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return False
    return any(pathlib.Path(path).exists() for path in ("/dev/nvidia0", "/dev/kfd", "/dev/accel0", "/dev/vfio/0"))


def keep_freed_memory() -> bool:
    """Makes malloc keep freed memory in this process, instead of returning it to the system.

    XLA allocates the buffers of every execution with malloc. glibc returns large buffers to the system immediately, and
    the page faults of new ones take a tenth or more of a training step on CPU (docs/performance.md).

    Returns:
      whether it succeeded; it requires glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h. One arena, since others hold at most 64 MiB.
    return all(mallopt(option, value) for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1), (-2, 2**28)))


def identity() -> str:
    """A text that identifies this machine, its current boot, and the namespace of process numbers (containers differ)."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(path) if os.path.islink(path) else pathlib.Path(path).read_text().strip())
    return " ".join(parts)


def started(pid: int) -> str | None:
    """The start of a process of this machine, in clock ticks since boot; None if it does not exist or this is unknown."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def has_ended(pid: int, since: str | None = None) -> bool:
    """Whether the process with this number has ended.

    Args:
      pid: number of a process of this machine.
      since: its start, from `started`, if known. A process with another start only has the same number.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's
        pass
    return since is not None and started(pid) not in (None, since)
