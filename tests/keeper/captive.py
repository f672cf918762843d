"""Try things in a forked process of the test's own that is locked in as a keeper's child is."""

import ctypes
import json
import os
from collections.abc import Callable
from typing import Final, TypeVar

from keeper import confine

T = TypeVar("T")

libc: Final = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def in_fork(task: Callable[[], T]) -> T:
    """Return what `task` returns in a fork; it must be something that JSON has."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(task()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    result: T = json.loads(answer)
    return result


def lock_in(program: bytes, *, descriptors: int, data_bytes: int) -> None:
    """Lock this process in, by a filter that was compiled before."""
    confine.confine(
        program,
        confine.open_statm(),
        lambda: None,
        file_bytes=1 << 20,
        descriptors=descriptors,
        data_bytes=data_bytes,
    )


def confined(
    task: Callable[[], T],
    before: Callable[[], object] = lambda: None,
    *,
    descriptors: int = 256,
    data_bytes: int = 256 << 20,
) -> T:
    """Return what `task` returns in a fork that is locked in after `before` was called there."""
    program = confine.compile_filter()

    def locked_in() -> T:
        confine.die_with_parent(os.getppid())
        before()
        lock_in(program, descriptors=descriptors, data_bytes=data_bytes)
        return task()

    return in_fork(locked_in)


def outcome(action: Callable[[], object]) -> str:
    """Return `worked`, or the name of the error with which the kernel refuses `action`."""
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "worked"


def check(result: int) -> None:
    """Raise what a function of the C library has left in errno, if it has failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def system_call(number: int, *arguments: int) -> None:
    check(libc.syscall(number, *arguments))


def trace(pid: int) -> None:
    check(libc.ptrace(16, pid, 0, 0))  # PTRACE_ATTACH


def read_memory(pid: int) -> None:
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    check(libc.process_vm_readv(pid, vector, 1, vector, 1, 0))
