"""The documentation as a site: `make docs` builds docs/_build/html. The pages need no network.

Two things are made at the build: the tutorial is executed, and every module without a page of its own gets one below
"Modules". Warnings are errors.
"""

import importlib
import importlib.metadata
import os
import pkgutil
import re
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from sphinx.errors import ExtensionError

import symm_jax

HERE = Path(__file__).parent

project = "symm_jax"
copyright = "the authors of symm_jax, MIT licence"
version = release = importlib.metadata.version("symm_jax")
html_title = f"symm_jax {version}"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.katex",
]
exclude_patterns = ["_build", "_static/katex/README"]
nitpicky = True
# Types of other packages have no page here, and a signature is no link.
nitpick_ignore_regex = [("py:(class|obj|exc|data)", ".*")]

# Pages are Markdown. The tutorial is a notebook in Markdown, executed in a folder that is deleted afterwards.
myst_enable_extensions = ["attrs_inline", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "auto"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True

# KaTeX's script is part of sphinxcontrib-katex; its style and fonts are in _static. Both are served from the site.
katex_css_path = "katex/katex.min.css"

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
add_module_names = False
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False
napoleon_use_ivar = True

copybutton_exclude = ".linenos, .gp, .go"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sphinx = False
smartquotes_action = "D"  # dashes only: quotes are code
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
pygments_style = "tango"
pygments_dark_style = "github-dark"

# Modules that hand-written pages in api/ document; of a package, what it exports.
_WITH_A_PAGE = ("losses", "metrics", "models", "synthesis", "optim", "similarity", "errors")
_WITH_A_PAGE += ("data.datasets", "data.pairs", "data.augment", "data.arrays")
# What the wings are for, in the order of the layers.
_WINGS = {
    "app": "The command line: flags, modes, checks of a config.",
    "training": "The loop of a run.",
    "evaluation": "From checkpoints to metrics.",
    "report": "Tables, figures and the page of a run.",
    "run": "The folder of a run.",
    "data": "From published files to batches of pairs.",
    "models": "What the backbones are made of.",
    "losses": "What the losses share: checks of arguments, sums over rows, mining.",
    "metrics": "What the metrics share.",
}


def write_module_pages(app):
    """Writes api/modules/WING.md for each package, and one page for the single modules."""
    pages = {}
    for info in pkgutil.walk_packages(symm_jax.__path__, "symm_jax."):
        inner = info.name.removeprefix("symm_jax.")
        wing, *rest = inner.split(".")
        exported = _exported(info.name) if rest and wing in _WITH_A_PAGE else _imported(info.name)
        if inner not in _WITH_A_PAGE and exported is not None:
            pages.setdefault(wing if rest or info.ispkg else "ground", []).append((info.name, exported))
    folder = HERE / "api" / "modules"
    folder.mkdir(exist_ok=True)
    order = [*(wing for wing in _WINGS if wing in pages), *sorted(pages.keys() - _WINGS.keys() - {"ground"}), "ground"]
    for old in folder.glob("*.md"):
        if old.stem not in (*order, "index"):
            old.unlink()
    for wing in order:
        title = "Single modules" if wing == "ground" else f"symm_jax.{wing}"
        text = f"# {title}\n\n{_WINGS.get(wing, '')}\n"
        for name, exported in pages.get(wing, []):
            without = f"   :exclude-members: {', '.join(sorted(exported))}\n" if exported else ""
            text += f"\n## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n{without}```\n"
        _write(folder / f"{wing}.md", text)
    listed = "\n".join(order)
    _write(
        folder / "index.md",
        "# Modules\n\nThe modules that a program seldom calls itself, written for those who change them. Their names "
        f"may change from version to version.\n\n```{{toctree}}\n{listed}\n```\n",
    )


def _imported(name):
    """The names that a package exports from its modules, which document them."""
    module = importlib.import_module(name)
    return {n for n in getattr(module, "__all__", ()) if getattr(getattr(module, n), "__module__", name) != name}


def _exported(name):
    """The public names of a module that its package exports; None where there are no others."""
    module = importlib.import_module(name)
    public = {n for n, x in vars(module).items() if not n.startswith("_") and getattr(x, "__module__", "") == name}
    exported = public & set(importlib.import_module(name.rpartition(".")[0]).__all__)
    return exported if public - exported else None


def _write(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def plain_text_docstring(app, what, name, obj, options, lines):
    """Docstrings are plain text: `x` becomes code, an indented block an equation as it is, and the rest is escaped."""
    result, in_doctest, indent, block = [], False, 0, None
    if what == "class":
        lines[:] = _with_fields_as_parameters(lines)
    for line in _with_returns_as_field(lines):
        depth = len(line) - len(line.lstrip())
        if not line.strip():
            in_doctest = False
            result.append(line)
            continue
        if block is not None and depth < block:
            block = None
        if block is None and result and not result[-1].strip() and depth >= indent + 2 and not in_doctest:
            block = depth
            result += [" " * indent + "::", ""]
        if line.lstrip().startswith(">>>"):
            in_doctest = True
        if in_doctest or block is not None:
            result.append(line)
            continue
        indent = depth
        result.append(_escaped(line))
    lines[:] = result


def _with_returns_as_field(lines):
    """Napoleon would take "{k: share}" for a type and its description."""
    inside = None
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if line.strip() == "Returns:":
            inside, first = depth, True
        elif inside is not None and line.strip() and depth <= inside:
            inside = None
            yield line
        elif inside is not None and line.strip():
            yield " " * inside + (":returns: " if first else "   ") + line.strip()
            first = False
        else:
            yield line


def _with_fields_as_parameters(lines):
    """A paragraph of lines "name: text", as the docstring of a NamedTuple has it, becomes a list of parameters."""
    result = []
    for paragraph in "\n".join(lines).split("\n\n"):
        rows = paragraph.splitlines()
        if rows and re.match(r"\w+: ", rows[0]) and all(re.match(r"\w+: |  ", row) for row in rows):
            rows = [re.sub(r"^(\w+): ", r":param \1: ", row) for row in rows]
        result += [*rows, ""]
    return result


def short_signature(app, what, name, obj, options, signature, returned):
    """Names types as a program does, and leaves out the two arguments that flax adds to every module."""

    def shorten(text):
        text = re.sub(r"<class 'jax\.numpy\.(\w+)'>", r"jnp.\1", text or "").replace("jaxlib._jax.", "")
        return re.sub(r", parent: .*_Sentinel object.*, name: [^,]*\)$", ")", text)

    return signature and shorten(signature), returned and shorten(returned)


def without_tuple_fields(app, what, name, obj, skip, options):
    """Leaves out the fields of a NamedTuple, which its signature has already."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _escaped(line):
    """A line of plain text as reStructuredText."""
    # A name before a colon stays: napoleon escapes the stars of its arguments itself.
    argument = re.match(r"( *)(\*{1,2}\w+|:returns|:param \w+)(:.*)", line)
    start, rest = (argument[1] + argument[2], argument[3]) if argument else ("", line)
    parts = re.split(r"(`[^`]*`)", rest)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"`{part}`"
        else:
            parts[i] = re.sub(r"([*|]|(?<=\w)_(?=\W|$))", r"\\\1", part)
    return start + "".join(parts)


def require_no_network(app, exception):
    """Ends the build with an error when a page would fetch a script, a style or a picture from elsewhere."""
    if exception is None and app.builder.name == "html":
        for page in Path(app.outdir).rglob("*.html"):
            found = re.findall(
                r"""<(?:script|link|img)\b[^>]*(?:src|href)=["'](?:https?:)?//[^>]*>""", page.read_text()
            )
            if found:
                raise ExtensionError(f"{page} needs the network: {found[0]}")


def setup(app):
    app.connect("builder-inited", write_module_pages)
    app.connect("autodoc-process-docstring", plain_text_docstring, priority=400)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("autodoc-skip-member", without_tuple_fields)
    app.connect("build-finished", require_no_network)
