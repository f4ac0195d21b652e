"""The command line of launch.py. Every mistake is one message. Imports nothing slow."""

import difflib
import itertools
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from symm_jax.app import config_check, config_faults, fields, system, use_flags
from symm_jax.errors import InputError, suggest

MODES = {
    "train_and_eval": "train, evaluate every checkpoint, write the report; the default",
    "train": "train only",
    "eval": "evaluate the checkpoints of a workdir that have not been evaluated",
    "report": "write report.html and the figures of an evaluated workdir",
    "prepare": "download and decode what a config needs, and draw the first batch",
    "compare": "run and compare the methods of a config in configs/compare/",
    **use_flags.MODES,
}
CONFIG = config_flags.DEFINE_config_file("config", help_string="Config file, see configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_multi_string("workdir", [], "Folder of the run, by default runs/CONFIG; eval accepts several.")
MODE = flags.DEFINE_string("mode", "train_and_eval", "What to do, see below.")
WATCH = flags.DEFINE_bool("watch", False, "With --mode=eval: follow training until it ends.")
WATCH_MINUTES = flags.DEFINE_float("watch_minutes", 0, "With --watch: stop after so many minutes.", lower_bound=0)
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "To train in several processes: HOST:PORT of process 0, or auto in a job of SLURM or the like."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator=HOST:PORT.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "With --coordinator=HOST:PORT: the number of this process, from 0.", lower_bound=0
)
_OWN_FLAGS = ("config", "workdir", "mode", "watch", "watch_minutes", "coordinator", "num_processes", "process_id")
_HELP = """Trains, evaluates and uses embedding networks.

    python launch.py --config=FILE [--config.FIELD=VALUE ...] [--workdir=DIR] [--mode=MODE]

{flags}
  --config.FIELD=VALUE     Change a field of the config. configs/default.py explains them all.

modes:
{modes}

examples:
  python launch.py --config=configs/glyphs_symm_npair.py
  python launch.py --config=configs/car_symm_npair.py --config.data.dir=/photos/cars --config.batch_size=64
  python launch.py --mode=search --index=/photos-index --query=picture.jpg
"""
_READ_WORKDIR = ("eval", "report", "embed", "export")  # modes that need no --config when there is a --workdir
# What absl, ml_collections and the checks raise for mistakes on the command line, with words for the user.
_WORDED = (flags.Error, AttributeError, KeyError, TypeError, ValueError, RuntimeError, OSError)
_SAVED_CONFIG = Path(__file__).with_name("saved_config.py")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line, and checks every field of the config. --help exits with code 0.

    A mistake is printed as one message and exits with code 2, a refusal of the operating system with 1.
    """
    try:
        if any(word in ("--help", "-help", "-h", "--helpfull", "--helpshort") for word in argv):
            print(_help(), end="", flush=True)
            sys.exit(0)
        argv = _with_saved_config(argv)
        for file in _config_files(argv):
            config_faults.check_file(file)
        for name in _config_fields(argv):
            config_check.check_name(name, (_values(argv, "mode") or [""])[-1])
        rest = _run_config(argv)[1:]
        if rest:
            dashes = next((f"; did you mean --{word}?" for word in rest if re.match(r"(config\.|\w+=)", word)), "")
            dashes = dashes or next((f"; did you mean --config={word}?" for word in rest if word.endswith(".py")), "")
            raise flags.Error(f"words that belong to no flag: {' '.join(rest)}{dashes}")
        _check()
        workdirs()  # a path that begins with ~ may have no meaning
        use()
    except _WORDED as error:
        print_error(error, argv)
        sys.exit(1 if isinstance(error, OSError) else 2)
    return argv[:1]


def _run_config(argv: list[str]) -> list[str]:
    """Parses all flags, which runs the config file. Whatever it raises is a mistake in it. Returns the other words."""
    try:
        return flags.FLAGS(argv)
    except _WORDED:
        raise
    except Exception as error:
        raise flags.Error(config_faults.describe(error, _config_file(argv))) from error


def workdirs() -> list[Path]:
    """The folders of --workdir, each once. None where neither a workdir nor a config is given."""
    file = _config_filename()
    if not _WORKDIR.value and not file:
        return []
    name = Path(file).stem
    folder = "runs/compare" if MODE.value == "compare" else "runs"
    return list(dict.fromkeys(Path(w).expanduser().resolve() for w in _WORKDIR.value or [f"{folder}/{name}"]))


def config_file() -> str:
    """The file of --config; "" where the config is that of a workdir."""
    file = _config_filename()
    return "" if Path(file).name == _SAVED_CONFIG.name else file


def use() -> use_flags.Use:
    """The flags of the modes that use a trained network."""
    return use_flags.values(workdirs()[0] if _WORKDIR.value else None)


def _config_filename() -> str:
    """What --config names, or ""."""
    flag = flags.FLAGS["config"]
    return config_flags.get_config_filename(flag) if flag.present else ""


def print_error(error: Exception, argv: Sequence[str] = ()) -> None:
    """Prints an error as one message for the user. `argv` is the command line, where it may be at fault."""
    print(f"error: {_describe(error, argv)}", file=sys.stderr)


def _describe(error: Exception, argv: Sequence[str]) -> str:
    if isinstance(error, InputError):
        return fields.describe(error)
    if isinstance(error, FloatingPointError):
        return f"{error}. A lower learning rate may help, in another folder:\n  {_lower_rate_command()}"
    if isinstance(error, flags.UnrecognizedFlagError):
        return _unknown_flag(error.flagname)
    if refusal := system.describe(error):
        return refusal
    message = str(error.args[0] if isinstance(error, KeyError) else error)
    missing, _, hint = message.partition("\n")
    if isinstance(error, KeyError) and (name := _field_with(missing.strip("'\""), argv)):
        return f"--config.{name}: the config has no {missing}" + (f". {hint.strip()}" if hint else "")
    if match := re.match(r"flag --config\.([\w.]+)=", message):  # the value of a field cannot be parsed
        given = _values(argv, f"config.{match[1]}")
        return f"--config.{match[1]} {config_check.value_fault(match[1], given[-1])}" if given else message
    if isinstance(error, (AttributeError, KeyError)) and any(".options." in name for name in _config_fields(argv)):
        return fields.describe(InputError(f"the config file does not set the option {message}", argument="options"))
    return config_faults.shorten(message, _config_file(argv))


def _unknown_flag(name: str) -> str:
    known = {flag: f"--{flag}" for flag in (*_OWN_FLAGS, *use_flags.NAMES)} | config_check.flags_by_last_name()
    if name.startswith("config."):
        return f"--config is missing, such as --config=configs/car_symm_npair.py; --{name} changes a field of it"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {known[close[0]]}?" if close else "."
    return f"--{name} is not a flag{hint} A field of the config is changed with --config.FIELD=VALUE."


def _lower_rate_command() -> str:
    """This command with a tenth of the learning rate, of every method in a comparison, and another workdir."""
    methods = CONFIG.value.methods.items() if MODE.value == "compare" else ()
    runs = {f"methods.{name}.": config for name, config in methods} or {"": CONFIG.value}
    rates = {
        f"config.{run}optimizer.learning_rate": config.optimizer.learning_rate / 10 for run, config in runs.items()
    }
    command, words = ["python", sys.argv[0]], iter(sys.argv[1:])
    for word in words:
        name, has_value, _ = word.lstrip("-").partition("=")
        if name not in ("workdir", *rates):
            command.append(word)
        elif not has_value:
            next(words, None)
    command.append(f"--workdir={workdirs()[0]}-lr{min(rates.values()):g}")
    return shlex.join(command + [f"--{name}={rate:g}" for name, rate in rates.items()])


def _field_with(key: str, argv: Sequence[str]) -> str:
    """The field of the command line that has a missing key as one of its parts, or ""."""
    return next((name for name in _config_fields(argv) if key in name.split(".") and ".options." not in name), "")


def _values(argv: Sequence[str], flag: str) -> list[str]:
    """The values that the command line gives to a flag, before absl has parsed it."""
    values = [word.split("=", 1)[1] for word in argv if re.match(rf"--?{flag}=", word)]
    return values + [word for name, word in itertools.pairwise(argv) if name in (f"--{flag}", f"-{flag}")]


def _config_file(argv: Sequence[str]) -> str:
    return (_config_files(argv) or [""])[-1]


def _config_files(argv: Sequence[str]) -> list[str]:
    """The files that --config names. What follows `FILE.py:` is an argument of its get_config."""
    return [re.sub(r"(\.py):.*", r"\1", value) for value in _values(argv, "config")]


def _config_fields(argv: Sequence[str]) -> list[str]:
    """The fields that --config.FIELD=VALUE names, such as data.dir."""
    return [match[1] for word in argv if (match := re.match(r"--?(?:no)?config\.([^=]+)", word))]


def _with_saved_config(argv: list[str]) -> list[str]:
    """The command line, with the config of the workdir where --mode=eval, report, embed or export name no config."""
    mode, workdir = _values(argv, "mode"), _values(argv, "workdir")
    if _values(argv, "config") or not workdir or not mode or mode[-1] not in _READ_WORKDIR:
        return argv
    from symm_jax.run import config_json  # imported here: it is slow, and only needed for a saved config

    folder = Path(workdir[0]).expanduser().resolve()
    config_json.read(folder)  # a missing or damaged file is one message, where absl would print a traceback
    return [argv[0], f"--config={_SAVED_CONFIG}:{folder}", *argv[1:]]


def _help() -> str:
    names = {name: f"--{name}{'' if flags.FLAGS[name].boolean else '=...'}" for name in _OWN_FLAGS}
    own = {names[name]: flags.FLAGS[name].help.split("\n")[0].rstrip(";") for name in _OWN_FLAGS}
    lines = [f"  {name:25}{meaning}" for name, meaning in (own | use_flags.HELP).items()]
    modes = [f"  {mode:25}{meaning}" for mode, meaning in MODES.items()]
    return _HELP.format(flags="\n".join(lines), modes="\n".join(modes))


def _check() -> None:
    """Raises flags.Error for flags that are missing or do not go together."""
    mode = MODE.value
    if mode not in MODES:
        raise flags.Error(f"--mode={mode}{suggest(mode, MODES)}; choices: {', '.join(MODES)}")
    if not flags.FLAGS["config"].present and mode not in use_flags.WITHOUT_CONFIG:
        if mode in ("embed", "export"):
            raise flags.Error(
                f"--mode={mode} needs --workdir=DIR, or a pretrained backbone: "
                "--config=configs/pretrained/efficientnet_lite0.py"
            )
        raise flags.Error("--config is missing, such as --config=configs/car_symm_npair.py")
    if not all(_WORKDIR.value):
        raise flags.Error("--workdir= is empty, such as for a variable that is not set. Pass a folder.")
    if len(_WORKDIR.value) > 1 and mode != "eval":
        raise flags.Error(f"--workdir: --mode={mode} accepts one --workdir; got {len(_WORKDIR.value)}")
    if (WATCH.value and mode != "eval") or (WATCH_MINUTES.value and not WATCH.value):
        raise flags.Error("--watch needs --mode=eval, and --watch_minutes needs --watch")
    use_flags.check(mode, bool(_WORKDIR.value))
    if mode not in use_flags.WITHOUT_CONFIG:
        _check_config(mode)
    coordinator, count, process = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    if coordinator and mode not in ("train", "train_and_eval"):
        raise flags.Error(f"--coordinator: --mode={mode} runs in one process; only training runs in several")
    if coordinator in ("", "auto"):
        if count is not None or process is not None:
            raise flags.Error("--num_processes and --process_id need --coordinator=HOST:PORT")
    elif not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise flags.Error(f"--coordinator={coordinator}: must be HOST:PORT, such as 10.0.0.1:8476, or auto")
    elif count is None or process is None or process >= count:
        raise flags.Error(
            f"--coordinator={coordinator} needs --num_processes, and --process_id from 0 to one less; got "
            f"{count} and {process}"
        )


def _check_config(mode: str) -> None:
    config = CONFIG.value
    if not isinstance(config, ml_collections.ConfigDict):
        raise flags.Error(f"--config: get_config() must return a ConfigDict, got {config!r}")
    if (len(config_check.COMPARISON.keys() & {*config}) > 1) != (mode == "compare"):
        raise flags.Error("--mode=compare needs a config of configs/compare/, and no other mode accepts one")
    if mode == "compare":
        config_check.check_comparison(config)
    else:
        config_check.check(config)
