"""What the report says of a model that its p-values would refute, but which leaves too little to be refuted."""

from dataclasses import asdict

from sims.compare import _state, parser
from sims.comparison.tables import models_table
from ufm.compare.outcome import NAMED, Selection, Support
from ufm.compare.verdict import LawRule

KEPT = Support(0.0, None, 8e-4, 9.0, 0.0, 0.005, 1.0, False, negligible=True)
PLAIN = Support(0.0, None, 8e-4, 0.0, 0.0, 1.0, 1.0, False)
REFUTED = Support(0.0, None, 0.1, 9.0, 0.0, 0.005, 1.0, True)
SELECTION = Selection(NAMED, "unnormalized", ("unnormalized",), "", {}, threshold=0.005, tolerance=0.001)


def test_the_summary_says_why_a_significant_difference_refutes_no_model() -> None:
    said = _state("unnormalized", KEPT, SELECTION)
    assert said.startswith("compatible (p-values 0.005 against rivals")
    assert said.endswith("not refuted: the rms left of log omega, 0.0008, is at most 0.001")
    assert all("not refuted" not in _state("unnormalized", support, SELECTION) for support in (PLAIN, REFUTED))


def test_the_table_of_models_says_it_too() -> None:
    more = {"statement": "", "parameter_name": None, "parameter_at_bound": False}
    models = {name: asdict(one) | more for name, one in (("kept", KEPT), ("plain", PLAIN), ("refuted", REFUTED))}
    table = models_table({"refuted_at_p_value": 0.005, "tolerance": 0.001, "models": models})
    states = [row[2] for row in table["rows"]]
    assert states == ["compatible (leaves no more than 0.001)", "compatible", "refuted"]
    assert "One that leaves an rms of log omega of no more than 0.001 is not refuted by its p-values alone" in table["caption"]


def test_the_option_tolerance_says_that_it_is_not_the_verdict_s() -> None:
    said = " ".join(parser().format_help().split())
    assert "of the description by the closed laws: rms relative error of omega" in said
    assert f"the verdict's is fixed (default {LawRule().tolerance})" in said
