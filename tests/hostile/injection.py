"""Make system calls in another process, as code that has taken it over would.

By ptrace, as gdb does. The registers of `user_regs_struct` are those of x86-64.
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

by_injection: Final = pytest.mark.skipif(
    platform.machine() != "x86_64" or os.geteuid() != 0,
    reason="only root can make calls in a process that is not dumpable; written for x86-64",
)

_ATTACH, _DETACH, _STEP = 16, 17, 9
_GET_REGISTERS, _SET_REGISTERS = 12, 13
_ALL_THREADS: Final = 0x40000000
_SYSCALL_BYTES: Final = 2
"""Of the instruction."""
_NO_CALL: Final = 2**64 - 1
_BELOW_THE_STACK: Final = 2048

# System calls of x86-64 by number.
SOCKET: Final = 41
CONNECT: Final = 42
SENDTO: Final = 44
CLOSE: Final = 3
IO_URING_SETUP: Final = 425

_NAMES: Final = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss"
    " fs_base gs_base ds es fs gs"
)


class _Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in _NAMES.split()]


_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


class Captured:
    """A process that stands still in a system call of its own."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._own = _Registers()
        self._ask(_GET_REGISTERS, self._own)
        self._place = self._own.rsp - _BELOW_THE_STACK

    @property
    def in_call(self) -> bool:
        """Whether it stands in a system call, whose instruction can be used again."""
        return bool(self._own.orig_rax != _NO_CALL)

    def call(self, number: int, *arguments: int | bytes) -> int:
        """Return what the kernel returns there: errors are negative. Bytes go by address."""
        place = self._place
        given = []
        for argument in arguments:
            if isinstance(argument, bytes):
                with Path(f"/proc/{self._pid}/mem").open("r+b", buffering=0) as memory:
                    memory.seek(place)
                    memory.write(argument)
                given.append(place)
                place += (len(argument) + 15) & ~15
            else:
                given.append(argument)
        registers = _Registers.from_buffer_copy(self._own)
        registers.rax = number
        # Nothing of the call that it stands in is begun anew.
        registers.orig_rax = _NO_CALL
        registers.rip -= _SYSCALL_BYTES
        for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), given, strict=False):
            setattr(registers, name, value)
        self._ask(_SET_REGISTERS, registers)
        self._ask(_STEP)
        os.waitpid(self._pid, _ALL_THREADS)
        self._ask(_GET_REGISTERS, registers)
        return ctypes.c_int64(registers.rax).value

    def release(self) -> None:
        """Let it go on where it was."""
        self._ask(_SET_REGISTERS, self._own)
        self._ask(_DETACH)

    def _ask(self, request: int, registers: _Registers | None = None) -> None:
        address = None if registers is None else ctypes.addressof(registers)
        if _ptrace(request, self._pid, None, address) < 0:
            raise OSError(ctypes.get_errno(), f"ptrace {request}")


@contextlib.contextmanager
def captured(pid: int) -> Iterator[Captured]:
    """Stop a process in a system call, where it waits most of the time; let it go on at the end."""
    process = _captured(pid)
    while not process.in_call:
        process.release()
        os.sched_yield()
        process = _captured(pid)
    try:
        yield process
    finally:
        process.release()


def _captured(pid: int) -> Captured:
    if _ptrace(_ATTACH, pid, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(pid, _ALL_THREADS)
    return Captured(pid)
