"""The explorer's numbers in a real browser against Python's, and that no request leaves the page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser
from scipy.integrate import solve_ivp

from tests.docs.browser import opened
from ufm.features.measures import phd_equiangular, phd_equinorm
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED

EXPLORER = Path(__file__).parents[2] / "docs" / "explorer"
TIMES = [0.0, 30.0, 1e3, 2e4]
SIZES = {"equal": (20, 20, 20, 20), "unequal": (31, 12, 7, 3), "two": (9, 4)}


def in_the_browser(browser: Browser, script: str) -> dict:
    """The JSON that `script` leaves in `answer`, run beside laws.js in headless Chromium."""
    page = opened(browser, "about:blank")
    page.evaluate((EXPLORER / "laws.js").read_text())
    answer = page.evaluate(f"(() => {{ let answer; {script}; return JSON.stringify(answer); }})()")
    page.context.close()
    return json.loads(answer)


@pytest.fixture(scope="module")
def answers(browser: Browser) -> dict:
    script = f"""
      const plain = (A) => A.map((row) => [...row]);
      answer = {{}};
      for (const [name, sizes] of Object.entries({json.dumps(SIZES)})) {{
        const S0 = laws.start(sizes, 9, 3, 0.7, 5);
        answer[name] = {{ S0: plain(S0) }};
        for (const law of laws.NAMES) {{
          const lambda = law === "unnormalized" ? 0 : 0.3;
          const n = sizes.reduce((a, b) => a + b, 0);
          const times = law === "unnormalized" ? [0, 2 * n, 12 * n, 30 * n] : {TIMES}; // its growth is exponential in t / n
          const path = laws.trajectory(law, {{ sizes, S0, lambda, r: 7 }}, times);
          answer[name][law] = path.map((S) => ({{ ...laws.measures(S, sizes, lambda), S: plain(S), means: null }}));
        }}
      }}"""
    return in_the_browser(browser, script)


def renormalized_oracle(S0: np.ndarray, sizes: tuple[int, ...], lam: float, r: float | None) -> list[np.ndarray]:
    """dS/dt = (1/n) S K Pi K (r (1 + lambda) I + G) J by DOP853; r None: the embedded limit."""
    n, pi = sum(sizes), np.array(sizes) / sum(sizes)
    q, eye = np.sqrt(pi), np.eye(len(sizes))
    J = eye - np.outer(q, q)

    def field(_: float, y: np.ndarray) -> np.ndarray:
        S = y.reshape(S0.shape)
        G = S.T @ S
        K = np.linalg.inv((1 + lam) * eye + G)
        last = (1 + lam) * eye if r is None else r * (1 + lam) * eye + G
        return (S @ K @ np.diag(pi) @ K @ last @ J / n).ravel()

    solution = solve_ivp(field, (0, TIMES[-1]), S0.ravel(), "DOP853", t_eval=TIMES, rtol=1e-13, atol=1e-14)
    return [y.reshape(S0.shape) for y in solution.y.T]


def unnormalized_oracle(S0: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """u of dH/dt = -grad L_LS(H) on the whole tensor, from Sigma_W = I."""
    n, C, K = sum(sizes), len(sizes), len(S0)
    labels = np.repeat(np.arange(C), sizes)
    Y = np.eye(C)[:, labels]
    within = np.eye(n) - Y.T @ np.diag(1 / np.array(sizes)) @ Y
    noise = np.random.default_rng(0).standard_normal((K, n)) @ within
    D = np.linalg.inv(np.linalg.cholesky(noise @ noise.T / n)) @ noise
    H0 = S0 / np.sqrt(np.array(sizes) / n) @ Y + D
    centred = Y - Y.mean(1, keepdims=True)

    def field(_: float, y: np.ndarray) -> np.ndarray:
        H = y.reshape(K, n)
        Hc = H - H.mean(1, keepdims=True)
        W = centred @ Hc.T @ np.linalg.inv(Hc @ Hc.T)
        return (-W.T @ (W @ Hc - centred) / n).ravel()

    solution = solve_ivp(field, (0, 30 * n), H0.ravel(), "DOP853", t_eval=[0, 2 * n, 12 * n, 30 * n], rtol=1e-13, atol=1e-15)
    values = []
    for y in solution.y.T:
        H = y.reshape(K, n)
        deviations = H @ within
        means = (H - H.mean(1, keepdims=True)) @ Y.T / np.array(sizes)
        whitened = np.linalg.solve(np.linalg.cholesky(deviations @ deviations.T / n), means * np.sqrt(np.array(sizes) / n))
        values.append(np.linalg.svd(whitened, compute_uv=False) ** 2)
    return values


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("law", "r"), [("renormalized", 1.0), ("kernel", 7.0), ("embedded", None)])
def test_renormalized_laws_in_the_browser_are_pythons_to_1e_10(answers: dict, sizes: str, law: str, r: float | None) -> None:
    S0 = np.array(answers[sizes]["S0"])
    for S, measured in zip(renormalized_oracle(S0, SIZES[sizes], 0.3, r), answers[sizes][law], strict=True):
        u = np.linalg.svd(S, compute_uv=False) ** 2
        np.testing.assert_allclose(measured["u"], u, rtol=1e-10)
        mine = np.array(measured["S"])
        np.testing.assert_allclose(mine.T @ mine, S.T @ S, atol=1e-10 * u[0])
        pi = np.array(SIZES[sizes]) / sum(SIZES[sizes])
        K = np.linalg.inv(1.3 * np.eye(len(pi)) + S.T @ S)
        np.testing.assert_allclose(measured["loss"], 0.5 * (1.3 * pi @ np.diag(K) - pi @ pi), rtol=1e-10)
        means = S / np.sqrt(pi)
        np.testing.assert_allclose(measured["equinorm"], phd_equinorm(means), rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(measured["equiangular"], phd_equiangular(means), rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(measured["lossNC1"], 0.65 * np.trace(np.diag(pi) @ K @ S.T @ S @ K), rtol=1e-10)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_unnormalized_law_in_the_browser_is_the_flow_of_the_whole_tensor(answers: dict, sizes: str) -> None:
    for u, measured in zip(
        unnormalized_oracle(np.array(answers[sizes]["S0"]), SIZES[sizes]), answers[sizes]["unnormalized"], strict=True
    ):
        np.testing.assert_allclose(measured["u"], u, rtol=1e-10)


def test_exponential_growth_ends_beyond_what_is_drawn(browser: Browser) -> None:
    script = """
      const sizes = [300, 60, 20], times = Array.from({ length: 40 }, (_, k) => 1500 * k), S0 = laws.start(sizes, 9, 1, 0.7, 5);
      answer = laws.trajectory("unnormalized", { sizes, S0, lambda: 0, r: 1 }, times).map((S) => laws.measures(S, sizes, 0).u);"""
    u = in_the_browser(browser, script)
    assert len(u) < 40
    assert sum(u[-1]) > 1e14 > sum(u[-2])
    assert max(u[-1]) > 1e12  # the page draws up to there, and says so


def test_the_loss_where_a_mode_is_absent_is_pythons(browser: Browser) -> None:
    sizes = np.array([9, 6, 5])
    q = np.sqrt(sizes / sizes.sum())
    row = np.array([1.0, -2.0, 0.5])
    S = np.vstack([row - (row @ q) * q, np.zeros(3)])
    script = f"answer = laws.measures({json.dumps(S.tolist())}, {sizes.tolist()}, 0.3)"
    K = np.linalg.inv(1.3 * np.eye(3) + S.T @ S)
    expected = 0.5 * (1.3 * q**2 @ np.diag(K) - q**2 @ q**2)
    np.testing.assert_allclose(in_the_browser(browser, script)["loss"], expected, rtol=1e-12)


def test_without_ridge_the_closed_laws_are_the_packages(browser: Browser) -> None:
    script = 'answer = ["renormalized", "embedded"].map((law) => [0.01, 3, 400].map((u) => laws.CLOSED[law](u, 1e5, 6, 40, 1)))'
    renormalized, embedded = in_the_browser(browser, script)
    omega = np.sqrt(6 * np.array([0.01, 3, 400]))
    np.testing.assert_allclose(renormalized, RENORMALIZED.omega(np.array(1e5), omega, 6, 40) ** 2 / 6, rtol=1e-12)
    np.testing.assert_allclose(embedded, EMBEDDED.omega(np.array(1e5), omega, 6, 40) ** 2 / 6, rtol=1e-12)


def test_no_request_leaves_the_page() -> None:
    for path in EXPLORER.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # the name of a namespace, never fetched
        assert not re.search(r"https?://|fetch\(|XMLHttpRequest|@import|url\(|sendBeacon|WebSocket", text), path.name
    assert "default-src 'none'" in (EXPLORER / "index.html").read_text()


def test_the_page_draws_every_figure_from_its_link(browser: Browser) -> None:
    link = "#C=5&N=30&P=3&imbalance=4&u=0&spread=1&seed=2&lambda=1&r=2&T=5&shown=embedded"
    page = opened(browser, (EXPLORER / "index.html").as_uri() + link)
    assert page.locator("polyline").count() == 4 + 3 + 3
    assert page.locator("#summary").inner_text().startswith("Class sizes ")
    assert "NaN" not in page.content()
    assert "Loss and parts of the embedded" in page.locator("#loss").inner_html()
    page.context.close()
