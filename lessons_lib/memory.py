"""Keeping the memory that tensors free, since glibc hands it back too eagerly."""

import ctypes
import platform


def keep_freed_memory() -> None:
    """Keep memory that tensors free for the next tensors, where the C library is glibc; elsewhere do nothing.

    glibc hands large blocks back at once, and each step of a training on the CPU asks for them again, page by
    page: with small networks that takes longer than the arithmetic.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own, which its release would undo
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: do not shrink the heap
    mallopt(-2, 64 * 2**20)  # M_TOP_PAD: grow it by 64 MB at a time
