"""The documentation site: built with no network, read with no network."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sphinx", reason="sphinx, which builds the site, is missing")
pytest.importorskip("furo", reason="furo, the site's theme, is missing")

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
#: Sphinx, in a process that ends where it looks for a host or connects to one.
OFFLINE = """
import sys
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"the build asked the network: {event} {args[1:]}")
sys.addaudithook(hook)
from sphinx.cmd.build import main
raise SystemExit(main(sys.argv[1:]))
"""
GROUPS = ("Tutorial", "How-to", "Reference", "Decisions", "Measurements", "Project")


def options(cache: Path) -> list[str]:
    """Return what ``make docs`` tells Sphinx, but for the folder of its cache."""
    text = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^docs:.*?\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert recipe is not None
    words = recipe[1].split("-m sphinx", 1)[1].split(". out/site\n")[0]
    words = words.replace("\\\n", " ").replace("$(ARGS)", "")
    return words.replace("out/site-cache", str(cache)).split()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a site built as ``make docs`` does, without a network."""
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-c",
        OFFLINE,
        *options(out / "cache"),
        ".",
        str(out / "html"),
    ]
    alone = ["unshare", "--map-root-user", "--net"]
    tried = subprocess.run([*alone, "true"], check=False, capture_output=True)
    if tried.returncode == 0:
        command = [*alone, *command]
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=250
    )
    assert (0, "") == (done.returncode, done.stdout + done.stderr)
    return out / "html"


class Fetched(HTMLParser):
    """Addresses that a browser fetches by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what a tag has fetched; what a link leads to is not."""
        names = dict(attrs)
        if tag == "link" and names.get("rel") in ("next", "prev", "index", "search"):
            return
        if tag in ("script", "img", "iframe", "source", "audio", "video", "embed"):
            self.found.append(names.get("src") or "")
        if tag in ("link", "image", "use"):
            self.found.append(names.get("href") or "")


def test_every_page_is_complete_in_itself(site: Path) -> None:
    """No script, style, font or picture of any page comes from elsewhere."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text())
        assert len(reader.found) > 3, page
        for address in filter(None, reader.found):
            assert not re.match(r"([a-z]+:)?//", address), f"{page.name}: {address}"
            target = page.parent / re.sub(r"[?#].*", "", address)
            assert target.exists(), f"{page.name}: {address}"
    for sheet in site.rglob("*.css"):
        foreign = re.findall(
            r"""(?:url\(|@import)\s*['"]?\s*((?:https?:)?//[^)'"]*)""",
            sheet.read_text(),
        )
        assert [] == foreign, sheet


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """The front page names every page of docs/, under one of the groups."""
    front = (site / "index.html").read_text()
    for group in GROUPS:
        assert f'<span class="caption-text">{group}</span>' in front
    for page in (ROOT / "docs").rglob("*.md"):
        address = page.relative_to(ROOT).with_suffix(".html")
        assert f'href="{address}"' in front
        assert (site / address).exists()
    assert 'href="CHANGELOG.html"' in front


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    """To a page or to a heading; each is told with its line."""
    for name in ("docs/site/conf.py", "src/isotherm/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs/terms.md").write_text("# Terms\n")
    links = (
        "# Front",
        "[a](docs/terms.md#terms)",
        "[b](docs/terms.md#gone)",
        "[c](no.md)",
    )
    (tmp_path / "README.md").write_text("\n\n".join(links))
    words = [sys.executable, "-m", "sphinx", *options(tmp_path / "cache")]
    done = subprocess.run(
        [*words, ".", "html"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert 1 == done.returncode
    assert "README.md:5: WARNING: local id not found in doc" in done.stderr
    assert "README.md:7: WARNING: 'myst' cross-reference target" in done.stderr
    assert "#terms" not in done.stderr


class Reading:
    """A page of the site in a browser, and what it complained of."""

    def __init__(self, browser: Any, site: Path, width: int) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto((site / "index.html").as_uri())


@pytest.fixture
def desk(browser: Any, site: Path) -> Iterator[Reading]:
    """Return the front page at a desk."""
    reading = Reading(browser, site, 1440)
    yield reading
    reading.page.close()


@pytest.fixture
def phone(browser: Any, site: Path) -> Iterator[Reading]:
    """Return the front page on a phone."""
    reading = Reading(browser, site, 360)
    yield reading
    reading.page.close()


def test_the_front_page_leads_on(desk: Reading) -> None:
    """Picture, navigation to a page, from there to a heading; no complaint."""
    page = desk.page
    assert "isotherm" in page.title()
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 100)")
    page.click(".sidebar-tree >> text=A first walk")
    page.wait_for_selector("h1:has-text('A first walk')")
    page.click(".toc-tree >> text=A real kernel")
    page.wait_for_function("location.hash === '#a-real-kernel'")
    page.click("article >> a:has-text('vmtest') >> nth=0")
    page.wait_for_selector("h1:has-text('vmtest')")
    assert [] == desk.said
    assert [] == [url for url in desk.asked if not url.startswith(("file:", "data:"))]


def test_search_finds_without_a_server(desk: Reading) -> None:
    """A word of one page leads there, from a file on a disk."""
    page = desk.page
    page.fill(".sidebar-search", "clairvoyant")
    page.keyboard.press("Enter")
    found = page.locator("#search-results li a")  # they come one after another
    found.filter(has_text=re.compile("policies", re.IGNORECASE)).first.wait_for(
        timeout=30_000
    )
    page.click("#search-results li a >> nth=0")
    page.wait_for_selector("article h1")
    assert [] == desk.said
    assert [] == [url for url in desk.asked if not url.startswith(("file:", "data:"))]


@pytest.mark.parametrize("name", ["index", "docs/reference/topology", "docs/vision"])
def test_it_is_readable_on_a_phone(phone: Reading, site: Path, name: str) -> None:
    """No page scrolls sideways, text is no smaller than 14 px, the menu opens."""
    page = phone.page
    page.goto((site / f"{name}.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    size = page.evaluate(
        "parseFloat(getComputedStyle(document.querySelector('article p')).fontSize)"
    )
    assert size >= 14
    page.click("label[for=__navigation] >> visible=true")
    page.wait_for_selector(".sidebar-tree >> text=A first walk >> visible=true")
    assert [] == phone.said
