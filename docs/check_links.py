"""Check what a built documentation points to, without a network.

``python docs/check_links.py docs/_build/html`` fails where a page points to a file or an anchor
that isn't there, would fetch a script, style, picture or font from the network, or has an address
that isn't one.
"""

import re
import sys
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself, as {tag: attributes}.
FETCHED = {
    "img": ("src", "srcset"),
    "script": ("src",),
    "link": ("href",),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "video": ("src",),
}
CSS_URL = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")
HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+", re.IGNORECASE)


class Page(HTMLParser):
    """Anchors and references of one page.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.anchors = {"", "top"}
        self.links, self.fetches = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Note what a tag is called and what it points to."""
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        for name in FETCHED.get(tag, ()):
            if given.get(name) and "canonical" not in given.get("rel", ""):
                self.fetches |= set(_addresses(given[name], is_set=name == "srcset"))


def _addresses(value, *, is_set):
    """Return the addresses of an attribute; a set of pictures lists several with their widths."""
    return [part.split()[0] for part in value.split(",") if part.strip()] if is_set else [value]


class Site:
    """A folder of pages.

    Parameters
    ----------
    root : Path
    """

    def __init__(self, root):
        self.root = root.resolve()

    @cached_property
    def pages(self):
        """Return {path: Page}; what the theme keeps beside its scripts are no pages."""
        files = self.root.rglob("*.html")
        static = self.root / "_static"
        return {path: Page(path) for path in sorted(files) if static not in path.parents}

    def problems(self):
        """Yield what is wrong, a sentence each."""
        for page in self.pages.values():
            where = page.path.relative_to(self.root)
            for address in sorted(page.links | page.fetches):
                if problem := self.problem_of(address, page, fetched=address in page.fetches):
                    yield f"{where}: {address}: {problem}"
        for path in sorted(self.root.rglob("*.css")):
            for match in CSS_URL.finditer(path.read_text(encoding="utf-8")):
                address = match[1] or match[2]
                if urlsplit(address).netloc:
                    yield f"{path.relative_to(self.root)}: {address}: is fetched from the network"

    def problem_of(self, address, page, *, fetched):
        """Say what is wrong with an address on a page, or give None."""
        parts = urlsplit(address)
        if parts.scheme == "data":
            return None
        if parts.scheme or parts.netloc:
            return self._problem_of_external(parts, fetched=fetched)
        target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
        if not target.is_file():
            return "there is no such file"
        known = self.pages.get(target)
        if known and unquote(parts.fragment) not in known.anchors:
            return "there is no such anchor"
        return None

    @staticmethod
    def _problem_of_external(parts, *, fetched):
        if fetched:
            return "is fetched from the network"
        if parts.scheme == "mailto":
            return None
        is_address = parts.scheme in ("http", "https") and HOST.fullmatch(parts.hostname or "")
        return None if is_address else "is no address"


def main(folder):
    """Write what is wrong to standard error; give the exit status."""
    site = Site(Path(folder))
    if not site.pages:
        sys.stderr.write(f"{folder} has no pages: build the documentation first.\n")
        return 2
    problems = list(site.problems())
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    sys.stderr.write(f"{len(site.pages)} pages, {len(problems)} problems\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
