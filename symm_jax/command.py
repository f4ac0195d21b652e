"""The command line of launch.py: its flags, and their mistakes as one message. Imports nothing slow."""

import itertools
import re
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from symm_jax.errors import suggest

MODES = ("train_and_eval", "train", "eval", "report", "prepare", "compare")
CONFIG = config_flags.DEFINE_config_file("config", help_string="Config file, see configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_multi_string("workdir", [], "Folder of the run; runs/CONFIG NAME by default. Several for eval.")
MODE = flags.DEFINE_string("mode", "train_and_eval", f"One of {', '.join(MODES)}.")
WATCH = flags.DEFINE_bool("watch", False, "With --mode=eval: follow training until it ends.")
WATCH_MINUTES = flags.DEFINE_float("watch_minutes", 0, "With --watch: but no longer than this.", lower_bound=0)
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "To train in several processes: HOST:PORT of process 0; or auto, in a job of SLURM and the like."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator=HOST:PORT.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Likewise: which one this is, from 0.", lower_bound=0)


def parse(argv: list[str]) -> list[str]:
    """absl's parser, with every mistake on the command line as one message and exit code 2."""
    try:
        files = [word.split("=", 1)[1] for word in argv if re.match(r"--?config=", word)]
        files += [word for flag, word in itertools.pairwise(argv) if flag in ("--config", "-config")]
        if absent := [file for file in files if not Path(file).is_file()]:
            what = "is a folder" if Path(absent[0]).is_dir() else "there is no such file"
            raise flags.Error(f"--config={absent[0]}: {what}; configs/ has the files that ship")
        rest = flags.FLAGS(argv)[1:]
        if rest:
            dashes = next((f"; did you mean --{word}?" for word in rest if re.match(r"(config\.|\w+=)", word)), "")
            dashes = dashes or next((f"; did you mean --config={word}?" for word in rest if word.endswith(".py")), "")
            raise flags.Error(f"words that belong to no flag: {' '.join(rest)}{dashes}")
        _check()
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        print_error(error)
        sys.exit(2)
    return argv[:1]


def workdirs() -> list[Path]:
    """The folders of --workdir, each once."""
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    folder = "runs/compare" if MODE.value == "compare" else "runs"
    return list(dict.fromkeys(Path(w).expanduser().resolve() for w in _WORKDIR.value or [f"{folder}/{name}"]))


def print_error(error: Exception) -> None:
    print(f"error: {_in_words(error)}", file=sys.stderr)


def _in_words(error: Exception) -> str:
    message = error.args[0] if isinstance(error, KeyError) else str(error)
    if isinstance(error, AttributeError) and error.args and isinstance(error.args[0], KeyError):  # of ml_collections
        field, _, guess = str(error.args[0].args[0]).partition("\n")
        message = f"the config has no field {field}{guess and f' ({guess})'}; configs/default.py explains them all"
    if isinstance(error, flags.UnrecognizedFlagError) and not error.flagname.startswith("config."):
        message += " A field of the config is changed with --config.FIELD=VALUE."
    return message


def _check() -> None:
    """Raises flags.Error for flags that are missing or do not go together."""
    mode = MODE.value
    if mode not in MODES:
        raise flags.Error(f"--mode={mode}{suggest(mode, MODES)}; choices: {', '.join(MODES)}")
    if CONFIG.value is None:
        raise flags.Error("--config is missing, such as --config=configs/car_symm_npair.py")
    if len(_WORKDIR.value) > 1 and mode != "eval":
        raise flags.Error(f"--workdir: --mode={mode} takes one")
    if (WATCH.value and mode != "eval") or (WATCH_MINUTES.value and not WATCH.value):
        raise flags.Error("--watch goes with --mode=eval, and --watch_minutes with --watch")
    if ("methods" in CONFIG.value) != (mode == "compare"):
        raise flags.Error("--mode=compare takes a config of configs/compare/, and nothing else does")
    coordinator, count, process = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    if coordinator and mode not in ("train", "train_and_eval"):
        raise flags.Error(f"--coordinator: --mode={mode} runs in one process; only training runs in several")
    if coordinator in ("", "auto"):
        if count is not None or process is not None:
            raise flags.Error("--num_processes and --process_id go with --coordinator=HOST:PORT")
    elif not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise flags.Error(f"--coordinator={coordinator}: must be HOST:PORT, such as 10.0.0.1:8476, or auto")
    elif count is None or process is None or process >= count:
        raise flags.Error(
            f"--coordinator={coordinator} needs --num_processes and, from 0 to one less, --process_id; got "
            f"{count} and {process}"
        )
