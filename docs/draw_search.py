"""Makes docs/search_page.png and docs/search_page_phone.png: the search page on drawn characters, in Chromium.

python docs/draw_search.py
"""

import io
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

import numpy as np
import PIL.Image
from playwright import sync_api

from symm_jax.data import glyphs

DOCS = Path(__file__).parent
CLASSES, EACH, SIDE = 40, 12, 96
CONFIG = "--config=configs/pretrained/efficientnet_lite0.py"
LAUNCH = (sys.executable, "launch.py")


def main():
    with tempfile.TemporaryDirectory() as scratch:
        pictures, index = Path(scratch, "characters"), Path(scratch, "index")
        rng = np.random.default_rng(0)
        for character in glyphs.sample_classes(CLASSES, seed=0):
            folder = pictures / f"U+{ord(character):04X}"
            folder.mkdir(parents=True)
            for number in range(EACH):
                PIL.Image.fromarray(glyphs.render(character, SIDE, rng)).save(folder / f"{number:02}.png")
        subprocess.run([*LAUNCH, "--mode=embed", CONFIG, f"--images={pictures}", f"--out={index}"], check=True)
        command = [*LAUNCH, "--mode=serve", f"--index={index}", "--port=0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                url = next(line.split()[1] for line in server.stdout if line.startswith("search "))
                take(url, urllib.parse.quote(min(path.name for path in pictures.iterdir())))
            finally:
                server.terminate()


def take(url, folder):
    with sync_api.sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        desktop = browser.new_page(viewport={"width": 1120, "height": 860}, color_scheme="light")
        show(desktop, f"{url}?path={folder}%2F03.png")
        save(desktop, "search_page.png")
        phone = browser.new_page(viewport={"width": 360, "height": 780}, color_scheme="dark", has_touch=True)
        show(phone, f"{url}?path={folder}%2F05.png&box=15,15,85,85&k=8")
        save(phone, "search_page_phone.png")
        browser.close()


def show(tab, address):
    tab.goto(address)
    tab.locator("#neighbours button").first.wait_for(timeout=60_000)
    tab.wait_for_load_state("networkidle", timeout=60_000)


def save(tab, name):
    """In 256 colours, which take half the space."""
    picture = PIL.Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    picture.quantize(256, dither=PIL.Image.Dither.NONE).save(DOCS / name, optimize=True)


if __name__ == "__main__":
    main()
