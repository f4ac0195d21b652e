"""The flags of the modes that use a trained network. Imports nothing slow."""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

MODES = {
    "embed": "embed a folder of pictures into an index, by a workdir or a pretrained backbone",
    "search": "list the pictures of an index that are nearest to a query",
    "calibrate": "measure which similarity tells classes apart, on an index with class folders",
    "duplicates": "list near-duplicates and probable label errors of an index",
    "export": "write a network as files that run without this project",
    "serve": "serve a page to search an index with pictures",
}
# Mode -> its flags, the required ones with their form.
_REQUIRED = {
    "embed": {"images": "FOLDER", "out": "FOLDER"},
    "search": {"index": "FOLDER"},
    "calibrate": {"index": "FOLDER"},
    "duplicates": {"index": "FOLDER"},
    "export": {"out": "FOLDER"},
    "serve": {"index": "FOLDER"},
}
_OPTIONAL = {
    "embed": ("step", "float16"),
    "search": ("query", "k", "json", "index_kind", "to", "table"),
    "calibrate": (),
    "duplicates": ("json",),
    "export": ("step",),
    "serve": ("k", "host", "port", "token"),
}
# These read the weights that the index names, so they need no config.
WITHOUT_CONFIG = ("search", "calibrate", "duplicates", "serve")

flags.DEFINE_string("images", "", "With --mode=embed: the folder of pictures.")
flags.DEFINE_string(
    "out", "", "With --mode=embed: the index folder, made or brought up to date; export: the new folder."
)
flags.DEFINE_integer("step", None, "With --mode=embed or export: the checkpoint, by default the best.", lower_bound=0)
flags.DEFINE_bool("float16", False, "With --mode=embed: store the embeddings in half the space.")
flags.DEFINE_string("index", "", "With --mode=search, calibrate, duplicates, serve: the index folder.")
flags.DEFINE_string("query", "", "With --mode=search: a picture, or a folder of pictures.")
flags.DEFINE_integer("k", None, "With --mode=search or serve: the number of results.", lower_bound=1)
flags.DEFINE_bool("json", False, "With --mode=search or duplicates: one line of JSON each.")
flags.DEFINE_enum("index_kind", "exact", ["exact", "usearch"], "With --mode=search: usearch for millions of pictures.")
flags.DEFINE_string("to", "", "With --mode=search: postgresql://... fills a table with pgvector, and searches there.")
flags.DEFINE_string("table", "symm_jax", "With --to: the name of the table.")
flags.DEFINE_string("host", "127.0.0.1", "With --mode=serve: the address to listen on.")
flags.DEFINE_integer("port", 8000, "With --mode=serve: the port.", lower_bound=0, upper_bound=65535)
flags.DEFINE_string("token", "", "With --mode=serve: a password that requests must carry.")
# Lines of --help.
HELP = {
    "--images, --out": "With --mode=embed: the folder of pictures, the index folder. With export: --out.",
    "--step, --float16": "With --mode=embed: the checkpoint, by default the best; half the space. With export: --step.",
    "--index": "With --mode=search, calibrate, duplicates or serve: the index folder.",
    "--query, --k": "With --mode=search: a picture or a folder of them, the number of results. With serve: --k.",
    "--json, --index_kind": "With --mode=search: lines of JSON; usearch for millions. With duplicates: --json.",
    "--to, --table": "With --mode=search: postgresql://... fills a table with pgvector, and searches there.",
    "--host, --port, --token": "With --mode=serve: where to listen, and a password that requests must carry.",
}
NAMES = (
    *("images", "out", "step", "float16", "index", "query", "k", "json", "index_kind", "to", "table"),
    *("host", "port", "token"),
)


@dataclasses.dataclass(frozen=True)
class Use:
    """The values of the flags.

    workdir: the folder of the run; None for a pretrained backbone alone, or for the weights that the index names.
    step: None for the best checkpoint.
    dtype: of stored embeddings.
    The others are the flags of the same names; paths are absolute, and None where they are not given.
    """

    workdir: Path | None = None
    images: Path | None = None
    out: Path | None = None
    step: int | None = None
    dtype: str = "float32"
    index: Path | None = None
    query: Path | None = None
    k: int | None = None
    json: bool = False
    index_kind: str = "exact"
    to: str = ""
    table: str = "symm_jax"
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""


def values(workdir: Path | None) -> Use:
    """The values of the flags after they were parsed. Raises RuntimeError for a path whose ~ has no meaning."""
    plain: dict[str, Any] = {name: flags.FLAGS[name].value for name in NAMES if name != "float16"}
    for name in ("images", "out", "index", "query"):
        plain[name] = Path(plain[name]).expanduser().resolve() if plain[name] else None
    return Use(workdir=workdir, dtype="float16" if flags.FLAGS["float16"].value else "float32", **plain)


def check(mode: str, has_workdir: bool) -> None:
    """Raises flags.Error for flags that `mode` needs, and for those that it does not have."""
    for name, form in _REQUIRED.get(mode, {}).items():
        if not flags.FLAGS[name].value:
            raise flags.Error(f"--mode={mode} needs --{name}={form}")
    known = (*_REQUIRED.get(mode, ()), *_OPTIONAL.get(mode, ()))
    if given := [name for name in NAMES if flags.FLAGS[name].present and name not in known]:
        modes = [m for m in MODES if given[0] in _REQUIRED[m] or given[0] in _OPTIONAL[m]]
        raise flags.Error(f"--{given[0]} needs --mode={' or '.join(modes)}")
    if flags.FLAGS["step"].value is not None and not has_workdir:
        raise flags.Error("--step needs --workdir")
    if flags.FLAGS["table"].present and not flags.FLAGS["to"].value:
        raise flags.Error("--table needs --to=postgresql://...")
    if flags.FLAGS["to"].value and flags.FLAGS["index_kind"].value != "exact":
        raise flags.Error("--to searches in the database: leave out --index_kind")
    if mode == "search" and not (
        flags.FLAGS["query"].value or flags.FLAGS["to"].value or flags.FLAGS["index_kind"].present
    ):
        raise flags.Error("--mode=search needs --query=FILE or --query=FOLDER")
