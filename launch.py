"""Trains and evaluates what a config describes: python launch.py --config=configs/car_symm_npair.py"""

import os
import signal
import sys
import traceback

_INTERRUPT = signal.getsignal(signal.SIGINT)
if __name__ == "__main__" and _INTERRUPT is signal.default_int_handler:
    # XLA loses an exception that a signal raises while it is imported, so that Ctrl-C ends the program without one.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

try:
    from absl import app

    from symm_jax.app import flags, huge_pages, system
    from symm_jax.errors import InputError
except ModuleNotFoundError as error:
    sys.exit(
        f"error: {sys.executable} does not have the package {error.name}. Run make install, and then "
        ".venv/bin/python launch.py, or activate the environment that has it."
    )


def main(_) -> None:
    system.open_streams()
    huge_pages.restart()
    # Imported after the flags have been checked: a typing error is answered at once.
    from symm_jax import distributed
    from symm_jax.app import modes

    signal.signal(signal.SIGINT, _INTERRUPT)
    code, faults, coordinator = 1, [], flags.COORDINATOR.value
    try:
        if coordinator:
            distributed.join(coordinator, flags.NUM_PROCESSES.value, flags.PROCESS_ID.value)
        faults = modes.run(
            flags.MODE.value,
            flags.CONFIG.value,
            flags.workdirs(),
            flags.WATCH.value,
            flags.WATCH_MINUTES.value,
            flags.config_file(),
            flags.use(),
        )
        code = 1 if faults else 0
    except (InputError, FloatingPointError) as error:
        flags.print_error(error)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        code = 130
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if system.describe(error):
            flags.print_error(error)
        elif coordinator:
            traceback.print_exc()
        else:
            raise
    if faults:
        done = {"embed": "embedded", "search": "searched"}.get(flags.MODE.value, "measured")
        print(f"error: could not be {done}:\n  " + "\n  ".join(faults), file=sys.stderr)
    distributed.exit_process(code)


if __name__ == "__main__":
    app.run(main, flags_parser=flags.parse)
