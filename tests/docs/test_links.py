"""No dead link: what pages, READMEs and the texts of the code point to is there, down to the heading."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = (
    "bench",
    "calibration",
    "checkpoints",
    "cli",
    "docs",
    "examples",
    "export",
    "measure",
    "networks",
    "runtime",
    "samples",
    "serving",
    "tests",
    "training",
)
MARKDOWN = sorted(
    [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
)
CODE = sorted(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.py"))

_FENCES = re.compile(r"^(\s*)(`{3,}|~{3,}).*?^\1\2[`~]*\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|<(?:img|a)\s[^>]*?(?:src|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_ANCHOR = re.compile(r"^\(([\w-]+)\)=$|\{#([\w-]+)[^}]*\}|<a (?:id|name)=\"([\w-]+)\"", re.MULTILINE)
_NAMED = re.compile(r"\b((?:docs|examples|checkpoints)/[\w./-]+\.(?:md|svg|jpg|py|toml))(?:#([\w-]+))?")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _prose(page: Path) -> str:
    """What a page says outside its blocks of code."""
    return _FENCES.sub("", page.read_text(encoding="utf-8"))


def _slug(heading: str) -> str:
    """The anchor that GitHub and MyST make of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


@cache
def _anchors(page: Path) -> frozenset[str]:
    text = _prose(page)
    anchors = {name for found in _ANCHOR.findall(text) for name in found if name}
    seen: Counter[str] = Counter()
    for heading in _HEADING.findall(text):
        slug = _slug(heading)
        anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(anchors)


def _why_dead(page: Path, target: str) -> str | None:
    """What is wrong with a link of a page; None if nothing is, or if it leads to another site."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None
    place, _, anchor = target.partition("#")
    file = (page.parent / place).resolve() if place else page
    if not file.exists():
        return f"{_name(page)} links to {target}: there is no such file"
    if anchor and file.suffix == ".md" and anchor not in _anchors(file):
        return f"{_name(page)} links to {target}: {_name(file)} has no heading #{anchor}"
    return None


@pytest.mark.parametrize("page", MARKDOWN, ids=_name)
def test_links_lead_somewhere(page):
    targets = [first or second for first, second in _LINK.findall(_prose(page))]
    dead = [why for target in targets if (why := _why_dead(page, target))]
    assert not dead, "\n".join(dead)


def test_enough_links_are_seen():
    """An expression that finds none would pass by finding nothing."""
    assert sum(len(_LINK.findall(_prose(page))) for page in MARKDOWN) > 150
    assert "stability" in _slug("Stability")
    assert _why_dead(ROOT / "README.md", "docs/nowhere.md")
    assert _why_dead(ROOT / "README.md", "docs/stability.md#nothing")
    assert _why_dead(ROOT / "README.md", "docs/stability.md#streams") is None


def test_pages_that_docstrings_and_messages_name_exist():
    dead = []
    for path in CODE:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for place, anchor in _NAMED.findall(line):
                why = _why_dead(ROOT / "README.md", f"{place}#{anchor}" if anchor else place)
                if why and path != Path(__file__).resolve():
                    dead.append(f"{_name(path)}:{number}: {why}")
    assert not dead, "\n".join(dead)
