"""How to cite this software and the paper whose flow it computes, as BibTeX."""

from ufm.version import __version__

TITLE = "neural-collapse-flow: exact trajectories of neural collapse and the geometry behind it"
AUTHORS = "The authors of neural-collapse-flow"
YEAR = 2026


def cite() -> str:
    """BibTeX of this version of the software and of the paper [Han, Papyan, Donoho 2022]; CITATION.cff holds the same."""
    from ufm.models.references import ARXIV

    author, title, year, number = ARXIV["han2022"]
    venue = "International Conference on Learning Representations"
    software = {"author": f"{{{AUTHORS}}}", "title": TITLE, "version": __version__, "year": YEAR}
    paper = {"author": author, "title": title, "booktitle": venue, "year": year, "eprint": number, "archivePrefix": "arXiv"}
    return f"{_entry('software', 'neural_collapse_flow', software)}\n\n{_entry('inproceedings', 'han2022', paper)}"


def _entry(kind: str, key: str, fields: dict[str, str | int]) -> str:
    return f"@{kind}{{{key},\n" + ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items()) + "\n}"
