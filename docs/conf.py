import builtins
import os
import re
import sys
from importlib.metadata import version as installed_version

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "aiohttp-jobs"
author = "The aiohttp-jobs authors"
project_copyright = author
release = version = installed_version("aiohttp-jobs")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
add_module_names = False
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cancellation"]

html_theme = "furo"
html_title = "aiohttp-jobs"

# A name of this package that leads nowhere fails the build. Names of other projects can
# only be looked up over the network, which a build must not depend on.
nitpicky = True
_others = "|".join(
    {
        *sys.stdlib_module_names,
        *("aiohttp", "aiojobs", "multidict", "opentelemetry", "prometheus_client"),
        *("sentry_sdk", "sqlalchemy", "taskiq"),
    }
)
_builtins = "|".join(name for name in dir(builtins) if name.isidentifier())
_type_variable = "[A-Z](s|_co|_contra)?"
# What annotations name that only type checkers import, or that is no name for users.
_for_types = (
    r"BaseTestServer|TestClient|web\.Application|aiohttp_jobs\.(schedule|threads)\..+"
)
nitpick_ignore_regex = [
    ("py:.*", rf"({_others})(\..+)?"),
    ("py:.*", rf"({_builtins})(\..+)?"),
    ("py:.*", _for_types),
    ("py:.*", rf"(aiohttp_jobs\.([a-z_]+\.)*)?{_type_variable}"),
]

if "DOCS_INTERSPHINX" in os.environ:
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "aiohttp": ("https://docs.aiohttp.org/en/stable/", None),
        "python": ("https://docs.python.org/3", None),
    }


def resolve_public_name(
    app: Sphinx,
    env: BuildEnvironment,
    node: addnodes.pending_xref,
    contnode: nodes.TextElement,
) -> nodes.reference | None:
    """Find under its public name what an annotation names by its module."""
    public, inside = re.subn(
        r"^aiohttp_jobs\.[a-z_]+\.", "aiohttp_jobs.", node.get("reftarget", "")
    )
    if not inside or node.get("refdomain") != "py":
        return None
    return env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], public, node, contnode
    )


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", resolve_public_name)
