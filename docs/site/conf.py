"""The documentation site: ``make docs`` builds it from the pages as they lie here.

README.md is its front page, so that every link that holds in the repository holds on
the site. Nothing is fetched, when it is built or when it is read.
"""

import re
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]

#: Pages of the reference that are read to do something, not to look something up.
HOW_TO: Final = (
    "service",
    "run",
    "doctor",
    "explain",
    "top",
    "serve",
    "metrics",
    "tenants",
    "plan",
    "recording",
    "sweeps",
    "report",
    "vmtest",
)

project = "isotherm"
author = "The isotherm authors"
copyright = author  # noqa: A001  # Sphinx's name for it
release = re.findall(
    r'^__version__ = "(.+)"$',
    (ROOT / "src/isotherm/__init__.py").read_text(),
    re.MULTILINE,
)[0]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/**/*.md"]
extensions = ["myst_parser"]
#: As deep as headings are linked to.
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"isotherm {release}"
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False
#: A summary is fetched from its page, which a browser does not do from a disk.
html_show_search_summary = False
html_show_sphinx = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"


def _named(folder: str) -> list[str]:
    """Return the pages of a folder of docs/, by name."""
    pages = sorted((ROOT / "docs" / folder).glob("*.md"))
    return [f"docs/{folder}/{page.stem}" for page in pages]


def _navigation() -> str:
    """Return the trees of pages, as the front page ends with them."""
    how_to = [f"docs/reference/{name}" for name in HOW_TO]
    groups = {
        "Tutorial": ["docs/tutorial", "docs/tutorial-gpu"],
        "How-to": how_to,
        "Reference": [
            "docs/terms",
            "docs/support-matrix",
            *(page for page in _named("reference") if page not in how_to),
        ],
        "Decisions": ["docs/architecture", "docs/vision", *_named("adr")],
        "Measurements": ["docs/measurements", *_named("results")],
        "Project": ["CHANGELOG", "CONTRIBUTING"],
    }
    options = ":hidden:\n:maxdepth: 1"
    return "".join(
        "\n".join(["\n\n```{toctree}", f":caption: {group}", options, *pages, "```\n"])
        for group, pages in groups.items()
    )


def _add_navigation(_app: object, page: str, source: list[str]) -> None:
    """Have the front page name all others."""
    if page == root_doc:
        source[0] += _navigation()


def _add_index(app: Any, error: Exception | None) -> None:
    """Give the front page the name that a server and a reader open."""
    if error is None:
        built = Path(app.outdir)
        (built / "index.html").write_bytes((built / f"{root_doc}.html").read_bytes())


def setup(app: Any) -> None:
    """Add what is here to Sphinx."""
    app.connect("source-read", _add_navigation)
    app.connect("build-finished", _add_index)
