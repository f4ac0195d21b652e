"""Worker processes for decoding. They end with the process that started them."""

import os
import threading
import time
from typing import Any, cast

import joblib


def pool(workers: int) -> joblib.Parallel:
    """So many processes. A call gives the results of `joblib.delayed` calls, each as soon as it is there."""
    threading.excepthook = _print_exception
    return joblib.Parallel(
        workers,
        return_as="generator_unordered",
        pre_dispatch="3 * n_jobs",
        batch_size=cast(Any, 1),  # joblib's annotation has only "auto"
        initializer=exit_with_parent,
        initargs=(os.getpid(),),
    )


def exit_with_parent(parent: int) -> None:
    """Ends this worker soon after the process `parent` was killed. Without this, loky leaves it waiting for work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _print_exception(raised: threading.ExceptHookArgs) -> None:
    """What Python does, but for loky's manager: it misses its work list when Ctrl-C has taken that away."""
    if raised.thread is None or raised.thread.name != "ExecutorManagerThread" or raised.exc_type is not KeyError:
        threading.__excepthook__(raised)
