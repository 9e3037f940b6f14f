"""Walls around this process, for work on what strangers sent: put up once, never taken down.

Limits of memory, time and files hold on every POSIX system. On Linux the kernel is asked for more:
no new privileges, a namespace without a network, Landlock (no file can be opened), and a seccomp
filter that leaves the calls which work on what is already open and on memory. A wall that a system
does not have is left out and named with the reason; the others stand without it.

The numbers are those of the Linux headers; the filter knows x86_64 and aarch64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
from collections.abc import Mapping
from types import MappingProxyType

try:
    import resource
except ImportError:  # Windows: `confine` refuses
    resource = None  # type: ignore[assignment]

__all__ = ["ALLOWED_CALLS", "confine", "die_with", "filter_program"]

ON = "on"
MAX_OPEN_FILES = 16

ALLOWED_CALLS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "read": (0, 63),
        "write": (1, 64),
        "lseek": (8, 62),
        "close": (3, 57),
        "fstat": (5, 80),
        "newfstatat": (262, 79),  # how glibc before 2.39 spells fstat
        "mmap": (9, 222),
        "munmap": (11, 215),
        "mremap": (25, 216),
        "mprotect": (10, 226),
        "brk": (12, 214),
        "madvise": (28, 233),
        "futex": (202, 98),
        "rt_sigaction": (13, 134),
        "rt_sigprocmask": (14, 135),
        "rt_sigreturn": (15, 139),
        "sigaltstack": (131, 132),
        "sched_yield": (24, 124),
        "restart_syscall": (219, 128),
        "clock_gettime": (228, 113),
        "gettimeofday": (96, 169),
        "getrandom": (318, 278),
        "exit": (60, 93),
        "exit_group": (231, 94),
    }
)
"""All that decoding needs once everything is imported, on x86_64 and on aarch64."""

_MAPPING_CALLS = ("mmap", "mprotect")
"""Allowed unless they make memory that can be run: foreign code would have to put itself there."""

_MACHINES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"x86_64": (0xC000003E, 0, 317), "aarch64": (0xC00000B7, 1, 277)}
)
"""Audit number, column of ``ALLOWED_CALLS``, and the number of seccomp(2)."""

_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446  # the same on every machine
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000


def die_with(parent: int) -> str:
    """End this process when the thread that started it ends; ``parent`` is its process.

    Returns:
        "on", or why not.
    """
    if sys.platform != "linux":
        return _only_on_linux()
    said = _asked("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before we asked
        os._exit(1)
    return said


def confine(*, memory_bytes: int, cpu_s: int, file_bytes: int) -> dict[str, str]:
    """Put up every wall this system has; for a process with one thread that imported all it needs.

    Afterwards nothing can be opened, started or reached. Files that are open stay open.

    Args:
        memory_bytes: address space.
        cpu_s: seconds of computing, of the whole life of the process.
        file_bytes: the largest file it may write.

    Returns:
        "on", or why not, for each wall.
    """
    walls = {"resource limits": _limited(memory_bytes, cpu_s, file_bytes)}
    if sys.platform != "linux":
        others = ("no new privileges", "no network", "landlock", "seccomp")
        return walls | dict.fromkeys(others, _only_on_linux())
    walls["no new privileges"] = _asked("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    walls["no network"] = _asked("unshare", _CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC)
    walls["landlock"] = _landlocked()
    walls["seccomp"] = _filtered()
    return walls


def filter_program(machine: str) -> bytes:
    """Return the seccomp filter: what ``ALLOWED_CALLS`` does not name fails with EPERM.

    Args:
        machine: "x86_64" or "aarch64".
    """
    audit, column, _ = _MACHINES[machine]
    load, equal, has_bits, give = 0x20, 0x15, 0x45, 0x06  # classic BPF
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
    protection = 16 + 8 * 2  # third argument of mmap and mprotect, little endian
    steps = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0)]
    for name, numbers in ALLOWED_CALLS.items():
        number = numbers[column]
        if name in _MAPPING_CALLS:
            steps += [(equal, 0, 4, number), (load, 0, 0, protection)]
            steps += [(has_bits, 0, 1, 4), (give, 0, 0, refuse), (give, 0, 0, allow)]
        else:
            steps += [(equal, 0, 1, number), (give, 0, 0, allow)]
    steps.append((give, 0, 0, refuse))
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def _only_on_linux() -> str:
    return f"off: {sys.platform} has no such thing"


def _asked(function: str, *numbers: int) -> str:
    """Call a function of the C library that returns 0 when it did what was asked."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, function):
        return f"off: no {function}"
    done = getattr(library, function)(*(ctypes.c_ulong(number) for number in numbers))
    return ON if done == 0 else f"off: {os.strerror(ctypes.get_errno()).lower()}"


def _limited(memory_bytes: int, cpu_s: int, file_bytes: int) -> str:
    if resource is None:
        return f"off: {sys.platform} has no such thing"
    wanted = {
        "RLIMIT_AS": (memory_bytes, memory_bytes),
        "RLIMIT_CPU": (cpu_s, cpu_s + 1),  # SIGXCPU says why, SIGKILL cannot be held off
        "RLIMIT_FSIZE": (file_bytes, file_bytes),
        "RLIMIT_NOFILE": (MAX_OPEN_FILES, MAX_OPEN_FILES),
        "RLIMIT_NPROC": (0, 0),
        "RLIMIT_CORE": (0, 0),
    }
    missing = []
    for name, values in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), values)
        except (AttributeError, ValueError, OSError):
            missing.append(name)
    return ON if not missing else f"on, without {', '.join(missing)}"


def _landlocked() -> str:
    """Handle every right that this kernel's Landlock knows, and grant none."""
    library = ctypes.CDLL(None, use_errno=True)
    call = library.syscall
    call.restype = ctypes.c_long
    number = ctypes.c_long
    version = call(number(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), number(1))
    if version < 1:
        return f"off: {os.strerror(ctypes.get_errno()).lower()}"
    num_rights = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    words = [(1 << num_rights) - 1]  # everything that can be done with a path
    words += [0b11] if version >= 4 else []  # binding and connecting TCP
    words += [0b11] if version >= 6 else []  # abstract sockets and signals of others
    rules = struct.pack(f"<{len(words)}Q", *words)
    handle = call(
        number(_LANDLOCK_CREATE), ctypes.c_char_p(rules), ctypes.c_size_t(len(rules)), number(0)
    )
    if handle < 0:
        return f"off: {os.strerror(ctypes.get_errno()).lower()}"
    done = call(number(_LANDLOCK_RESTRICT), number(handle), number(0))
    reason = os.strerror(ctypes.get_errno()).lower()
    os.close(handle)
    return ON if done == 0 else f"off: {reason}"


class _Program(ctypes.Structure):
    _fields_ = (("num_steps", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _filtered() -> str:
    """Install the filter for every thread of this process."""
    machine = os.uname().machine
    if machine not in _MACHINES or struct.calcsize("P") != 8:
        return f"off: no filter for {machine} of {8 * struct.calcsize('P')} bits"
    steps = filter_program(machine)
    program = _Program(len(steps) // 8, steps)
    library = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long
    set_filter, every_thread = number(1), number(1)
    done = library.syscall(
        number(_MACHINES[machine][2]), set_filter, every_thread, ctypes.byref(program)
    )
    return ON if done == 0 else f"off: {os.strerror(ctypes.get_errno()).lower()}"
