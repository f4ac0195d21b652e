"""Trains and evaluates what a config describes: python launch.py --config=configs/car_symm_npair.py"""

import itertools
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from symm_jax.errors import InputError, suggest

MODES = ("train_and_eval", "train", "eval", "report", "prepare", "compare")
_CONFIG = config_flags.DEFINE_config_file("config", help_string="Config file, see configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_multi_string("workdir", [], "Folder of the run; runs/CONFIG NAME by default. Several for eval.")
_MODE = flags.DEFINE_string("mode", "train_and_eval", f"One of {', '.join(MODES)}.")
_WATCH = flags.DEFINE_bool("watch", False, "With --mode=eval: follow training until it ends.")
_WATCH_MINUTES = flags.DEFINE_float("watch_minutes", 0, "With --watch: but no longer than this.", lower_bound=0)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with every mistake on the command line as one message and exit code 2."""
    try:
        files = [word.split("=", 1)[1] for word in argv if re.match(r"--?config=", word)]
        files += [word for flag, word in itertools.pairwise(argv) if flag in ("--config", "-config")]
        if absent := [file for file in files if not Path(file).is_file()]:
            raise flags.Error(f"--config={absent[0]}: there is no such file; configs/ has those that ship")
        rest = flags.FLAGS(argv)[1:]
        if rest:
            dashes = next((f"; did you mean --{word}?" for word in rest if re.match(r"(config\.|\w+=)", word)), "")
            raise flags.Error(f"words that belong to no flag: {' '.join(rest)}{dashes}")
        if _MODE.value not in MODES:
            raise flags.Error(f"--mode={_MODE.value}{suggest(_MODE.value, MODES)}; choices: {', '.join(MODES)}")
        if _CONFIG.value is None:
            raise flags.Error("--config is missing, such as --config=configs/car_symm_npair.py")
        if len(_WORKDIR.value) > 1 and _MODE.value != "eval":
            raise flags.Error(f"--workdir: --mode={_MODE.value} takes one")
        if (_WATCH.value and _MODE.value != "eval") or (_WATCH_MINUTES.value and not _WATCH.value):
            raise flags.Error("--watch goes with --mode=eval, and --watch_minutes with --watch")
        if ("methods" in _CONFIG.value) != (_MODE.value == "compare"):
            raise flags.Error("--mode=compare takes a config of configs/compare/, and nothing else does")
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        fail(error)
    return argv[:1]


def fail(error: Exception) -> None:
    message = error.args[0] if isinstance(error, KeyError) else error
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def main(_) -> None:
    # Imported after the flags are known to be right: a typing error is answered at once.
    from symm_jax import modes

    logging.set_verbosity(logging.WARNING)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    folder = "runs/compare" if _MODE.value == "compare" else "runs"
    workdirs = list(dict.fromkeys(Path(w).expanduser().resolve() for w in _WORKDIR.value or [f"{folder}/{name}"]))
    try:
        faults = modes.run(_MODE.value, _CONFIG.value, workdirs, _WATCH.value, _WATCH_MINUTES.value)
    except (InputError, FloatingPointError) as error:
        fail(error)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)
    if faults:
        print("error: could not be measured:\n  " + "\n  ".join(faults), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
