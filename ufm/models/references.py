"""What the models rest on, as BibTeX: one entry a paper, several papers a model."""

from collections.abc import Iterable

from ufm.citation import LAW_SOURCES, PAPER, SOFTWARE, bibtex_entry

ARXIV = {  # key: authors, title, year, arXiv number
    "han2022": (PAPER["author"], PAPER["title"], PAPER["year"], PAPER["eprint"]),
    "mixon2020": (
        "Mixon, Dustin G. and Parshall, Hans and Pi, Jianzong",
        "Neural collapse with unconstrained features",
        "2020",
        "2011.11619",
    ),
    "lu2020": (
        "Lu, Jianfeng and Steinerberger, Stefan",
        "Neural Collapse with Cross-Entropy Loss",
        "2020",
        "2012.08465",
    ),
    "yaras2022": (
        "Yaras, Can and Wang, Peng and Zhu, Zhihui and Balzano, Laura and Qu, Qing",
        "Neural Collapse with Normalized Features: A Geometric Analysis over the Riemannian Manifold",
        "2022",
        "2209.09211",
    ),
    "e2020": (
        "E, Weinan and Wojtowytsch, Stephan",
        "On the emergence of simplex symmetry in the final and penultimate layers of neural network classifiers",
        "2020",
        "2012.05420",
    ),
    "poggio2020": (
        "Poggio, Tomaso and Liao, Qianli",
        "Explicit regularization and implicit bias in deep network classifiers trained with the square loss",
        "2020",
        "2101.00072",
    ),
    "ergen2020": (
        "Ergen, Tolga and Pilanci, Mert",
        "Revealing the Structure of Deep Neural Networks via Convex Duality",
        "2020",
        "2002.09773",
    ),
    "fang2021": (
        "Fang, Cong and He, Hangfeng and Long, Qi and Su, Weijie J.",
        "Exploring Deep Neural Networks via Layer-Peeled Model: Minority Collapse in Imbalanced Training",
        "2021",
        "2101.12699",
    ),
    "zhu2021": (
        "Zhu, Zhihui and Ding, Tianyu and Zhou, Jinxin and Li, Xiao and You, Chong and Sulam, Jeremias and Qu, Qing",
        "A Geometric Analysis of Neural Collapse with Unconstrained Features",
        "2021",
        "2105.02375",
    ),
    "tirer2022": (
        "Tirer, Tom and Bruna, Joan",
        "Extended Unconstrained Features Model for Exploring Deep Neural Collapse",
        "2022",
        "2202.08087",
    ),
    "zhou2022mse": (
        "Zhou, Jinxin and Li, Xiao and Ding, Tianyu and You, Chong and Qu, Qing and Zhu, Zhihui",
        "On the Optimization Landscape of Neural Collapse under {MSE} Loss: Global Optimality with Unconstrained Features",
        "2022",
        "2203.01238",
    ),
    "dang2023": (
        "Dang, Hien and Tran, Tho and Osher, Stanley and Tran-The, Hung and Ho, Nhat and Nguyen, Tan",
        "Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data",
        "2023",
        "2301.00437",
    ),
    "zhou2022losses": (
        "Zhou, Jinxin and You, Chong and Li, Xiao and Liu, Kangning and Liu, Sheng and Qu, Qing and Zhu, Zhihui",
        "Are All Losses Created Equal: A Neural Collapse Perspective",
        "2022",
        "2210.02192",
    ),
    "lin2017": (
        "Lin, Tsung-Yi and Goyal, Priya and Girshick, Ross and He, Kaiming and Doll{\\'a}r, Piotr",
        "Focal Loss for Dense Object Detection",
        "2017",
        "1708.02002",
    ),
    "szegedy2015": (
        "Szegedy, Christian and Vanhoucke, Vincent and Ioffe, Sergey and Shlens, Jonathon and Wojna, Zbigniew",
        "Rethinking the Inception Architecture for Computer Vision",
        "2015",
        "1512.00567",
    ),
    "andriopoulos2024": (
        "Andriopoulos, George and Dong, Zixuan and Guo, Li and Zhao, Zifan and Ross, Keith",
        "The Prevalence of Neural Collapse in Neural Multivariate Regression",
        "2024",
        "2409.04180",
    ),
    "jiang2023": (
        "Jiang, Jiachen and Zhou, Jinxin and Wang, Peng and Qu, Qing and Mixon, Dustin and You, Chong and Zhu, Zhihui",
        "Generalized Neural Collapse for a Large Number of Classes",
        "2023",
        "2310.05351",
    ),
    "thrampoulidis2022": (
        "Thrampoulidis, Christos and Kini, Ganesh R. and Vakilian, Vala and Behnia, Tina",
        "Imbalance Trouble: Revisiting Neural-Collapse Geometry",
        "2022",
        "2208.05512",
    ),
    "seleznova2023": (
        "Seleznova, Mariia and Weitzner, Dana and Giryes, Raja and Kutyniok, Gitta and Chou, Hung-Hsu",
        "Neural (Tangent Kernel) Collapse",
        "2023",
        "2305.16427",
    ),
    "garrod2024": (
        "Garrod, Connall and Keating, Jonathan P.",
        "The Persistence of Neural Collapse Despite Low-Rank Bias",
        "2024",
        "2410.23169",
    ),
    "sukenik2024": (
        "S{\\'u}ken{\\'i}k, Peter and Lampert, Christoph and Mondelli, Marco",
        "Neural Collapse versus Low-rank Bias: Is Deep Neural Collapse Really Optimal?",
        "2024",
        "2405.14468",
    ),
    "domine2024": (
        "Domin{\\'e}, Cl{\\'e}mentine C. J. and others",
        "From Lazy to Rich: Exact Learning Dynamics in Deep Linear Networks",
        "2024",
        "2409.14623",
    ),
}
OTHERS = {
    "fukumizu1998": (
        "@inproceedings{fukumizu1998,\n"
        "  author = {Fukumizu, Kenji},\n"
        "  title = {Effect of Batch Learning in Multilayer Neural Networks},\n"
        "  booktitle = {ICONIP},\n"
        "  year = {1998}\n"
        "}"
    ),
    "braun2022": (
        "@inproceedings{braun2022,\n"
        "  author = {Braun, Lukas and Domin{\\'e}, Cl{\\'e}mentine and Fitzgerald, James and Saxe, Andrew},\n"
        "  title = {Exact learning dynamics of deep linear networks with prior knowledge},\n"
        "  booktitle = {NeurIPS},\n"
        "  year = {2022}\n"
        "}"
    ),
}
MODEL_PAPERS = {
    "central-path": ("han2022",),
    "mixon": ("mixon2020",),
    "lu-steinerberger": ("lu2020", "yaras2022"),
    "e-wojtowytsch": ("e2020",),
    "poggio-liao": ("poggio2020",),
    "ergen-pilanci": ("ergen2020",),
    "fang": ("fang2021",),
    "zhu": ("zhu2021",),
    "mse-bias-free": ("tirer2022",),
    "mse-free-bias": ("tirer2022",),
    "mse-decayed-bias": ("zhou2022mse",),
    "deep-linear": ("dang2023",),
    "label-smoothing": ("zhou2022losses", "szegedy2015"),
    "focal": ("zhou2022losses", "lin2017"),
    "joint-decay": ("fukumizu1998", "braun2022", "domine2024"),
    "block-kernel": ("seleznova2023",),
    "softmax-codes": ("jiang2023",),
    "seli": ("thrampoulidis2022",),
    "deep-ce": ("garrod2024", "sukenik2024"),
    "mse-any-target": ("andriopoulos2024",),
}


def cite(*names: str) -> str:
    """BibTeX of this software and the paper [Han, Papyan, Donoho 2022], and of what the laws and models named rest on.

    A law ("renormalized", "embedded", "unnormalized") is named in the `note` of the software; a model (of
    `ufm.models.MODEL_NAMES`) adds its papers. CITATION.cff holds the first two entries. Raises ValueError for any other name.
    """
    laws = [LAW_SOURCES[name] for name in names if name in LAW_SOURCES]
    software = SOFTWARE | ({"note": "; ".join(laws)} if laws else {})
    keys = dict.fromkeys(key for name in names if name not in LAW_SOURCES for key in _papers_of_model(name, LAW_SOURCES))
    entries = [bibtex_entry("software", "neural_collapse_flow", software), bibtex_entry("inproceedings", "han2022", PAPER)]
    return "\n\n".join([*entries, *(_bibtex_of(key) for key in keys if key != "han2022")])


def bibtex(name: str) -> str:
    """The BibTeX entries of what a model rests on. Raises ValueError for a name that is no model's."""
    return "\n\n".join(_bibtex_of(key) for key in _papers_of_model(name))


def _papers_of_model(name: str, others: Iterable[str] = ()) -> tuple[str, ...]:
    """The papers of a model. Raises ValueError with the models and the `others` to choose from."""
    if name not in MODEL_PAPERS:
        raise ValueError(
            f"no {'law or ' * bool(others)}model is called {name!r}; choose from {', '.join([*others, *MODEL_PAPERS])}"
        )
    return MODEL_PAPERS[name]


def _bibtex_of(key: str) -> str:
    if key in OTHERS:
        return OTHERS[key]
    author, title, year, number = ARXIV[key]
    fields = {"author": author, "title": title, "year": year, "url": f"https://arxiv.org/abs/{number}"}
    return bibtex_entry("misc", key, fields | {"eprint": number, "archivePrefix": "arXiv"})
