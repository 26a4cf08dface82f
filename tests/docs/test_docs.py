"""The documentation: examples run, commands and links are valid, generated pages are fresh."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flaxcifar import config
from flaxcifar.cli import command
from flaxcifar.cli.command import load_command
from flaxcifar.config import to_json
from flaxcifar.data.augment import make_augment
from flaxcifar.optim.optimizers import make_optimizer
from flaxcifar.optim.schedules import make_schedule
from flaxcifar.workdir import names

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOP = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")]
PAGES = [*TOP, ROOT / "benchmarks" / "README.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def page_id(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files_and_headings(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert heading in anchors, link


def commands():
    """(page, arguments) of every `flaxcifar ...` and `python -m flaxcifar.main ...` shown."""
    for page in PAGES:
        for line in "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
            for part in line.replace("python -m flaxcifar.main", "flaxcifar train").split("&&"):
                words = shlex.split(part, comments=True)
                words = words[words.index("flaxcifar") :] if "flaxcifar" in words else []
                if len(words) > 1:
                    yield pytest.param(words[1:], id=f"{page.stem}-{' '.join(words[1:])}"[:60])


@pytest.mark.parametrize("arguments", [*commands()])
def test_commands_have_valid_flags_and_config_keys(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "import_components", lambda name: None)
    flags, overrides = load_command(arguments[0]).parser().parse_known_args(arguments[1:])
    if getattr(flags, "config", None) and Path(flags.config).name not in ("mine.py", "best.py"):
        config.load(flags.config, overrides)
    else:
        assert not overrides
    assert overrides == [] or hasattr(flags, "config")


def test_generated_pages_are_fresh():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, text in generate.pages().items():
        assert (DOCS / "reference" / name).read_text() == text, "run python docs/generate.py"


def test_the_readmes_fit_their_length():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert len((ROOT / "benchmarks" / "README.md").read_text().splitlines()) <= 150


def test_the_architecture_names_what_exists():
    found = re.findall(r"`([\w/]+(?:/|\.py))`", (DOCS / "architecture.md").read_text())
    assert len(found) > 30
    for name in found:
        folders = (
            ROOT / top / name for top in ("", "flaxcifar", "flaxcifar/data", "flaxcifar/report")
        )
        assert any(path.exists() for path in folders), name


def test_the_page_of_a_workdir_names_every_file():
    text = (DOCS / "reference" / "workdir.md").read_text()
    files = [v for k, v in vars(names).items() if k.isupper() and v != names.CHECKPOINTS]
    assert all(f"`{name}" in text for name in files)


def test_troubleshooting_quotes_messages_of_the_code():
    sources = "".join(path.read_text() for path in (ROOT / "flaxcifar").rglob("*.py"))
    sources = re.sub(r'"\s*f?"', "", sources)
    rows = re.findall(r"^\| `([^`]+)`", (DOCS / "guides/troubleshooting.md").read_text(), re.M)
    assert len(rows) >= 5
    for row in rows:
        for words in re.split(r"\.\.\.|\bN\b", row):
            assert words.strip() in sources, words


# Examples.


def test_the_configs_of_the_guides_are_valid(tmp_path):
    (code,) = blocks(DOCS / "tutorial.md", "python")
    (tmp_path / "quickstart.py").write_text(code)
    assert config.load(tmp_path / "quickstart.py") == config.load("quickstart")
    (code,) = blocks(DOCS / "guides" / "configs.md", "python")
    (tmp_path / "mine.py").write_text(code)
    config.load(tmp_path / "mine.py")


def test_the_config_of_coming_from_keras_is_valid(tmp_path):
    page = DOCS / "guides" / "coming-from-keras.md"
    (code,) = blocks(page, "python")
    table = re.findall(r"`(schedule|optimizer) = (dict\([^`]*?\))`", page.read_text())
    assert len(table) >= 4
    for key, value in [("batch_size", "128"), *table]:
        if "..." in value:
            continue
        changed = code.replace("    return", f"    config.{key} = {value}\n    return")
        (tmp_path / "mine.py").write_text(changed)
        settings = config.load(tmp_path / "mine.py", [])
        make_augment(settings.augment, (32, 32, 3))
        schedule = make_schedule(to_json(settings.schedule), 10, 2500)
        make_optimizer(to_json(settings.optimizer), lambda rate, schedule=schedule: schedule)


def run(folder, *arguments, package=ROOT):
    environment = {"PYTHONPATH": str(package), "XLA_FLAGS": "", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CONFIG = """
from flaxcifar.config import default_config


def get_config():
    config = default_config()
    config.model = dict(name="patches", width=16)
    config.data.name, config.data.dir, config.data.cache_dir = "npz", ".", "cache"
    config.data.image_size = 16
    config.data.pipeline = "resident"
    config.augment = (dict(name="brightness", range=20.0),)
    config.optimizer = dict(name="sign_momentum", learning_rate=0.01)
    config.batch_size, config.eval_batch_size, config.total_epochs = 16, 24, 2
    config.ops.convolution = "xla"
    return config
"""
SCRIPT = """
from flaxcifar.cli import train
from flaxcifar.errors import UserError

train.main(["--config", "config.py", "--workdir", "run"])
try:
    train.main(["--config", "config.py", "--config.model.depht=3"])
except UserError as error:
    print(error)
"""


def test_the_examples_of_extending_train_together(tmp_path):
    """In a copy of the package that has the four examples in their places."""
    shutil.copytree(ROOT / "flaxcifar", tmp_path / "flaxcifar")
    examples = blocks(DOCS / "guides" / "extending.md", "python")
    assert len(examples) == 4
    for code in examples:
        path = tmp_path / re.match(r"# (flaxcifar/[\w/]+\.py)\n", code)[1]
        assert not path.exists()
        path.write_text(code)
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 96), ("test", 24)):
        arrays[f"{split}_images"] = random.integers(0, 256, (count, 20, 20, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 3
    np.savez(tmp_path / "images.npz", names=np.array(["red", "green", "blue"]), **arrays)
    (tmp_path / "config.py").write_text(CONFIG)
    output = run(tmp_path, "-c", SCRIPT, package=tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test"]["examples"] == 24
    assert summary["config"]["model"] == {"name": "patches", "width": 16}
    assert (tmp_path / "run" / "report.html").exists()
    assert "takes no 'depht'; did you mean 'depth'?" in output


def notebook(name):
    """Returns the code of a notebook as a script."""
    cells = json.loads((DOCS / name).read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


# Small images train faster, and a single step compiles faster than a loop over steps.
SMALL = 'data={"image_size": 16}, steps_per_dispatch=1'


def test_the_tutorial_runs_from_top_to_bottom(tmp_path):
    code = notebook("tutorial.ipynb")
    # The README's example is its beginning.
    *lines, _ = blocks(ROOT / "README.md", "python")[0].strip().splitlines()
    assert all(line in code for line in lines)
    # A quarter of an epoch, in smaller batches.
    for found, shorter in (
        ("total_epochs=1", f"total_steps=70, batch_size=64, {SMALL}"),
        ("total_steps=20", f"total_steps=2, {SMALL}"),
    ):
        assert code.count(found) == 1
        code = code.replace(found, shorter)
    output = run(tmp_path, "-c", code)
    assert float(re.search(r"test accuracy ([\d.]+)%", output)[1]) > 15  # of 100 classes
    assert (tmp_path / "runs" / "python" / "report.html").exists()


def test_the_notebook_on_own_data_runs_from_top_to_bottom(tmp_path):
    output = run(tmp_path, "-c", notebook("own-data.ipynb"))
    assert "stopped by a callback after 2 epochs" in output
    assert "resumed after step 60 of 180" in output
    assert float(re.search(r"test accuracy ([\d.]+)% after 6 epochs", output)[1]) > 50  # of ten
    assert (tmp_path / "runs" / "own" / "export" / "model.stablehlo").exists()


def test_the_examples_of_the_python_guide_run(tmp_path):
    code = "\n".join(blocks(DOCS / "guides" / "python.md", "python"))
    for found in ("total_epochs=1, seed=3", "total_epochs=2"):
        assert code.count(found) == 1
        code = code.replace(found, f"total_steps=20, batch_size=64, {SMALL}")
    code = code.replace("total_steps=4,", f"total_steps=4, {SMALL},")
    output = run(tmp_path, "-c", code)
    assert "stopped by a callback" in output or "completed" in output
    assert (tmp_path / "exported" / "model.safetensors").exists()
