"""Locks a child in before it runs user code, for good.

The sandbox is wasmtime's; this is what is left to a module that has broken
out of it: the process may compute, answer on the connections it has, and
nothing else. No new program, no debugger's view of a neighbour, no signal to
another process, no socket, no file, no new executable page. What is not on
the list of system calls fails with EPERM instead of killing the process: a
libc that tries something newer first then takes its old way.

Three layers, should one have a hole: seccomp, Landlock, which closes the file
system, and "not dumpable", which keeps other processes of the same user from
attaching to this one.
"""

import ctypes
import os
import resource
from collections.abc import Callable
from typing import Final

from keeper.seccomp import Filter, equals, masked

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1
_INSTRUCTION_BYTES: Final = 8

_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_ADD_RULE: Final = 445
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_VERSION: Final = 1
_LANDLOCK_RULE_PATH_BENEATH: Final = 1
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many access rights for files each version of Landlock knows, from bit 0 on."""

_MAP_TYPE: Final = 0xF
_MAP_PRIVATE: Final = 2
_MSG_FASTOPEN: Final = 0x20000000
_PROT_EXEC: Final = 4

_ALLOWED: Final = [
    "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwritev2", "lseek",
    "close", "fstat", "newfstatat", "statx", "ftruncate", "fcntl", "ioctl", "dup", "getcwd",
    "readlink", "readlinkat", "dup2", "dup3", "epoll_ctl", "epoll_wait", "epoll_pwait",
    "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "timerfd_settime", "listen", "accept",
    "accept4", "recvfrom", "recvmsg", "shutdown", "getsockname", "getpeername", "getsockopt",
    "setsockopt", "munmap", "mremap", "madvise", "brk", "membarrier",
    "futex", "set_robust_list", "get_robust_list", "rseq", "set_tid_address", "gettid",
    "getpid", "getppid", "getuid", "geteuid", "getgid", "getegid", "sched_yield",
    "sched_getaffinity", "getcpu", "exit", "exit_group", "restart_syscall", "rt_sigaction",
    "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "clock_gettime", "clock_getres",
    "clock_nanosleep", "nanosleep", "gettimeofday", "time", "getrandom", "getrusage", "uname",
    "sysinfo", "getrlimit",
]  # fmt: skip


def compile_filter() -> bytes:
    """Return the filter of system calls as a BPF program; made once, loaded by each child."""
    rules = Filter()
    for name in _ALLOWED:
        rules.allow(name)
    # No page becomes executable any more: code is mapped before this. Shared memory would not count
    # as data, of which there is a limit.
    rules.allow("mmap", masked(2, _PROT_EXEC, 0), masked(3, _MAP_TYPE, _MAP_PRIVATE))
    rules.allow("mprotect", masked(2, _PROT_EXEC, 0))
    # A listener that was shut down could be connected to anything by sending (tcp(7)).
    rules.allow("sendto", masked(3, _MSG_FASTOPEN, 0))
    rules.allow("sendmsg", masked(2, _MSG_FASTOPEN, 0))
    # Limits may be read (libc sizes thread stacks by them), not set.
    rules.allow("prlimit64", equals(2, 0))
    # No processes and no threads: those that calls need run already (`Function.prepare`).
    try:
        return rules.program()
    finally:
        rules.close()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; end it if that is so already."""
    _prctl(_PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent:
        os._exit(1)


def confine(
    program: bytes,
    statm: int,
    prepare: Callable[[], None],
    *,
    file_bytes: int,
    descriptors: int,
    data_bytes: int,
) -> list[str]:
    """Lock this process in, with all its threads: no way back.

    Landlock holds the calling thread and those that it starts. What older ones may do with files
    is what they could when they were started (see `keep_to`), and seccomp denies them that.

    Args:
        program: what `compile_filter` returned.
        statm: what `open_statm` returned; it is closed.
        prepare: makes and starts what can not be had later: threads and descriptors that are no
            connection. Files are out of reach already.
        file_bytes: largest size of a memory file, the bound of any output.
        descriptors: how many may be open at once.
        data_bytes: how much private memory it may take that it has not yet.

    Returns:
        What this kernel cannot do, in sentences for the log; empty if all holds.

    Raises:
        OSError: a layer that every kernel has could not be set up.
    """
    weaker: list[str] = []
    _limit(resource.RLIMIT_FSIZE, file_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, descriptors)
    _limit(resource.RLIMIT_DATA, _data_bytes(statm) + data_bytes)
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if not _close_file_system():
        weaker.append("this kernel has no Landlock: only file permissions protect files")
    prepare()
    _load_filter(program)
    return weaker


def _limit(which: int, value: int) -> None:
    _, most = resource.getrlimit(which)
    if most != resource.RLIM_INFINITY:
        value = min(value, most)
    resource.setrlimit(which, (value, value))


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_set_process = _libc.prctl


def _prctl(option: int, value: int, address: int = 0) -> None:
    if _set_process(option, value, ctypes.c_void_p(address), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


class _PathBeneath(ctypes.Structure):
    """`struct landlock_path_beneath_attr` of linux/landlock.h."""

    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def open_statm() -> int:
    """Return a descriptor that tells later how much memory this process has."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


def _data_bytes(statm: int) -> int:
    """Return how much memory of this process is private and writable; close `statm`."""
    try:
        # Pages; with the stack (proc(5)), which is no data and small.
        return int(os.read(statm, 128).split()[5]) * resource.getpagesize()
    finally:
        os.close(statm)


def _load_filter(program: bytes) -> None:
    filter_ = _Program(len(program) // _INSTRUCTION_BYTES, program)
    address = ctypes.byref(filter_)
    if _syscall(_SECCOMP, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, address):
        raise OSError(ctypes.get_errno(), "the filter of system calls cannot be loaded")


def keep_to(directory: str) -> None:
    """Deny this thread and its future ones files outside `directory`, where the kernel can.

    Raises:
        OSError: there is no such directory.
    """
    descriptor = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _close_file_system(descriptor)
    finally:
        os.close(descriptor)


def _close_file_system(but: int | None = None) -> bool:
    """Deny access to files by path (landlock(7)) but beneath a directory; memory files stay."""
    version = _syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    attribute = ctypes.c_uint64(rights)
    ruleset = _syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(attribute), 8, 0)
    if ruleset < 0:
        return False
    try:
        if but is not None:
            rule = ctypes.byref(_PathBeneath(rights, but))
            if _syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0):
                return False
        return bool(_syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)
