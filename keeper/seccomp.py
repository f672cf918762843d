"""Writes filters of system calls, with libseccomp.

Bound here, since the package that does it looks for the library by running
`ldconfig`: 15 ms of a keeper's start.
"""

import ctypes
import errno
import os
from typing import Final

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_EQUAL: Final = 4
_MASKED_EQUAL: Final = 7
_NO_SUCH_CALL: Final = -1


class _Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp` of seccomp.h."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


def equals(argument: int, value: int) -> _Comparison:
    """Return the condition that an argument, counted from 0, is `value`."""
    return _Comparison(argument, _EQUAL, value, 0)


def masked(argument: int, mask: int, value: int) -> _Comparison:
    """Return the condition that an argument's bits under `mask` are `value`."""
    return _Comparison(argument, _MASKED_EQUAL, mask, value)


class Filter:
    """An allow-list: what no rule names fails with EPERM."""

    def __init__(self) -> None:
        """Begin.

        Raises:
            OSError: libseccomp is not installed.
        """
        library = ctypes.CDLL("libseccomp.so.2")
        library.seccomp_init.restype = ctypes.c_void_p
        self._library = library
        self._context = ctypes.c_void_p(library.seccomp_init(_ERRNO | errno.EPERM))

    def allow(self, name: str, *conditions: _Comparison) -> None:
        """Allow the system call `name`, where there is one of this name, if all of these hold."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number == _NO_SUCH_CALL:
            return
        count = len(conditions)
        array = (_Comparison * count)(*conditions)
        self._check(
            self._library.seccomp_rule_add_array(
                self._context, ctypes.c_uint32(_ALLOW), number, ctypes.c_uint(count), array
            )
        )

    def program(self) -> bytes:
        """Return the filter as a BPF program."""
        descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "w+b") as file:
            self._check(self._library.seccomp_export_bpf(self._context, descriptor))
            file.seek(0)
            return file.read()

    def close(self) -> None:
        """Give back the library's memory."""
        self._library.seccomp_release(self._context)

    def _check(self, result: int) -> None:
        if result < 0:
            raise OSError(-result, f"libseccomp: {os.strerror(-result)}")
