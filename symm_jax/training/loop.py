"""The loop around the training step: it dispatches work, logs, saves, and stops at a signal."""

import collections
import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import tqdm

from symm_jax import distributed
from symm_jax.run import checkpoints, metric_log
from symm_jax.training.recipe import Plan


class Dispatch(NamedTuple):
    """Work for the devices: `run(state) -> (state, metrics)` brings the state to step `end`."""

    end: int
    run: Callable[[Any], tuple[Any, dict[str, jax.Array]]]


class _Pending(NamedTuple):
    """Work that was dispatched and may not be done yet. `state` is a copy to save, or None."""

    step: int
    metrics: dict[str, jax.Array]
    state: Any
    stop: bool | jax.Array


def run(
    plan: Plan,
    state: Any,
    first_step: int,
    work: Iterable[Dispatch],
    ahead: int,
    writer: checkpoints.Writer,
    log: metric_log.MetricLog | None,
) -> None:
    """Trains to plan.num_steps.

    Results are read from the devices only when `ahead` more chunks of work have been dispatched. So the devices do
    not wait for logging or saving.

    Args:
      plan: the run.
      state: the state to start from, one copy per device; its memory is reused.
      first_step: the step of `state`.
      work: what to do.
      ahead: chunks that are dispatched before the loop waits for the results of one.
      writer: writer of checkpoints.
      log: log of metrics; None in a process that does not write.

    Raises:
      FloatingPointError: the loss or a gradient is not finite. Saved checkpoints are from before.
      SystemExit: SIGTERM (143), SIGHUP (129) or Ctrl-C (130) came to any process. The state has been saved.
    """
    pending: collections.deque[_Pending] = collections.deque()
    last_log, last_time, step, saved, stopped = first_step, time.monotonic(), first_step, first_step, False
    bar = tqdm.tqdm(
        total=plan.num_steps,
        initial=first_step,
        unit="step",
        desc="train",
        dynamic_ncols=True,
        disable=not distributed.is_main(),
    )

    def settle(point: _Pending) -> bool:
        """Waits for a chunk of work, logs and saves. Returns whether a process has been told to stop."""
        nonlocal last_log, last_time, saved
        jax.block_until_ready(point.metrics)
        bar.update(point.step - bar.n)
        is_logged = point.step % plan.log_every == 0 or point.step == plan.num_steps
        logging = is_logged and point.step > last_log
        if logging or point.state is not None:
            values = {name: float(x) for name, x in jax.device_get(unreplicate(point.metrics)).items()}
            _require_finite(values, point.step, plan.seed)
            now = time.monotonic()
            rate = (point.step - last_log) * plan.batch_size / (now - last_time)
            last_log, last_time = point.step, now
            if logging and log:
                log.write(point.step, values | {"images_per_second": rate})
            bar.set_postfix(
                loss=f"{values['loss']:.3f}", rate=f"{values['learning_rate']:.1e}", images_per_s=f"{rate:.0f}"
            )
        if point.state is not None:
            _, *trees = jax.device_get(point.state)
            writer.save(point.step, *trees)
            saved = point.step
        return bool(point.stop)

    metrics: dict[str, jax.Array] = {}
    with bar, _stop_signals() as signals:
        for chunk in work:
            state, metrics = chunk.run(state)
            step = chunk.end
            saving = step % plan.checkpoint_every == 0 or step == plan.num_steps
            copy = unreplicate(state) if saving else None  # because the next chunk reuses the state's memory
            pending.append(_Pending(step, metrics, copy, distributed.any_process(bool(signals))))
            if len(pending) > ahead:
                stopped = settle(pending.popleft())
            # Several processes stop together, when all know of the signal. One process need not wait.
            stopped |= bool(signals) and jax.process_count() == 1
            if stopped:
                break
        while pending:
            stopped |= settle(pending.popleft())
        if stopped:
            if saved < step:
                settle(_Pending(step, metrics, unreplicate(state), True))
            number = signals[0] if signals else signal.SIGTERM  # the signal came to another process
            if distributed.is_main():
                bar.write(f"stopped by {number.name} at step {step}; the same command continues from there")
            sys.exit(128 + number)


def unreplicate(tree: Any) -> Any:
    """A copy of the first local device's part, made by one dispatched program."""
    return _squeeze(jax.tree.map(lambda x: x.addressable_shards[0].data, tree))


@jax.jit
def _squeeze(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.squeeze(0), tree)


def _require_finite(values: dict[str, float], step: int, seed: int) -> None:
    bad = [f"{name} = {values[name]}" for name in ("loss", "gradient_norm") if not math.isfinite(values[name])]
    if bad:
        raise FloatingPointError(
            f"training diverged by step {step} (seed {seed}): {', '.join(bad)}. Saved checkpoints are from before"
        )


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[signal.Signals]]:
    """Yields a list to which SIGTERM, SIGHUP and Ctrl-C are added. A second signal ends the process at once.

    An ignored signal stays ignored, as SIGHUP under nohup.
    """
    received: list[signal.Signals] = []
    known = (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", None))  # Windows has no SIGHUP
    numbers = [n for n in known if n is not None and signal.getsignal(n) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in numbers}

    def receive(number, _):
        received.append(signal.Signals(number))
        for n in numbers:
            signal.signal(n, signal.SIG_DFL)

    for number in numbers:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
