"""One citation: `ufm.cite()`, CITATION.cff and the documentation say the same."""

import re
from pathlib import Path

import yaml

import ufm

ROOT = Path(__file__).parents[2]


def fields(entry: str) -> dict[str, str]:
    """The fields of a BibTeX entry, without protecting braces."""
    return {name: value.replace("{", "").replace("}", "") for name, value in re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.M)}


def test_the_citation_file_says_what_cite_says() -> None:
    software, paper = map(fields, ufm.cite().split("\n\n"))
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (software["title"], software["version"]) == (cff["title"], cff["version"])
    assert cff["version"] == ufm.__version__
    assert software["author"] == cff["authors"][0]["name"]
    assert software["year"] == cff["date-released"][:4]
    cited = cff["references"][0]
    assert (paper["title"], int(paper["year"]), paper["booktitle"]) == (
        cited["title"],
        cited["year"],
        cited["conference"]["name"],
    )
    assert paper["author"].split(" and ") == [f"{a['family-names']}, {a['given-names']}" for a in cited["authors"]]
    assert cited["identifiers"][0]["value"] == f"arXiv:{paper['eprint']}"


def test_the_page_shows_what_cite_says() -> None:
    assert ufm.cite() in (ROOT / "docs" / "cite.md").read_text()
