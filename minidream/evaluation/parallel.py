"""Sections of an evaluation, measured by several processes at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from typing import Any

from minidream.errors import UserError
from minidream.evaluation import Sections

_SECTIONS: Sections = {}  # of a worker, and
_OPENED: list[Callable[[], Sections]] = []  # what opens them


def at_once(processes: int, opened: Callable[[], Sections], sections: Sections) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure `sections` by so many processes, each of which opens the model anew by `opened`; gives names and figures
    as they are finished. The machine's threads are shared out among the processes.

    Raises `UserError` if one of them is killed, as for want of memory.
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    others = active_children()
    # Spawned, not forked: a fork of a process whose torch has threads may wait for ever.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (opened, threads))
    try:
        # The longest are the last: they are begun first, so that no process is left alone with one.
        waiting = {pool.submit(_measure, name): name for name in reversed(sections)}
        for finished in as_completed(waiting):
            found = finished.result()
            print(f"evaluate: {waiting[finished]}", file=sys.stderr)
            yield waiting[finished], found
    except BrokenProcessPool:
        raise UserError("a process was killed, perhaps for want of memory: take fewer --processes") from None
    finally:
        for worker in active_children():
            if worker not in others:
                worker.terminate()
        pool.shutdown(cancel_futures=True)


def _begin(opened: Callable[[], Sections], threads: int) -> None:
    """Make a process ready to measure."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    import torch

    torch.set_num_threads(threads)
    _OPENED[:] = [opened]


def _measure(name: str) -> dict[str, Any]:
    if not _SECTIONS:  # here, so that the error of a model that cannot be opened comes back
        _SECTIONS.update(_OPENED[0]())
    return _SECTIONS[name]()
