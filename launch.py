"""Trains and evaluates what a config describes: python launch.py --config=configs/car_symm_npair.py"""

import itertools
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from symm_jax.errors import InputError, suggest

MODES = ("train_and_eval", "train", "eval", "prepare")
_CONFIG = config_flags.DEFINE_config_file("config", help_string="Config file, see configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; runs/CONFIG NAME when empty.")
_MODE = flags.DEFINE_string("mode", "train_and_eval", f"One of {', '.join(MODES)}.")


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
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        fail(error)
    return argv[:1]


def fail(error: Exception) -> None:
    message = error.args[0] if isinstance(error, KeyError) else error
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def main(_) -> None:
    # Imported after the flags are known to be right: a typing error is answered at once.
    import jax

    from symm_jax import config as configs
    from symm_jax import evaluate, train

    logging.set_verbosity(logging.WARNING)
    config = _CONFIG.value
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = Path(_WORKDIR.value or f"runs/{name}").expanduser().resolve()
    try:
        configs.validate(config, jax.local_device_count())
        if _MODE.value == "prepare":
            train.prepare(config)
        if _MODE.value in ("train", "train_and_eval"):
            train.train(config, workdir)
        if _MODE.value in ("eval", "train_and_eval"):
            evaluate.evaluate(config, workdir)
    except (InputError, FloatingPointError) as error:
        fail(error)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
