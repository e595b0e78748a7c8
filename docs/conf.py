"""The documentation site: `make docs`."""

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import api  # noqa: E402 - in docs/_ext
from index_of_names import IndexedPythonDomain  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

import ufm  # noqa: E402

project = "neural-collapse-flow"
author = "The authors of neural-collapse-flow"
project_copyright = author
version = release = ufm.__version__
extensions = ["myst_nb", "sphinx.ext.viewcode", "sphinx_gallery.gen_gallery"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb"}
exclude_patterns = [
    *("auto_gallery/*.ipynb", "**sg_execution_times.rst", "**.ipynb_checkpoints"),
    *("_build", "_ext", "explorer", "gallery", "examples"),
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True  # what a cell prints is one block, however it came
nb_output_stderr = "remove"  # warnings of other packages name folders of the machine
toc_object_entries_show_parents = "hide"  # methods stand below their class, and their names alone fit
smartquotes_action = "qe"  # quotes and dots: two hyphens begin an option
html_theme = "pydata_sphinx_theme"
html_title = "neural-collapse-flow"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}  # light or dark as the reader's system says
ALONE = [
    "index",
    "start",
    "choose",
    "explorer-page",
    "faq",
    "extending",
    "architecture",
    "changelog",
    "cite",
    "search",
    "genindex",
]
html_sidebars: dict[str, list[str]] = {page: [] for page in ALONE}  # these pages have no neighbours of their section
html_theme_options = {
    "show_prev_next": True,
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"plot_",
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "show_memory": False,
    "remove_config_comments": True,
    "show_signature": False,
}
# pages that are text of the repository use links to folders; sphinx-gallery's configuration holds no pickle
suppress_warnings = ["config.cache", "mystnb.unknown_mime_type", "ref.python"]


def break_names(app: Sphinx, page: str, template: str, context: dict, tree: object) -> None:
    """Long names in titles and running code break after a dot, an underscore or a bracket, options of a command nowhere."""

    def with_breaks(match: re.Match[str]) -> str:
        return match[1] + re.sub(r"(?<=[._(/\[])(?=\w)", "<wbr>", match[2]) + match[3]

    if "body" in context:
        option, name = r'<span class="pre">(--[\w-]{1,24})</span>', r'(<span class="pre">)([^<]{16,})(</span>)'
        body = re.sub(r"(<h1>)([\w.]{16,})(<)", with_breaks, context["body"])
        context["body"] = re.sub(name, with_breaks, re.sub(option, r'<span class="pre option">\1</span>', body))


def copy_explorer(app: Sphinx, exception: Exception | None) -> None:
    """The explorer is a page of its own, copied as it is."""
    if exception is None and app.builder.format == "html":
        shutil.copytree(HERE / "explorer", Path(app.outdir) / "explorer", dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    """Write the API pages before Sphinx reads, copy the explorer after it wrote."""
    api.write(HERE.parent, ("ufm", "manifolds", "sims"), HERE / "api")
    app.add_domain(IndexedPythonDomain, override=True)
    app.connect("html-page-context", break_names)
    app.connect("build-finished", copy_explorer)
