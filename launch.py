"""Trains and evaluates what a config describes: python launch.py --config=configs/car_symm_npair.py"""

import sys
import traceback

from absl import app, logging

from symm_jax import command
from symm_jax.errors import InputError


def main(_) -> None:
    # Imported after the flags are known to be right: a typing error is answered at once.
    from symm_jax import distributed, modes

    logging.set_verbosity(logging.WARNING)
    code, faults, several = 1, [], command.COORDINATOR.value
    try:
        if several:
            distributed.join(several, command.NUM_PROCESSES.value, command.PROCESS_ID.value)
        faults = modes.run(
            command.MODE.value,
            command.CONFIG.value,
            command.workdirs(),
            command.WATCH.value,
            command.WATCH_MINUTES.value,
        )
        code = 1 if faults else 0
    except (InputError, FloatingPointError) as error:
        command.print_error(error)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        code = 130
    except SystemExit as stop:
        code = stop.code
    except Exception:
        if not several:
            raise
        traceback.print_exc()
    if faults:
        print("error: could not be measured:\n  " + "\n  ".join(faults), file=sys.stderr)
    distributed.leave(code)


if __name__ == "__main__":
    app.run(main, flags_parser=command.parse)
