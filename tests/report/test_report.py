"""The report holds what the run did, whatever its classes are called."""

import base64
import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser

import events
import numpy as np
import pytest
import tiny
from PIL import Image

from flaxcifar import data
from flaxcifar.cli.report import main
from flaxcifar.data.augment import make_augment
from flaxcifar.data.split import split_validation
from flaxcifar.errors import UserError
from flaxcifar.inference.predict import Predictor
from flaxcifar.report import write_report
from flaxcifar.report.run_files import read_run
from flaxcifar.training.loop import train_and_evaluate

NASTY = "</script><script>alert('&')</script>"
# What Python makes of a folder whose name is not UTF-8.
NO_TEXT = "caf\udce9"
TRAIN, VALIDATION = split_validation(tiny.dataset().train.labels, 25.0, seed=0)


def dataset():
    found = tiny.dataset()
    return dataclasses.replace(found, class_names=(NASTY, NO_TEXT, *found.class_names[2:]))


def run_config():
    return tiny.config(report=True, param_groups=(("stage1", "frozen"),))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a run of two epochs that has written its report."""
    workdir = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda config: dataset())
        train_and_evaluate(run_config(), workdir)
    return workdir


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
    monkeypatch.setattr(data, "load", lambda config: dataset())


class Page(HTMLParser):
    """Collects the text by tag, and every address."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.addresses, self.ids, self.open, self.scripts = {}, [], [], [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.scripts += tag == "script"
        self.addresses += [value for key, value in attributes if key in ("src", "href")]
        self.ids += [value for key, value in attributes if key == "id"]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, text):
        for tag in self.open[-1:]:
            self.texts.setdefault(tag, []).append(text)


def embedded(text):
    found = re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1)

    def fail(word):
        raise ValueError(f"JSON has no {word}, and a browser stops at it")

    return json.loads(found, parse_constant=fail)


@pytest.fixture
def copy(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "copy")


def check_matrix(workdir, text, images, labels):
    matrix = np.array(embedded(text)["confusion"]["matrix"])
    predictions = Predictor.from_workdir(str(workdir))(images).argmax(1)
    for label, row in enumerate(matrix):
        for prediction, count in enumerate(row):
            assert count == np.sum((labels == label) & (predictions == prediction))
    return matrix


def pixels(uri):
    prefix = "data:image/png;base64,"
    assert uri.startswith(prefix)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri[len(prefix) :]))))


def test_the_report_says_what_the_summary_says(workdir):
    text = (workdir / "report.html").read_text()
    summary = json.loads((workdir / "summary.json").read_text())
    page = Page(text)
    assert f"{100 * summary['test']['accuracy']:.2f} %" in page.texts["dd"]
    found = embedded(text)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rates = [json.loads(line) for line in (workdir / "timing.jsonl").read_text().splitlines()]
    for row, shown, rate in zip(rows, found["runs"][0]["rows"], rates, strict=True):
        assert shown == row | {"images_per_second": rate["images_per_second"]}


def test_the_matrix_is_that_of_the_predictions(workdir):
    text, test = (workdir / "report.html").read_text(), dataset().test
    matrix = check_matrix(workdir, text, test.images, test.labels)
    summary = json.loads((workdir / "summary.json").read_text())
    assert np.trace(matrix) / matrix.sum() == pytest.approx(summary["test"]["accuracy"])
    assert sum(embedded(text)["calibration"]["counts"]) == len(test.labels)


def test_a_class_may_be_called_anything(workdir):
    text = (workdir / "report.html").read_text()
    page = Page(text)
    assert page.scripts == 2  # the data and the page's own
    assert "<script>alert" not in text
    assert embedded(text)["confusion"]["names"][0] == NASTY
    assert NASTY in "".join(page.texts["td"])


def test_the_page_needs_nothing_else(workdir):
    text = (workdir / "report.html").read_text()
    page = Page(text)
    inside = [address[1:] for address in page.addresses if address.startswith("#")]
    assert not any(re.search(r"\s", name) for name in page.ids)
    assert inside and set(inside) <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    links = re.findall(r"""https?://[^"'\s]+""", text)
    assert set(links) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "@import" not in text


def test_pictures_are_the_raw_images(workdir):
    text = (workdir / "report.html").read_text()
    sheet = pixels(re.search(r"\.random \{ background: url\((.*?)\)", text).group(1))
    some = np.random.default_rng(0).permutation(50)[:48]
    expected = np.concatenate(list(dataset().test.images[some]), axis=1)
    np.testing.assert_array_equal(sheet, expected)
    first = pixels(re.search(r'<img class="pixels" src="(.*?)"', text).group(1))
    assert first.shape == (5 * 9, 12 * 9, 4)  # a line between images, which can be seen through
    tiles = first.reshape(5, 9, 12, 9, 4).swapaxes(1, 2)
    assert (tiles[:, :, :8, :8, 3] == 255).all() and not tiles[:, :, 8].any()
    index = TRAIN[np.linspace(0, len(TRAIN) - 1, 12).astype(int)]
    images = dataset().train.images[index]
    np.testing.assert_array_equal(tiles[0, :, :8, :8, :3], images)
    settings = tiny.config()
    augmented = make_augment(settings.augment, (8, 8, 3))(images, index, settings.seed, 2)
    np.testing.assert_array_equal(tiles[3, :, :8, :8, :3], np.round(augmented))


def test_large_pictures_are_made_smaller(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr("flaxcifar.inference.analysis._LARGEST", 4)
    text = write_report(workdir, tmp_path / "page.html").read_text()
    sheet = pixels(re.search(r"\.random \{ background: url\((.*?)\)", text).group(1))
    assert sheet.shape == (4, 48 * 4, 3)


def test_tensorboard_has_pictures_and_results(workdir):
    found = events.shown(workdir)
    names = {"test/mistakes", "test/any", "train/augmented", "filters", "test/confusion"}
    assert names <= found.keys()
    assert any(tag.startswith("_hparams_") for tag in found)
    (picture,) = found["test/any"]
    pixels = np.asarray(Image.open(io.BytesIO(picture.value[2])))
    some = np.random.default_rng(0).permutation(50)[:48]
    np.testing.assert_array_equal(pixels[8:16, 16:24], dataset().test.images[some[10]])
    summary = json.loads((workdir / "summary.json").read_text())
    (accuracy,) = found["final/accuracy"]
    assert accuracy.value == pytest.approx(summary["test"]["accuracy"])
    assert accuracy.step == summary["steps"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "place", ["outcome.write_json", "report.command.tensorboard.write", "report.command.write_text"]
)
def test_a_run_killed_at_its_end_has_everything_once_in_the_end(
    place, workdir, tmp_path, monkeypatch
):
    run = shutil.copytree(workdir, tmp_path / "run")
    (run / "summary.json").unlink()

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"flaxcifar.{place}", die)
        with pytest.raises(Killed):
            train_and_evaluate(run_config(), run)
    assert not (run / "report.html").exists()
    train_and_evaluate(run_config(), run)
    assert (run / "report.html").exists() and (run / "summary.json").exists()
    found, expected = (
        {t: [e.step for e in s] for t, s in events.shown(w).items()} for w in (run, workdir)
    )
    assert found == expected
    assert all(steps == sorted(set(steps)) for steps in found.values())


def test_what_is_frozen_is_marked(workdir):
    table = (workdir / "report.html").read_text().split("<h2>Model</h2>")[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    frozen = {row[0] for row in rows if row[-1] == "frozen"}
    assert {"stage1/conv", "stage1/norm"} <= frozen
    assert not any(path.startswith(("stage2", "head")) for path in frozen)
    assert "trained" in {row[-1] for row in rows if row[0] == "head"}


def test_an_unfinished_run_has_a_report_without_the_test_split(copy, monkeypatch):
    (copy / "summary.json").unlink()
    (copy / "metrics.jsonl").write_text((copy / "metrics.jsonl").read_text()[:-20])
    text = write_report(copy).read_text()
    assert "not finished" in text and "Epochs so far" in text
    assert len(embedded(text)["runs"][0]["rows"]) == 1
    train = dataset().train
    check_matrix(copy, text, train.images[VALIDATION], train.labels[VALIDATION])
    sheet = pixels(re.search(r"\.random \{ background: url\((.*?)\)", text).group(1))
    shown = {image.tobytes() for image in np.split(sheet, 48, axis=1)}
    assert shown == {image.tobytes() for image in train.images[VALIDATION]}


def test_weights_from_elsewhere_have_a_report(copy, workdir):
    for name in ("summary.json", "config.json", "metrics.jsonl", "timing.jsonl"):
        (copy / name).unlink()
    text, test = write_report(copy).read_text(), dataset().test
    matrix = check_matrix(copy, text, test.images, test.labels)
    accuracy = np.trace(matrix) / matrix.sum()
    assert Page(text).texts["dd"] == [f"{100 * accuracy:.2f} %"]
    assert "not finished" not in text and "<h2>Curves" not in text


def test_numbers_that_are_not_finite_are_left_out(copy):
    rows = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    rows[0]["validation_loss"], rows[1]["validation_loss"] = float("nan"), float("inf")
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = embedded(write_report(copy).read_text())["runs"][0]["rows"]
    assert [row["validation_loss"] for row in shown] == [None, None]
    assert [row["train_loss"] for row in shown] == [row["train_loss"] for row in rows]


def test_figures_of_another_step_say_so(copy, workdir):
    assert "figures here" not in (workdir / "report.html").read_text()
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps(summary | {"evaluated_step": 7}))
    assert "the figures here step 7" in write_report(copy).read_text()


def compared(text):
    differences = text.split("<h2>What differs</h2>")[1]
    return re.findall(r"<code[^>]*>(.*?)</code>", differences)


def test_runs_side_by_side(workdir, copy, tmp_path):
    saved = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(saved | {"batch_size": 8}))
    output = tmp_path / "both.html"
    main(["--compare", str(workdir), str(copy), "--output", str(output)])
    text = output.read_text()
    assert [run["name"] for run in embedded(text)["runs"]] == ["first", "copy"]
    assert compared(text) == ["batch_size", "16", "8"]
    summary = json.loads((workdir / "summary.json").read_text())
    assert text.count(f"{100 * summary['test']['accuracy']:.2f} %") >= 2


def test_runs_of_one_name_are_told_apart(workdir, tmp_path):
    twin = shutil.copytree(workdir, tmp_path / "first")
    output = tmp_path / "both.html"
    main(["--compare", str(workdir), str(twin), "--output", str(output)])
    names = [run["name"] for run in embedded(output.read_text())["runs"]]
    assert names == [str(workdir), str(twin)]


def test_a_failing_report_loses_nothing(tmp_path, monkeypatch, capsys):
    def fail(workdir):
        raise RuntimeError("no room\nfor it")

    monkeypatch.setattr("flaxcifar.report.conclude_report", fail)
    train_and_evaluate(tiny.config(report=True, total_steps=2), tmp_path)
    assert "the report was not written: RuntimeError: no room for it" in capsys.readouterr().out
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir", "/nowhere"], "no workdir of a run"),
        (["--compare", "/nowhere"], "two runs"),
        (["--workdir", "/nowhere", "--output", "/no/where.html"], "no folder /no"),
    ],
)
def test_mistakes_are_one_line(arguments, words):
    with pytest.raises(UserError, match=words):
        main(arguments)


def test_another_dataset_is_refused(workdir, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "load", lambda config: tiny.dataset(seed=9))
    with pytest.raises(UserError, match="is not the one"):
        write_report(workdir, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_defaults_are_told_from_changes(workdir):
    changed = read_run(workdir).changed()
    assert changed["batch_size"] == (128, 16)
    assert "seed" not in changed


def test_the_whole_config_marks_what_was_changed(workdir):
    text = (workdir / "report.html").read_text().split("<summary>All of it</summary>")[1]
    rows = re.findall(r"<tr( class=\"changed\")?><td><code[^>]*>(.*?)</code>", text)
    marked = {key for mark, key in rows if mark}
    assert {"batch_size", "augment", "param_groups"} <= marked
    assert not {"seed", "precision", "early_stopping.mode"} & marked


def test_classes_say_what_they_are_taken_for(workdir):
    text = (workdir / "report.html").read_text()
    matrix = np.array(embedded(text)["confusion"]["matrix"])
    part = text.split("<summary>4 classes</summary>")[1].split("</table>")[0]
    for label, row in enumerate(re.findall(r"<td>([^<]*)</td></tr>", part)):
        named = {int(n): int(c) for n, c in re.findall(r"class (\d) \((\d+)\)", row)}
        for other, count in named.items():
            assert other != label and matrix[label, other] == count
        wrong = matrix[label].sum() - matrix[label, label]
        assert bool(row) == bool(wrong)
