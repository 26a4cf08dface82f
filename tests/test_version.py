"""Every file that names the version names the same."""

import re
from pathlib import Path

from flaxcifar import __version__

ROOT = Path(__file__).parents[1]


def test_the_changelog_and_the_citation_name_the_version():
    newest = re.search(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    citation = (ROOT / "CITATION.cff").read_text()
    assert newest[1] == __version__
    assert f"\nversion: {newest[1]}\n" in citation
    assert f'\ndate-released: "{newest[2]}"\n' in citation
