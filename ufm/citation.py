"""How to cite this software and the paper whose flow it computes, as BibTeX."""

from ufm.version import __version__

SOFTWARE = {
    "author": "{The authors of neural-collapse-flow}",
    "title": "neural-collapse-flow: exact trajectories of neural collapse and the geometry behind it",
    "version": __version__,
    "year": "2026",
}
PAPER = {
    "author": "Han, X. Y. and Papyan, Vardan and Donoho, David L.",
    "title": "Neural Collapse Under {MSE} Loss: Proximity to and Dynamics on the Central Path",
    "booktitle": "International Conference on Learning Representations",
    "year": "2022",
    "eprint": "2106.02073",
    "archivePrefix": "arXiv",
}


def cite() -> str:
    """BibTeX of this version of the software and of the paper [Han, Papyan, Donoho 2022]; CITATION.cff holds the same."""
    return f"{bibtex_entry('software', 'neural_collapse_flow', SOFTWARE)}\n\n{bibtex_entry('inproceedings', 'han2022', PAPER)}"


def bibtex_entry(kind: str, key: str, fields: dict[str, str]) -> str:
    """One entry: `@kind{key,` and a line a field."""
    return f"@{kind}{{{key},\n" + ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items()) + "\n}"
