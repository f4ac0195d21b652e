"""Runs launch.py in this process, and appends a line to a file at the end of each phase of the start.

    python benchmarks/start_phases.py OUT STARTED --config=...  # as benchmarks/start.py does

A line is [phase, seconds since STARTED, {part of the compiler: seconds}, programs that were compiled or loaded].
"""

import collections
import functools
import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)  # as for launch.py

from symm_jax.app import huge_pages  # noqa: E402

COMPILER = {
    "/jax/core/compile/jaxpr_trace_duration": "traced",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowered",
    "/jax/core/compile/backend_compile_duration": "compiled or loaded",
}
out, started, *arguments = sys.argv[1:]
seconds: dict[str, float] = collections.Counter()
programs: list[str] = []


def stamp(phase: str) -> None:
    with open(out, "a") as file:
        file.write(json.dumps([phase, time.time() - float(started), seconds, len(programs)]) + "\n")
    seconds.clear()
    programs.clear()


def stamp_after(phase: str, owner: Any, name: str) -> None:
    call = getattr(owner, name)

    @functools.wraps(call)
    def timed(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        stamp(phase)
        return result

    setattr(owner, name, timed)


def count(event: str, duration: float, **_: Any) -> None:
    if event in COMPILER:
        seconds[COMPILER[event]] += duration
        programs.extend([event] * (COMPILER[event] == "compiled or loaded"))


def restart(original: Callable[[], None] = huge_pages.restart) -> None:
    stamp("Python, flags, config")
    original()  # begins this file again, once
    import jax

    from symm_jax.app import modes  # noqa: F401
    from symm_jax.run import metric_log
    from symm_jax.training import train

    stamp("imports")
    jax.monitoring.register_event_duration_secs_listener(count)
    stamp_after("checks, plan", train, "load_backbone")
    stamp_after("data sets opened and verified", train.splits, "load_evaluation")
    stamp_after("network and optimiser initialised", train, "create_state")
    stamp_after("first step", metric_log.MetricLog, "write")


huge_pages.restart = restart
sys.argv = ["launch.py", *arguments]
runpy.run_path(str(ROOT / "launch.py"), run_name="__main__")
