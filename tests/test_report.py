"""The report holds what the run did, whatever its classes are called."""

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny
from PIL import Image

from flaxcifar import data
from flaxcifar.errors import UserError
from flaxcifar.predict import Predictor
from flaxcifar.report import write_report
from flaxcifar.report.command import main
from flaxcifar.report.files import read_run
from flaxcifar.train import train_and_evaluate

NASTY = "</script><script>alert('&')</script>"


def dataset():
    found = tiny.dataset()
    return dataclasses.replace(found, class_names=(NASTY, *found.class_names[1:]))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a run of two epochs that has written its report."""
    workdir = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda config: dataset())
        changes = {"report": True, "param_groups": (("stage1", "frozen"),)}
        train_and_evaluate(tiny.config(**changes), workdir)
    return workdir


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
    monkeypatch.setattr(data, "load", lambda config: dataset())


class Page(HTMLParser):
    """Collects the text by tag, and every address."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.addresses, self.open, self.scripts = {}, [], [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.scripts += tag == "script"
        self.addresses += [value for key, value in attributes if key in ("src", "href")]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, text):
        for tag in self.open[-1:]:
            self.texts.setdefault(tag, []).append(text)


def embedded(text):
    found = re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1)
    return json.loads(found)


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
    found = embedded((workdir / "report.html").read_text())
    test = dataset().test
    predictions = Predictor.from_workdir(str(workdir))(test.images).argmax(1)
    matrix = np.array(found["confusion"]["matrix"])
    for label, row in enumerate(matrix):
        for prediction, count in enumerate(row):
            assert count == np.sum((test.labels == label) & (predictions == prediction))
    summary = json.loads((workdir / "summary.json").read_text())
    assert np.trace(matrix) / matrix.sum() == pytest.approx(summary["test"]["accuracy"])
    assert sum(found["calibration"]["counts"]) == len(test.labels)


def test_a_class_may_be_called_anything(workdir):
    text = (workdir / "report.html").read_text()
    page = Page(text)
    assert page.scripts == 2  # the data and the page's own
    assert "<script>alert" not in text
    assert embedded(text)["confusion"]["names"][0] == NASTY
    assert NASTY in "".join(page.texts["td"])


def test_the_page_needs_nothing_else(workdir):
    text = (workdir / "report.html").read_text()
    assert all(address.startswith("data:") for address in Page(text).addresses)
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
    assert first.shape == (5 * 8, 12 * 8, 3)  # the image and four epochs of it
    train = dataset().train.images
    np.testing.assert_array_equal(first[:8, :8], train[0])


def test_tensorboard_has_pictures_and_results(workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir / "tensorboard"), {"images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    names = {"test/mistakes", "test/any", "train/augmented", "filters", "test/confusion"}
    assert set(tags["images"]) == names
    assert any(tag.startswith("_hparams_") for tag in events.summary_metadata)
    picture = events.Images("test/any")[0]
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
    some = np.random.default_rng(0).permutation(50)[:48]
    np.testing.assert_array_equal(pixels[8:16, 16:24], dataset().test.images[some[10]])
    summary = json.loads((workdir / "summary.json").read_text())
    (found,) = events.Scalars("final/accuracy")
    assert found.value == pytest.approx(summary["test"]["accuracy"])
    for tag in tags["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag


def test_what_is_frozen_is_marked(workdir):
    table = (workdir / "report.html").read_text().split("<h2>Model</h2>")[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    frozen = {row[0] for row in rows if row[-1] == "frozen"}
    assert {"stage1/conv", "stage1/norm"} <= frozen
    assert not any(path.startswith(("stage2", "head")) for path in frozen)


def test_an_unfinished_run_has_a_report(workdir, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    (copy / "summary.json").unlink()
    (copy / "metrics.jsonl").write_text((copy / "metrics.jsonl").read_text()[:-20])
    text = write_report(copy, tmp_path / "page.html").read_text()
    assert "not finished" in text and "Epochs so far" in text
    assert len(embedded(text)["runs"][0]["rows"]) == 1


def test_runs_side_by_side(workdir, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    train_and_evaluate(tiny.config(batch_size=8, total_epochs=1), other)
    assert not (other / "report.html").exists()
    output = tmp_path / "both.html"
    main(["--compare", str(workdir), str(other), "--output", str(output)])
    text = output.read_text()
    assert [run["name"] for run in embedded(text)["runs"]] == ["first", "other"]
    differences = text.split("<h2>What differs</h2>")[1]
    cells = re.findall(r"<code>(.*?)</code>", differences)
    assert cells[cells.index("batch_size") :][:3] == ["batch_size", "16", "8"]
    assert "model.name" not in cells


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
