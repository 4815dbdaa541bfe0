"""The technique of another allocator: glibc's own with other settings, or one that stands in its place."""

import ctypes
import ctypes.util
import functools
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from accelmlf.errors import ConfigError
from accelmlf.settings.technique_list import TechniqueList, word_and_option
from accelmlf.techniques.base import Technique

GLIBC, LD_PRELOAD = "glibc", "LD_PRELOAD"
LIBRARIES = {"jemalloc": ("jemalloc",), "tcmalloc": ("tcmalloc_minimal", "tcmalloc")}
"""Allocators that a process has to be started with, and the names that their libraries go by."""


class Allocator(Technique):
    does = "another allocator of the processor's memory: glibc keeps what a step has freed, or jemalloc or tcmalloc"
    needs = "glibc, or the library"
    keeps_bits = True

    def parse(self, word: str, option: str | None, device: torch.device) -> str:
        if option not in (None, GLIBC, *LIBRARIES):
            forms = ", ".join(f"{word}:{name}" for name in (GLIBC, *LIBRARIES))
            raise ConfigError("techniques", f"{word}:{option}", "no such allocator", f"Use one of {forms}")
        return option or GLIBC

    def missing(self) -> str | None:
        if self.option in LIBRARIES:
            return None if library_of(self.option) else f"{self.option} is not installed"
        if glibc_mallopt() is None:
            return "it needs glibc"
        other = "malloc" in os.environ.get(LD_PRELOAD, "")
        return "LD_PRELOAD has put another allocator in glibc's place" if other else None

    def process_context(self) -> AbstractContextManager[None]:
        if self.option == GLIBC:
            return freed_memory_kept()
        if not is_loaded(library_of(self.option or "")):
            rule = "the process was not started with it"
            remedy = f"Start it with {LD_PRELOAD}={library_of(self.option or '')}"
            raise ConfigError("techniques", self.label, rule, remedy)
        return nullcontext()


@functools.cache
def library_of(allocator: str) -> str | None:
    """The shared library of an allocator that is installed here, as the dynamic linker finds it."""
    return next((found for name in LIBRARIES.get(allocator, ()) if (found := ctypes.util.find_library(name))), None)


def is_loaded(library: str | None) -> bool:
    """Whether it is in this process (Linux)."""
    with_it = Path("/proc/self/maps")
    return library is not None and with_it.exists() and library in with_it.read_text()


def environment_of(techniques: TechniqueList) -> Mapping[str, str]:
    """What has to be in the environment of a process before it starts, for techniques to be there."""
    options = [option or "" for word, option in map(word_and_option, techniques.labels) if word == "allocator"]
    library = next((found for option in options if (found := library_of(option))), None)
    if library is None or is_loaded(library):
        return {}
    return {LD_PRELOAD: " ".join(filter(None, [os.environ.get(LD_PRELOAD), library]))}


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEPS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 256 * 2**20}
"""No block is a mapping of its own, the heap is not trimmed (the most that an int holds), and it grows in large pieces.

A large piece is address space until it is touched; under strict overcommit (vm.overcommit_memory=2) it counts at once.
Not M_MMAP_THRESHOLD: what glibc has made of that so far would be lost on leaving, and a later training would fault ever
after (an EfficientNet-B0 at 32 px: 45,000 pages a step instead of 7,000).
"""
AT_FIRST = {M_MMAP_MAX: 65_536, M_TRIM_THRESHOLD: 128 * 2**10, M_TOP_PAD: 128 * 2**10}


def glibc_mallopt() -> Callable[[int, int], int] | None:
    """glibc's switch of its allocator, mallopt(3); None on another C library."""
    if platform.libc_ver()[0] != "glibc":
        return None
    found: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return found


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """glibc keeps what is freed for the next who asks; by its initial values again on leaving.

    Not quite as before: that glibc adapts its thresholds to what is freed is over for a process with the first switch,
    and nothing brings it back. Two runs to be compared need processes of their own, as searches and ablations have.
    """
    mallopt = glibc_mallopt()
    if mallopt is None:  # `Technique.missing` says so
        yield
        return
    for option, value in KEEPS.items():
        mallopt(option, value)
    try:
        yield
    finally:
        for option, value in AT_FIRST.items():
            mallopt(option, value)
