"""The controls of the whole comparison: trajectories of every law through unknown clocks and noise, and of none of them.

Range of the 100 cases of a law, C = 10, N = 500, 50 epochs (`synthetic.py` beside this): starts with max / min omega of 2 to 6
around u = e^-2 to e^2, growth of the largest omega of 3 to 10 fold, clocks of four kinds (powers, jumps, slowing down, learning
rates that fall twice) with random parameters, white errors of 1 % on every omega of every epoch, the first included.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.ufm.compare.synthetic import (
    EPOCHS,
    K,
    at_rest,
    noisy,
    of_exponent,
    of_law,
    own_clocks,
    random_walk,
    saturating,
    starts,
    trajectory,
)
from ufm.compare.comparison import Comparison, compare
from ufm.compare.exponent import EXPONENTS
from ufm.compare.verdict import LawRule, Verdict, decide
from ufm.laws.singular_value_dynamics import EMBEDDED, LAWS, RENORMALIZED, UNNORMALIZED, Law

NONE = ""
EVERY = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


def judged(logs: Sequence[np.ndarray], C: int = 10, N: int = 500, rule: LawRule | None = None) -> Verdict:
    return decide([compare(trajectory(x, C, N)) for x in logs], rule)


def recognized(law: Law, seeds: range) -> Counter[str]:
    names: Counter[str] = Counter()
    for seed in seeds:
        rng = np.random.default_rng([seed, 100 + int(EXPONENTS[law])])
        names[judged([noisy(of_law(law, rng), rng)]).name] += 1
    assert names[law.name] + names[NONE] == len(seeds)
    return names


@EVERY
def test_a_law_through_an_unknown_clock_and_noise_is_recognized(law: Law) -> None:
    assert recognized(law, range(4))[law.name] == 4


@pytest.mark.slow
@EVERY
def test_a_law_through_an_unknown_clock_and_noise_is_recognized_in_95_of_100_cases(law: Law) -> None:
    assert recognized(law, range(100))[law.name] >= 95


STRANGERS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "p = -0.5": lambda rng: of_exponent(-0.5, rng),
    "p = 0.5": lambda rng: of_exponent(0.5, rng),
    "p = 1.5": lambda rng: of_exponent(1.5, rng),
    "every omega on its own clock": own_clocks,
    "saturating as under weight decay": saturating,
    "random walks": random_walk,
    "at rest": at_rest,
    "a law backwards": lambda rng: of_law(RENORMALIZED, rng)[::-1],
    "a law to and fro": lambda rng: (lambda x: np.vstack([x, x[::-1]]))(of_law(UNNORMALIZED, rng, T=25)),
    "a law and waves of 5 % beside it": lambda rng: of_law(RENORMALIZED, rng) + waves(rng),
    "own clocks of five epochs": lambda rng: own_clocks(rng)[:: EPOCHS // 5],
}


def waves(rng: np.random.Generator) -> np.ndarray:
    """Three periods in every log u (T, K), each at a phase of its own: no slope and no bend."""
    return 0.1 * np.sin(2 * np.pi * (3 * np.linspace(0, 1, EPOCHS)[:, None] + rng.uniform(size=K)))


def attributed(make: Callable[[np.random.Generator], np.ndarray], seeds: range) -> Counter[str]:
    names: Counter[str] = Counter()
    for seed in seeds:
        rng = np.random.default_rng([seed, 200])
        names[judged([noisy(make(rng), rng)]).name] += 1
    return names


@pytest.mark.parametrize("make", STRANGERS.values(), ids=STRANGERS.keys())
def test_a_trajectory_of_no_law_is_attributed_to_none(make: Callable[[np.random.Generator], np.ndarray]) -> None:
    assert attributed(make, range(1)) == {NONE: 1}


@pytest.mark.slow
@pytest.mark.parametrize("make", STRANGERS.values(), ids=STRANGERS.keys())
def test_a_trajectory_of_no_law_is_attributed_to_none_in_95_of_100_cases(
    make: Callable[[np.random.Generator], np.ndarray],
) -> None:
    assert attributed(make, range(100))[NONE] >= 95


def test_the_reason_tells_a_clock_that_goes_back_waves_and_a_law_that_explains_too_little() -> None:
    rng = np.random.default_rng(0)
    back = judged([noisy(STRANGERS["a law backwards"](rng), rng)])
    assert "its clock would have to run backwards" in back.evidence[RENORMALIZED.name].refused
    assert back.reason.endswith(back.evidence[RENORMALIZED.name].refused)
    fro = judged([noisy(of_law(law, rng)[::step], rng) for law, step in ((EMBEDDED, 1), (EMBEDDED, -1))])
    assert "run backwards" in fro.evidence[EMBEDDED.name].refused  # one of two runs is enough
    much = judged([noisy(of_law(RENORMALIZED, rng), rng, 0.5)])
    assert any("of its motion" in evidence.refused for evidence in much.evidence.values()) or "apart" in much.reason


def test_small_errors_need_an_excuse_where_the_motion_is_small() -> None:
    """Every omega grows by 0.3 to 1 % on its own clock: no law leaves 0.5 % of it, and none explains it."""
    for seed in range(3):
        rng = np.random.default_rng([seed, 400])
        x0 = starts(rng)
        assert judged([x0 + 0.01 * (own_clocks(rng) - x0) / np.log(10)]).name == NONE
    still_a_law = of_law(EMBEDDED, np.random.default_rng(2))[:9]
    assert judged([still_a_law]).name == EMBEDDED.name


def test_singular_values_at_rest_are_said_to_be() -> None:
    rng = np.random.default_rng(0)
    verdict = judged([noisy(at_rest(rng), rng)])
    assert "hardly move" in verdict.reason
    assert all("hardly move" in evidence.refused for evidence in verdict.evidence.values())
    assert judged([at_rest(rng)]).name == NONE  # not even noise


def test_what_is_known_too_poorly_is_attributed_to_no_wrong_law() -> None:
    """Nearly equal starts whose clock runs evenly in flow time: law (b) is past most of its bend at the second epoch."""
    names: Counter[str] = Counter()
    for seed in range(6):
        rng = np.random.default_rng([seed, 300])
        omega0 = np.sqrt(10) * np.exp(rng.uniform(-0.2, 0.2, size=9))
        end = EMBEDDED.time(np.array([30.0]), np.array([omega0.max()]), 10, 500)[0]
        omega = EMBEDDED.omega(np.linspace(0, end, 50), omega0, 10, 500)
        names[judged([noisy(np.log(omega**2 / 10), rng)]).name] += 1
    assert names[NONE] >= 3
    assert names[NONE] + names[EMBEDDED.name] == 6


def test_far_below_the_square_root_of_C_the_laws_are_one_and_no_verdict_is_given() -> None:
    rng = np.random.default_rng(0)
    x = starts(rng) - 18 + np.linspace(0, 4, 50)[:, None]
    verdict = judged([noisy(x, rng)])
    assert verdict.name == NONE
    assert verdict.exponent is not None
    assert verdict.exponent.high - verdict.exponent.low > 2 or "apart" in verdict.reason


@EVERY
def test_without_noise_the_verdict_is_certain(law: Law) -> None:
    verdict = judged([of_law(law, np.random.default_rng(8))])
    assert verdict.name == law.name
    assert verdict.exponent is not None
    assert verdict.exponent.value == pytest.approx(EXPONENTS[law], abs=1e-3)
    assert verdict.exponent.high - verdict.exponent.low < 0.01
    own = verdict.evidence[law.name]
    assert own.refused == ""
    assert own.fit.rms < 1e-6
    assert own.share < 1e-6
    others = [evidence for name, evidence in verdict.evidence.items() if name != law.name]
    assert all("outside the interval" in evidence.refused and evidence.share > 0.5 for evidence in others)
    assert f"{own.fit.rms:.2%}" in verdict.reason


def test_several_runs_narrow_the_interval() -> None:
    rng = np.random.default_rng(3)
    logs = [noisy(of_law(RENORMALIZED, rng, T=20, K=6), rng, 0.02) for _ in range(8)]
    alone = [judged([x], C=7).exponent for x in logs]
    verdict = judged(logs, C=7)
    assert verdict.name == RENORMALIZED.name
    assert verdict.exponent is not None
    widths = [e.high - e.low for e in alone if e is not None]
    assert len(widths) == 8
    assert verdict.exponent.high - verdict.exponent.low < np.median(widths) / 1.5  # 1 / sqrt(8) of it if all runs told as much


def test_the_drift_share_of_several_runs_lies_inside_its_interval() -> None:
    rng = np.random.default_rng(3)
    logs = [noisy(of_law(RENORMALIZED, rng, K=9), rng, share) for share in (0.001, 0.001, 0.05)]
    for verdict in judged(logs).evidence.values():
        assert verdict.share_low < verdict.share < verdict.share_high
    alone = compare(trajectory(logs[0]))
    assert decide([alone]).evidence["embedded"].share == pytest.approx(alone.drifts["embedded"].share)


def test_one_run_of_another_law_among_several_is_no_common_verdict() -> None:
    rng = np.random.default_rng(5)
    logs = [noisy(of_law(law, rng), rng) for law in (RENORMALIZED, RENORMALIZED, UNNORMALIZED, UNNORMALIZED)]
    assert judged(logs).name == NONE


@pytest.mark.parametrize(("C", "N", "T"), [(4, 9, 30), (100, 30, 5), (5, 6, 3)])
@EVERY
def test_few_and_many_classes_and_few_epochs(law: Law, C: int, N: int, T: int) -> None:
    rng = np.random.default_rng(C)
    x = of_law(law, rng, C, N, T, C - 1)
    assert judged([noisy(x, rng, 0.001)], C, N).name == law.name


def test_one_pair_has_no_interval_but_three_runs_of_one_pair_have() -> None:
    rng = np.random.default_rng(2)
    logs = [noisy(of_law(RENORMALIZED, rng, C=3, K=2), rng, 0.001) for _ in range(5)]
    verdict = judged(logs[:1], C=3)
    assert verdict.name == NONE
    assert verdict.exponent is None
    assert verdict.reason.startswith("1 pair of singular values")
    assert "2 pairs" in judged(logs[:2], C=3).reason
    pooled = judged(logs, C=3)
    assert pooled.exponent is not None
    assert pooled.name in (NONE, RENORMALIZED.name)
    alone = judged([logs[0][:, :1]] * 4, C=2)
    assert alone.name == NONE
    assert alone.reason.startswith("0 pairs")


def test_nothing_to_compare_has_its_reason() -> None:
    assert decide([]).reason == "no run was given"
    rng = np.random.default_rng(2)
    comparison: Comparison = compare(trajectory(of_law(RENORMALIZED, rng, T=2)))
    verdict = decide([comparison])
    assert (verdict.name, verdict.exponent) == (NONE, None)
    assert "at least 3 are needed" in verdict.reason
    good = compare(trajectory(of_law(RENORMALIZED, rng)))
    assert decide([comparison, good]).name == RENORMALIZED.name  # a run without anything to compare is left out


def test_long_simulations_are_thinned_and_a_seed_repeats_the_verdict() -> None:
    rng = np.random.default_rng(6)
    x = noisy(of_law(EMBEDDED, rng, T=300), rng)
    first, second, other = judged([x]), judged([x]), judged([x], rule=LawRule(seed=1))
    assert first.name == EMBEDDED.name
    assert first.exponent == second.exponent
    assert first.exponent != other.exponent


@pytest.mark.parametrize(
    "wrong",
    [{"level": 1.0}, {"level": 0.0}, {"no_trend": 1.5}, {"share": 0.0}, {"margin": 0.5}, {"tolerance": -1.0}, {"resamples": 9}],
    ids=str,
)
def test_a_rule_that_decides_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LawRule(**wrong)  # type: ignore[arg-type]
