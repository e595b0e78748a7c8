"""Rates of the controls with their binomial intervals, as a table of a page."""

from collections.abc import Sequence

from scipy.stats import beta

from ufm.files.json_objects import JsonObject

MARKS = {
    False: ("<!-- rates of sims.comparison.controls -->", "<!-- end of rates -->"),
    True: ("<!-- rates of sims.comparison.controls, stored -->", "<!-- end of rates, stored -->"),
}
FACTORS = ("model", "C", "runs", "T", "growth", "noise", "rho", "anisotropy", "unequal")
JudgedCase = JsonObject


def interval(count: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a probability, of which `count` of `of` trials came out."""
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, of - count + 1))
    high = 1.0 if count == of else float(beta.ppf(1 - tail, count + 1, of - count))
    return low, high


def is_clear(line: JudgedCase) -> bool:
    """Whether the aims of naming hold for a case: growth of at least 3, at least 12 epochs, noise of at most 1 %."""
    return line["growth"] >= 3 and line["T"] >= 12 and line["noise"] <= 0.01


def rates_table(lines: Sequence[JudgedCase]) -> str:
    """The rates in Markdown: of all cases and by every factor of the grid; counts with 95 % intervals."""
    rows = [("all", lines)]
    for key in FACTORS:
        rows += [(f"{key} = {value}", [x for x in lines if x[key] == value]) for value in sorted({x[key] for x in lines})]
    heads = [
        "",
        "cases",
        "wrong model named",
        "true refuted",
        "clear cases",
        "true named",
        "oracle tells",
        "named where it tells",
    ]
    seeds = sorted({x["draw"][0] for x in lines})
    text = [
        f"{len(lines)} cases drawn by seed {', '.join(map(str, seeds))}; clear: growth of at least 3, 12 epochs or more, 1 %.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
    ]
    for name, of in rows:
        clear = [x for x in of if is_clear(x)]
        told = [x for x in clear if x["oracle"]]
        wrong = sum(x["outcome"] == "named" and x["name"] != x["model"] for x in of)
        cells = [
            str(len(of)),
            _share_text(wrong, len(of)),
            _share_text(sum(x["true_refuted"] for x in of), len(of)),
            str(len(clear)),
            _share_text(sum(x["name"] == x["model"] for x in clear), len(clear)),
            _share_text(len(told), len(clear)),
            _share_text(sum(x["name"] == x["model"] for x in told), len(told)),
        ]
        text.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def written(page: str, table: str, stored: bool = False) -> str:
    """The page with the table between its marks. Raises ValueError for a page without them."""
    begin, end = MARKS[stored]
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(end) < page.index(begin):
        raise ValueError(f"the page has no place for the rates: it needs {begin}, then {end}, once each")
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{table}\n{end}{rest.split(end)[1]}"


def _share_text(count: int, of: int) -> str:
    if not of:
        return "–"
    low, high = interval(count, of)
    return f"{count}/{of} = {count / of:.1%} ({low:.1%}–{high:.1%})"
