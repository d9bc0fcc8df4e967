"""How much memory the machine can give, so that what cannot fit is refused before it is asked for.

A system that lends more than it has gives any array at once, and ends the process when the array is written to: asking
for it proves nothing. Knows sizes in bytes; must not know what they are for.
"""

import os
from pathlib import Path

SMALL = 1 << 28  # bytes that are not worth a look

MEMINFO = "/proc/meminfo"  # Linux's table
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # a container's, old and new


def refuse_beyond(needed: int, what: str, got: str) -> None:
    """Nothing where `needed` bytes can be had.

    Args:
        needed: the bytes.
        what: they are for.
        got: what it is that needs them.

    Raises:
        MemoryError: they cannot be had.
    """
    there = available() if needed > SMALL else None
    if there is not None and needed > there:
        raise MemoryError(
            f"Expected {what} to fit into the {there} bytes of memory that can be had "
            f"but got {got}, for which they take {needed} bytes"
        )


def available() -> int | None:
    """The bytes that can be had; None where the system does not say, as on Windows, which lends no more than it has."""
    table = dict(line.split(":", 1) for line in _read(MEMINFO).splitlines() if ":" in line)
    try:
        bounds = [1024 * sum(int(table[row].split()[0]) for row in ("MemAvailable", "SwapFree"))]
    except (KeyError, ValueError, IndexError):
        try:
            bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
        except (AttributeError, ValueError, OSError):
            bounds = []
    limits = (_read(path).strip() for path in LIMITS)
    return min([*bounds, *(int(limit) for limit in limits if limit.isdigit())], default=None)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeError):
        return ""
