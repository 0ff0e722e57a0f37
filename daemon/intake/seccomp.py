"""Takes from a process on Linux every system call but those that work on what it holds: memory, threads, open files.

A filter in classic BPF (Linux, Documentation/userspace-api/seccomp_filter.rst; numbers from the kernel's
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h). What it does not let through fails with
EPERM, as it would for someone without rights, so whatever asks in vain goes on.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from dataclasses import dataclass

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
_NUMBER_AT, _MACHINE_AT, _ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data, little-endian
_CLONE_THREAD = 0x0001_0000
_CLONE3 = 435
_PR_SET_NO_NEW_PRIVS, _SET_MODE_FILTER, _EVERY_THREAD = 38, 1, 1

# name: number on x86-64, on ARM
_ALLOWED = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "lseek": (8, 62),
    "fsync": (74, 82), "close": (3, 57), "fstat": (5, 80), "newfstatat": (262, 79),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "brk": (12, 214),
    "madvise": (28, 233), "getrandom": (318, 278), "clock_gettime": (228, 113), "clock_nanosleep": (230, 115),
    "futex": (202, 98), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "set_robust_list": (273, 99),
    "rseq": (334, 293), "gettid": (186, 178), "getpid": (39, 172), "sigaltstack": (131, 132), "exit": (60, 93),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "restart_syscall": (219, 128),
    "exit_group": (231, 94),
}  # fmt: skip


@dataclass(frozen=True)
class _Machine:
    """`audit`: its AUDIT_ARCH; `column`: of `_ALLOWED`; the numbers of two more calls."""

    column: int
    audit: int
    seccomp: int
    clone: int


MACHINES = {"x86_64": _Machine(0, 0xC000_003E, 317, 56), "aarch64": _Machine(1, 0xC000_00B7, 277, 220)}


class _Program(ctypes.Structure):
    """The kernel's sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine() -> bool:
    """Nothing but `_ALLOWED` and new threads from now on, in every thread, with no way back. Whether that holds: not
    where this is another system or processor, or a kernel without such filters."""
    machine = MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    if machine is None or sys.byteorder != "little" or sys.maxsize < 1 << 32:  # a 32-bit process has other numbers
        return False
    code = _filter(machine)
    program = _Program(len(code) // 8, code)
    call = ctypes.CDLL(None, use_errno=True)
    if call.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    arguments = (ctypes.c_long(each) for each in (machine.seccomp, _SET_MODE_FILTER, _EVERY_THREAD))
    return not call.syscall(*arguments, ctypes.byref(program))


def _filter(machine: _Machine) -> bytes:
    """Instructions of eight bytes. Threads are all right, other processes are not; the C library asks clone3 first,
    whose flags no filter can see, and takes clone where there is none."""
    refused = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    known = [_known(numbers[machine.column]) for numbers in _ALLOWED.values()]
    program = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, machine.audit),
        refused,
        (_LOAD, 0, 0, _NUMBER_AT),
        *(step for steps in known for step in steps),
        (_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_EQUAL, 0, 3, machine.clone),
        (_LOAD, 0, 0, _ARGUMENT_AT),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        refused,
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in program)


def _known(number: int) -> tuple[tuple[int, int, int, int], ...]:
    return (_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)
