"""Work on many cases in worker processes, as they finish."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from nnunet_ext.core.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], num_processes: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what ``work`` makes of it, as they finish; with one process in this one.

    Raises:
        UserError: a worker process was killed.
    """
    if num_processes == 1 or len(items) < 2:
        for item in items:
            yield item, work(item)
        return
    # Spawned, as in nnU-Net: forking is not safe beside threads, such as those of a progress bar.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_processes, len(items)), mp_context=context) as pool:
        with _interrupts_ignored():  # by the workers, which inherit it: this process tells the user and stops them
            futures = {pool.submit(work, item): i for i, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield items[futures[future]], future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process was killed, most likely for lack of memory: run again with a smaller -np."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C, where this thread may choose."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
