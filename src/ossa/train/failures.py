"""What can befall a training from outside, told in one sentence."""

import errno
import multiprocessing
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ossa.errors import DataError, OssaError, RunFailed

_TOO_MANY_FILES = (
    "the system does not let this process open more files: take fewer --workers, or allow more "
    "with 'ulimit -n 1024'"
)
_AFTERWARDS = "the last checkpoint is untouched: go on with --resume"


@contextmanager
def told_in_a_sentence(*, batch: int, fitting_batch: Callable[[], int | None]) -> Iterator[None]:
    """Turns errors of memory, worker processes and vanished data into ours.

    Args:
        batch: images of this process in a batch.
        fitting_batch: finds a number of images that the GPU has room for, None where not even
            one; called when memory has run out.

    Raises:
        RunFailed, DataError: in the place of what was raised.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        fitting = _after_release(fitting_batch)
        advice = "not even a batch of 1 fits" if fitting is None else f"--batch {fitting} fits"
        raise RunFailed(
            f"the GPU has no memory for a batch of {batch} images: {advice}; {_AFTERWARDS}"
        ) from None
    except MemoryError:
        raise RunFailed(_no_memory(batch)) from None
    except OSError as error:
        if isinstance(error, ConnectionError):  # the loader's pipe to a worker that is gone
            raise RunFailed(_dead_worker(error)) from None
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise RunFailed(_TOO_MANY_FILES) from None
        raise
    except EOFError as error:  # the loader's pipe to a worker that is gone
        raise RunFailed(_dead_worker(error)) from None
    except OssaError as error:
        # The loader puts the worker's traceback in front of an error's own words.
        words = re.split(r"^\S*Error: ", str(error), flags=re.MULTILINE)
        if len(words) > 1 and "Original Traceback" in words[0]:
            raise DataError(words[-1].strip()) from None
        raise
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise RunFailed(_no_memory(batch)) from None
        if "DataLoader worker" in str(error):
            raise RunFailed(_dead_worker(error)) from None
        raise


@contextmanager
def ended_if_not_all_start() -> Iterator[None]:
    """Ends the processes that were started, where another one of them could not be.

    Otherwise Python waits for them for ever when it ends.
    """
    before = set(multiprocessing.active_children())
    try:
        yield
    except OSError:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise


def _after_release(fitting_batch: Callable[[], int | None]) -> int | None:
    torch.cuda.empty_cache()
    return fitting_batch()


def _no_memory(batch: int) -> str:
    return (
        f"the machine has no memory for a batch of {batch} images: take a smaller --batch or fewer "
        f"--workers; {_AFTERWARDS}"
    )


def _dead_worker(error: Exception) -> str:
    return (
        f"a process that loads images died ({_first_line(error)}): if the machine ran out of "
        f"memory take fewer --workers; {_AFTERWARDS}"
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
