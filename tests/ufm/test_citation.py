"""One citation: `ufm.cite()`, CITATION.cff and the documentation say the same."""

import re
from pathlib import Path

import pytest
import yaml

import ufm
from ufm.citation import LAW_SOURCES
from ufm.models.references import bibtex

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
    assert cited["url"] == paper["url"] == f"https://arxiv.org/abs/{paper['eprint']}"


def test_the_page_shows_what_cite_says() -> None:
    assert ufm.cite() in (ROOT / "docs" / "cite.md").read_text()


def test_laws_are_named_and_models_add_their_papers_once() -> None:
    software, paper, *rest = map(
        fields, ufm.cite("embedded", "label-smoothing", "renormalized", "focal", "central-path").split("\n\n")
    )
    assert software["note"].index("law (b)") < software["note"].index("law (a)")
    assert paper == fields(ufm.cite().split("\n\n")[1])
    assert [entry["eprint"] for entry in rest] == [
        "2210.02192",
        "1512.00567",
        "1708.02002",
    ]  # of both losses once; the paper of the flow is there already
    assert rest[0]["url"] == "https://arxiv.org/abs/2210.02192"
    assert "note" not in fields(ufm.cite())
    assert set(LAW_SOURCES) == set(ufm.LAWS)


@pytest.mark.parametrize(
    ("name", "first_author", "number"), [("focal", "Lin, Tsung-Yi", "1708.02002"), ("label-smoothing", "Szegedy", "1512.00567")]
)
def test_a_loss_of_its_own_paper_is_cited_beside_its_model(name: str, first_author: str, number: str) -> None:
    model, loss = map(fields, bibtex(name).split("\n\n"))
    assert model["eprint"] == "2210.02192"
    assert loss["author"].startswith(first_author)
    assert loss["eprint"] == number


def test_a_name_that_is_neither_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"no law or model is called 'renormalised'; choose from renormalized, .* seli"):
        ufm.cite("renormalised")
    with pytest.raises(ValueError, match=r"no model is called 'renormalized'; choose from central-path, "):
        bibtex("renormalized")
