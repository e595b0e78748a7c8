"""The references of this software and of the paper whose flow it computes; `ufm.cite` writes them as BibTeX."""

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
    "url": "https://arxiv.org/abs/2106.02073",
    "eprint": "2106.02073",
    "archivePrefix": "arXiv",
}
LAW_SOURCES = {  # whose a law is: for a text whose numbers come from it
    "renormalized": "law (a), the renormalized flow: Equation 5 of the paper, its closed form derived in the software",
    "embedded": "law (b), the embedded flow: Proposition 2 of the paper as printed",
    "unnormalized": "law (c), the unnormalized flow from total covariance I: derived in the software",
}


def bibtex_entry(kind: str, key: str, fields: dict[str, str]) -> str:
    """One entry: `@kind{key,` and a line a field."""
    return f"@{kind}{{{key},\n" + ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items()) + "\n}"
