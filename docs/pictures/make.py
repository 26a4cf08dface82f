"""Makes the pictures of the README: a recording of the quickstart, and its report.

    python docs/pictures/make.py

Run it in the root of the repository. It trains the config `quickstart`, which takes a minute or
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
COMMAND = f"flaxcifar train --config quickstart --workdir {WORKDIR}"
# The elements of the report that are shown, in two columns.
COLUMNS = ("header, .figures, #curves", "#confusion")
WIDTH, HEIGHT = 1000, 1230  # pixels of a column


def record_quickstart(output: Path) -> None:
    """Trains, and writes what the command prints as an SVG."""
    terminal = console.console
    terminal.record, terminal.width = True, 124  # no line is longer
    console.say(f"$ {COMMAND}")
    train.main(COMMAND.split()[2:])
    svg = terminal.export_svg(title="flaxcifar", unique_id="quickstart")
    # Without web fonts, which the picture would load from the network.
    output.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))


def photograph(page: Path, output: Path, chromium: str) -> None:
    """Writes parts of a page, side by side, as a PNG of 256 colours."""
    whole = Image.new("RGB", (WIDTH * len(COLUMNS), HEIGHT))
    for place, shown in enumerate(COLUMNS):
        with tempfile.TemporaryDirectory() as folder:
            part, shot = Path(folder) / "part.html", Path(folder) / "shot.png"
            hidden = (
                f"<style>:is(header, .figures, section):not({shown}) {{ display: none }}</style>"
            )
            part.write_text(page.read_text().replace("</head>", hidden + "</head>"))
            command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            command += [f"--window-size={WIDTH},{HEIGHT}", "--virtual-time-budget=5000"]
            command += [f"--user-data-dir={folder}/profile", f"--screenshot={shot}", part.as_uri()]
            subprocess.run(command, check=True, capture_output=True)
            whole.paste(Image.open(shot), (WIDTH * place, 0))
    whole.quantize(256).save(output, optimize=True)


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
