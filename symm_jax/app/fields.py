"""Names of arguments as a user knows them: the config field or flag, and what can be done about a mistake there."""

from symm_jax.errors import InputError

# Argument of a function below -> field or flag.
FIELDS = {
    "accept_duplicates": "config.data.accept_duplicates",
    "backbone": "config.model.pretrained",
    "batch_size": "config.batch_size",
    "cache_dir": "config.data.cache_dir",
    "coordinator": "--coordinator",
    "dataset": "config.data.name",
    "dir": "config.data.dir",
    "dtype": "--float16",
    "host": "--host",
    "image_size": "config.data.image_size",
    "images_per_class": "config.data.images_per_class",
    "images": "--images",
    "index": "--index",
    "index_kind": "--index_kind",
    "losses": "config.losses",
    "mirrors": "config.data.mirrors",
    "model": "config.model.name",
    "model_mirrors": "config.model.mirrors",
    "options": "config.model.options",
    "k": "--k",
    "out": "--out",
    "port": "--port",
    "query": "--query",
    "pretrained": "config.model.pretrained",
    "recall_ks": "config.recall_ks",
    "step": "--step",
    "table": "--table",
    "to": "--to",
    "validation_classes": "config.data.validation_classes",
    "workdir": "--workdir",
}
# Argument -> what the user can do, beyond what the fact says.
_ADVICE = {
    "accept_duplicates": "To use the pictures as they are: --config.data.accept_duplicates=True.",
    "dir": "Another folder: --config.data.dir=FOLDER.",
    "dtype": "--float16 stores float16, and without it float32 is stored. Give what the index has, or --out=FOLDER.",
    "cache_dir": "Another folder: --config.data.cache_dir=FOLDER.",
    "losses": "A loss or synthesis of your own needs the config file that registers it: --config=FILE.",
    "mirrors": "Files that you have: --config.data.dir=FOLDER. Other URLs: --config.data.mirrors=\"('URL',)\".",
    "model_mirrors": "A file that you have: --config.model.pretrained=FILE. To train from scratch: "
    "--config.model.pretrained=. Other URLs: --config.model.mirrors=\"('URL',)\".",
    "options": '--config.model.options="{\'NAME\': VALUE}" replaces all options, and "{}" sets the defaults.',
    "images": "Another folder: --images=FOLDER.",
    "out": "Another folder: --out=FOLDER.",
    "query": "A picture or a folder of pictures: --query=PATH.",
    "pretrained": "To train from scratch: --config.model.pretrained=",
    "validation_classes": "Fewer: --config.data.validation_classes=N.",
}


def describe(error: InputError) -> str:
    """The message for a user: the field or flag, the fact, and what can be done."""
    if not error.argument:
        return str(error)
    advice = _ADVICE.get(error.argument)
    name = FIELDS.get(error.argument, error.argument)
    return f"{name}: {error.fact}" + (f"\n{advice}" if advice else "")
