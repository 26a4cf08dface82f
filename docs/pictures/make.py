"""Makes the pictures of the README: a recording of the quickstart, and its report.

    python docs/pictures/make.py

Run it in the root of the repository. It trains `configs/quickstart.py`, which takes a minute or
two, and photographs the report with headless Chromium.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from flaxcifar import console
from flaxcifar.cli import train

FOLDER = Path(__file__).resolve().parent
WORKDIR = Path("runs/quickstart")
COMMAND = f"flaxcifar train --config configs/quickstart.py --workdir {WORKDIR}"
WIDTH, HEIGHT = 1000, 1250  # pixels of the report that are shown


def record_quickstart(output: Path) -> None:
    """Trains, and writes what the command prints as an SVG."""
    terminal = console.console
    terminal.record = True
    console.say(f"$ {COMMAND}")
    train.main(COMMAND.split()[2:])
    svg = terminal.export_svg(title="flaxcifar", unique_id="quickstart")
    # Without web fonts, which the picture would load from the network.
    output.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))


def photograph(page: Path, output: Path, chromium: str) -> None:
    """Writes the top of a page as a PNG of 256 colours."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={WIDTH},{HEIGHT}", "--virtual-time-budget=5000"]
        command += [f"--user-data-dir={folder}/profile", f"--screenshot={picture}"]
        subprocess.run([*command, page.resolve().as_uri()], check=True, capture_output=True)
        Image.open(picture).convert("RGB").quantize(256).save(output, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the pictures of the README.")
    parser.add_argument("--chromium", default="chromium", help="the browser's command")
    flags = parser.parse_args()
    if WORKDIR.exists():
        raise SystemExit(f"{WORKDIR} exists: move it away, so that the quickstart trains")
    record_quickstart(FOLDER / "quickstart.svg")
    photograph(WORKDIR / "report.html", FOLDER / "report.png", flags.chromium)


if __name__ == "__main__":
    main()
