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


def rates(lines: Sequence[JudgedCase]) -> list[JsonObject]:
    """The counts of all cases and by every factor of the grid, a row each; those of naming are of the clear cases."""
    rows = [("all", lines)]
    for key in FACTORS:
        rows += [(f"{key} = {value}", [x for x in lines if x[key] == value]) for value in sorted({x[key] for x in lines})]
    counted = []
    for name, of in rows:
        clear = [x for x in of if is_clear(x)]
        told = [x for x in clear if x["oracle"]]
        counts = {
            "cases": len(of),
            "wrong_model_named": sum(x["outcome"] == "named" and x["name"] != x["model"] for x in of),
            "true_refuted": sum(x["true_refuted"] for x in of),
            "clear_cases": len(clear),
            "true_named": sum(x["name"] == x["model"] for x in clear),
            "oracle_tells": len(told),
            "named_where_it_tells": sum(x["name"] == x["model"] for x in told),
        }
        counted.append({"of": name, **counts})
    return counted


def rates_table(lines: Sequence[JudgedCase]) -> str:
    """The rates in Markdown; counts with 95 % intervals."""
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
    for row in rates(lines):
        cells = [
            str(row["cases"]),
            _share_text(row["wrong_model_named"], row["cases"]),
            _share_text(row["true_refuted"], row["cases"]),
            str(row["clear_cases"]),
            _share_text(row["true_named"], row["clear_cases"]),
            _share_text(row["oracle_tells"], row["clear_cases"]),
            _share_text(row["named_where_it_tells"], row["oracle_tells"]),
        ]
        text.append(f"| {row['of']} | " + " | ".join(cells) + " |")
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
