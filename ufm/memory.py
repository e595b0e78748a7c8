"""Memory that this process may still take, and bytes in words."""

import os
from contextlib import suppress


def free_memory() -> int | None:
    """Bytes that this process may still take, None where the system does not tell."""
    from pathlib import Path  # not needed by a command that asks for little

    limits = list[int]()
    with suppress(OSError, ValueError, IndexError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with suppress(OSError, ValueError, AttributeError):
        if not limits:
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ImportError, OSError):
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits += [soft] if soft != resource.RLIM_INFINITY else []
    return min(limits, default=None)


def in_words(size: int) -> str:
    """Bytes in the unit that suits them."""
    power = min(max(len(str(size)) - 1, 0) // 3, 6)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"
