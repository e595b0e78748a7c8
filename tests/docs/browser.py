"""Headless Chromium for the tests of the site: a page's DOM after its scripts have run, and the accessibility rules of axe-core."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(os.environ.get("AXE_CORE", Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"))
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--virtual-time-budget=60000"),
]


def rendered(address: str, profile: Path, width: int = 1280, height: int = 2400) -> str:
    """The DOM of a page as HTML once its scripts have run."""
    command = [str(CHROMIUM), *FLAGS, "--dump-dom", f"--window-size={width},{height}", f"--user-data-dir={profile}", address]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout


def violations(page: Path, profile: Path, width: int) -> list[str]:
    """What axe-core finds wrong with a page of this width: rule, impact and the first elements of each.

    A copy beside the page carries the rules; its content security policy is dropped, which would forbid them.
    """
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    run = (
        "addEventListener('load', () => setTimeout(() => axe.run().then((found) => {"
        "const answer = document.createElement('pre'); answer.id = 'axe-answer';"
        "answer.textContent = JSON.stringify(found.violations.map((v) => [v.id, v.impact,"
        " v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160) + ' -- ' + n.failureSummary.slice(0, 300))]));"
        "document.body.append(answer); }), 500));"
    )
    copy = page.with_name(f"axe-{width}-{page.name}")
    copy.write_text(text.replace("</body>", f"<script>{AXE.read_text()}</script><script>{run}</script></body>"))
    try:
        dom = rendered(copy.as_uri(), profile, width)
    finally:
        copy.unlink()
    answer = re.search(r'<pre id="axe-answer">(.*?)</pre>', dom, re.S)
    if answer is None:
        raise RuntimeError(f"axe-core gave no answer on {page}")
    plain = answer.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return [f"{rule} ({impact}): " + "; ".join(nodes) for rule, impact, nodes in json.loads(plain)]
