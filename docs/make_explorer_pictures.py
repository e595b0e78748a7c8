"""Takes the two pictures of the explorer page in headless Chromium: `python docs/make_explorer_pictures.py`, from the root."""

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
SETTINGS = "C=4&N=100&P=20&imbalance=4&u=-0.8&spread=0.7&seed=12&lambda=0&r=1&T=4.6&shown=renormalized"
WIDTH = 390  # as on a phone, so that the letters stay large enough where the picture is not scaled


def main() -> None:
    browser_name = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_name, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 844}, device_scale_factor=2)
        page.goto((HERE / "explorer" / "index.html").as_uri() + "#" + SETTINGS)
        for name in ("omega", "space"):
            taken = Image.open(io.BytesIO(page.locator(f"#{name}").screenshot()))
            taken.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
                HERE / "figures" / f"explorer-{name}.png", optimize=True
            )
        browser.close()


if __name__ == "__main__":
    main()
