"""The report shows what the run did, whatever its classes are called."""

import dataclasses
import io
import json
import os
import re
import shutil

import events
import numpy as np
import pytest
import quick
import tiny
from pages import Page, pixels
from PIL import Image
from tensorboardX import SummaryWriter

from flaxcifar.api import train
from flaxcifar.cli.report import main
from flaxcifar.data.augment import make_augment
from flaxcifar.data.source import Source
from flaxcifar.data.sources import SOURCES
from flaxcifar.data.split import split_validation
from flaxcifar.errors import UserError
from flaxcifar.inference.analysis import read_details
from flaxcifar.inference.trained import Trained
from flaxcifar.report import write_comparison, write_report
from flaxcifar.report.one_run import run_page
from flaxcifar.report.run_files import read_run

NASTY = "</script><script>alert('&')</script>"
# How Python reads the name of a folder that is not valid UTF-8.
NO_TEXT = "caf\udce9"
TRAIN, VALIDATION = split_validation(tiny.dataset().train.labels, 25.0, seed=0)
TEST = tiny.dataset().test


@SOURCES.register
def odd_names(directory: str, image_size: int) -> Source:
    """tiny's images; the names of two classes need care in HTML."""
    squares = SOURCES.get("squares")(directory, image_size)

    def decode(empty):
        found = squares.decode(empty)
        return dataclasses.replace(found, class_names=(NASTY, NO_TEXT, *found.class_names[2:]))

    return dataclasses.replace(squares, name="odd_names", recipe="odd_names", decode=decode)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def config(data_dir):
    return quick.config(
        **{
            "report": True,
            "data.name": "odd_names",
            "data.dir": tiny.write(data_dir),
            "augment": (dict(name="pad_crop", padding=1),),
            "param_groups": (("stage1", "frozen"), ("head", 0.5)),
        }
    )


@pytest.fixture(scope="session")
def workdir(config, tmp_path_factory):
    """The workdir of a finished run of two epochs."""
    workdir = tmp_path_factory.mktemp("runs") / "first"
    train(config, workdir)
    return workdir


@pytest.fixture(scope="session")
def page(workdir):
    return page_of(workdir)


@pytest.fixture
def clone(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "clone")


def page_of(workdir):
    return Page((workdir / "report.html").read_text())


def summary_of(workdir):
    return json.loads((workdir / "summary.json").read_text())


def check_matrix(page, workdir, images, labels):
    matrix = np.array(page.data()["confusion"]["matrix"])
    predictions = Trained.from_workdir(workdir).predict_proba(images).argmax(1)
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (labels, predictions), 1)
    np.testing.assert_array_equal(matrix, expected)
    return matrix


def test_confusion_and_calibration_are_those_of_the_test_split(page, workdir):
    matrix = check_matrix(page, workdir, TEST.images, TEST.labels)
    accuracy = summary_of(workdir)["test"]["accuracy"]
    assert np.trace(matrix) / matrix.sum() == pytest.approx(accuracy)
    assert sum(page.data()["calibration"]["counts"]) == len(TEST)
    assert f"{100 * accuracy:.2f} %" in [box.text for box in page.all("dd")]


def test_a_class_may_be_called_anything(page):
    assert len(list(page.all("script"))) == 2  # the data and report.js
    assert page.data()["confusion"]["names"][:2] == [NASTY, NO_TEXT]
    names = [row[0] for row in page.section("classes").one("details").one("table").rows()]
    assert names[:2] == [NASTY, "caf?"]


def test_the_page_needs_nothing_else(page, workdir):
    elements = list(page.all())
    ids = [element.attributes["id"] for element in elements if "id" in element.attributes]
    addresses = [
        value for e in elements for key, value in e.attributes.items() if key in ("src", "href")
    ]
    inside = {address[1:] for address in addresses if address.startswith("#")}
    assert inside and inside <= set(ids) and len(ids) == len(set(ids))
    assert not any(re.search(r"\s", name) for name in ids)
    assert all(address.startswith(("data:", "#")) for address in addresses)
    text = (workdir / "report.html").read_text()
    links = re.findall(r"""https?://[^"'\s]+""", text)
    assert set(links) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "@import" not in text


def test_report_js_finds_its_elements(page):
    """No browser runs here: the ids and attributes that the script asks for must exist."""
    script = list(page.all("script"))[-1].text
    for name in re.findall(r'getElementById\("([\w-]+)"\)', script):
        assert page.one(id=name)
    figures = list(page.section("curves").all("figure"))
    keys = {key for figure in figures for key in figure.attributes["data-curve"].split()}
    (run,) = page.data()["runs"]
    assert keys <= run["rows"][0].keys() and "images_per_second" in keys
    assert {figure.attributes["data-unit"] for figure in figures} == {"", "percent", "rate"}
    options = [option.attributes["value"] for option in page.all("option")]
    assert options == list(page.data()["confusion"]["order"])


def test_a_sortable_table_has_the_numbers_it_shows(page):
    table = page.section("classes").one("details").one("table", **{"class": "sortable"})
    headings = [heading.one("button").text for heading in table.all("th")]
    place = headings.index("accuracy")
    for row in table.one("tbody").all("tr"):
        cell = list(row.all("td"))[place]
        assert cell.text == f"{100 * float(cell.attributes['data-value']):.2f} %"


def test_superclasses_add_up_to_the_summary(page, workdir):
    rows = list(page.section("classes").one("table").one("tbody").all("tr"))
    cells = [[float(c.attributes["data-value"]) for c in list(row.all("td"))[1:]] for row in rows]
    images, by_class, by_superclass = np.array(cells).T
    test = summary_of(workdir)["test"]
    assert images.sum() == len(TEST)
    assert np.average(by_class, weights=images) == pytest.approx(test["accuracy"], abs=1e-5)
    coarse = np.average(by_superclass, weights=images)
    assert coarse == pytest.approx(test["coarse_accuracy"], abs=1e-5)


def test_the_most_frequent_confusions_are_listed(page):
    data = page.data()["confusion"]
    names = [name.replace(NO_TEXT, "caf?") for name in data["names"]]
    wrong = {
        (names[label], names[prediction], count)
        for (label, prediction), count in np.ndenumerate(np.array(data["matrix"]))
        if label != prediction and count
    }
    rows = page.section("confusion").one("table").rows()
    assert {(row[0], row[1], int(row[2])) for row in rows} == wrong
    counts = [int(row[2]) for row in rows]
    assert counts == sorted(counts, reverse=True)


def test_pictures_are_the_raw_images(page, config):
    some = np.random.default_rng(0).permutation(50)[:48]
    expected = np.concatenate(list(TEST.images[some]), axis=1)
    np.testing.assert_array_equal(page.film("random"), expected)
    first = pixels(page.one("img", **{"class": "pixels"}).attributes["src"])
    assert first.shape == (5 * 9, 12 * 9, 4)  # a transparent line between images
    tiles = first.reshape(5, 9, 12, 9, 4).swapaxes(1, 2)
    assert (tiles[:, :, :8, :8, 3] == 255).all() and not tiles[:, :, 8].any()
    index = TRAIN[np.linspace(0, len(TRAIN) - 1, 12).astype(int)]
    images = tiny.dataset().train.images[index]
    np.testing.assert_array_equal(tiles[0, :, :8, :8, :3], images)
    augmented = make_augment(config.augment, (8, 8, 3))(images, index, config.seed, 2)
    np.testing.assert_array_equal(tiles[3, :, :8, :8, :3], np.round(augmented))


def test_tensorboard_has_pictures_and_results(workdir):
    found = events.shown(workdir)
    names = {"test/mistakes", "test/any", "train/augmented", "filters", "test/confusion"}
    assert names <= found.keys()
    assert any(tag.startswith("_hparams_") for tag in found)
    (picture,) = found["test/any"]
    image = np.asarray(Image.open(io.BytesIO(picture.value[2])))
    some = np.random.default_rng(0).permutation(50)[:48]
    np.testing.assert_array_equal(image[8:16, 16:24], TEST.images[some[10]])
    summary = summary_of(workdir)
    (accuracy,) = found["final/accuracy"]
    assert accuracy.value == pytest.approx(summary["test"]["accuracy"])
    assert accuracy.step == summary["steps"]


class Killed(BaseException):
    pass


def die_at(place, patch):
    """Raises Killed before a file gets its name, or before TensorBoard gets an image."""
    replace = os.replace

    def die(*_, **__):
        raise Killed

    def replace_or_die(source, target, **options):
        if os.path.basename(target) == place:
            die()
        replace(source, target, **options)

    if place == "add_image":
        patch.setattr(SummaryWriter, place, die)
    else:
        patch.setattr(os, "replace", replace_or_die)


@pytest.mark.parametrize("place", ["summary.json", "add_image", "report.html"])
def test_a_run_killed_at_its_end_has_everything_once_in_the_end(
    place, workdir, config, tmp_path, monkeypatch
):
    run = shutil.copytree(workdir, tmp_path / "run")
    (run / "summary.json").unlink()
    with monkeypatch.context() as patch:
        die_at(place, patch)
        with pytest.raises(Killed):
            train(config, run)
    assert not (run / "report.html").exists()
    train(config, run)
    assert (run / "report.html").exists() and (run / "summary.json").exists()
    found, expected = (
        {t: [e.step for e in s] for t, s in events.shown(w).items()} for w in (run, workdir)
    )
    assert found == expected
    assert all(steps == sorted(set(steps)) for steps in found.values())


def test_a_failing_report_loses_nothing(config, clone, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("no room\nfor it")

    (clone / "summary.json").unlink()
    monkeypatch.setattr(SummaryWriter, "add_image", fail)
    train(config, clone)
    assert "the report was not written: RuntimeError: no room for it" in capsys.readouterr().out
    assert (clone / "summary.json").exists() and not (clone / "report.html").exists()


def test_without_superclasses_the_table_of_classes_is_not_folded(workdir):
    details = read_details(workdir)
    plain = dataclasses.replace(details.dataset, superclass_of=None, superclass_names=())
    page = Page(run_page(read_run(workdir), dataclasses.replace(details, dataset=plain)))
    classes = page.section("classes")
    assert not list(classes.all("details")) and len(classes.one("table").rows()[0]) == 4
    assert list(page.data()["confusion"]["order"]) == ["label", "accuracy"]


def test_frozen_layers_are_marked(page):
    states = {row[0]: row[-1] for row in page.section("model").one("table").rows()}
    frozen = {path for path, state in states.items() if state == "frozen"}
    assert {"stage1/conv", "stage1/norm"} <= frozen
    assert not any(path.startswith(("stage2", "head")) for path in frozen)
    assert states["head"] == "trained at 0.5 x the rate"


def test_a_run_in_progress_has_a_report_without_the_test_split(clone):
    (clone / "summary.json").unlink()
    (clone / "metrics.jsonl").write_text((clone / "metrics.jsonl").read_text()[:-20])
    page = Page(write_report(clone).read_text())
    assert "in progress" in page.one("p", **{"class": "subtitle"}).text
    assert "Epochs so far" in [name.text for name in page.all("dt")]
    assert "Not recorded" in page.section("environment").text
    assert len(page.data()["runs"][0]["rows"]) == 1
    data = tiny.dataset().train
    check_matrix(page, clone, data.images[VALIDATION], data.labels[VALIDATION])
    shown = {image.tobytes() for image in np.split(page.film("random"), 48, axis=1)}
    assert shown == {image.tobytes() for image in data.images[VALIDATION]}


def test_imported_weights_have_a_report(clone):
    for name in ("summary.json", "config.json", "metrics.jsonl", "timing.jsonl"):
        (clone / name).unlink()
    page = Page(write_report(clone).read_text())
    matrix = check_matrix(page, clone, TEST.images, TEST.labels)
    accuracy = np.trace(matrix) / matrix.sum()
    assert [box.text for box in page.all("dd")] == [f"{100 * accuracy:.2f} %"]
    assert "in progress" not in page.one("p", **{"class": "subtitle"}).text
    assert "curves" not in [section.attributes["id"] for section in page.all("section")]


def test_numbers_that_are_not_finite_are_left_out(clone):
    rows = [json.loads(line) for line in (clone / "metrics.jsonl").read_text().splitlines()]
    rows[0]["validation_loss"], rows[1]["validation_loss"] = float("nan"), float("inf")
    (clone / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = Page(write_report(clone).read_text()).data()["runs"][0]["rows"]
    assert [row["validation_loss"] for row in shown] == [None, None]
    assert [row["train_loss"] for row in shown] == [row["train_loss"] for row in rows]


def test_figures_of_another_step_say_so(page, clone):
    assert "figures here" not in page.one("p", **{"class": "subtitle"}).text
    summary = summary_of(clone)
    (clone / "summary.json").write_text(json.dumps(summary | {"evaluated_step": 7}))
    changed = Page(write_report(clone).read_text())
    assert "figures here are from step 7." in changed.one("p", **{"class": "subtitle"}).text


def test_runs_side_by_side(workdir, clone, tmp_path):
    saved = json.loads((clone / "config.json").read_text())
    (clone / "config.json").write_text(json.dumps(saved | {"batch_size": 8}))
    (clone / "summary.json").unlink()
    output = tmp_path / "both.html"
    main(["--compare", str(workdir), str(clone), "--output", str(output)])
    page = Page(output.read_text())
    assert [run["name"] for run in page.data()["runs"]] == ["first", "clone"]
    assert page.section("differences").one("table").rows() == [["batch_size", "16", "8"]]
    table = page.section("results").one("table")
    headings = [heading.text for heading in table.all("th")]
    first, second = (dict(zip(headings, row, strict=True)) for row in table.rows())
    assert first["Test accuracy"] == f"{100 * summary_of(workdir)['test']['accuracy']:.2f} %"
    assert (second["Test accuracy"], second["Epochs so far"]) == ("", "2")


def test_runs_of_one_name_are_told_apart(workdir, tmp_path):
    twin = shutil.copytree(workdir, tmp_path / "first")
    page = Page(write_comparison([workdir, twin], tmp_path / "both.html").read_text())
    assert [run["name"] for run in page.data()["runs"]] == [str(workdir), str(twin)]
    assert "identical" in page.section("differences").text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir", "/nowhere"], "not the workdir of a run"),
        (["--compare", "/nowhere"], "two runs"),
        (["--workdir", "/nowhere", "--output", "/no/where.html"], "no folder /no"),
    ],
)
def test_mistakes_are_one_line(arguments, words):
    with pytest.raises(UserError, match=words):
        main(arguments)


def test_another_dataset_is_refused(workdir, data_dir, tmp_path):
    tiny.write(data_dir, seed=9)
    try:
        with pytest.raises(UserError, match="is not the one"):
            write_report(workdir, tmp_path / "page.html")
    finally:
        tiny.write(data_dir)
    assert not (tmp_path / "page.html").exists()


def test_defaults_are_told_from_changes(workdir):
    changed = read_run(workdir).changed()
    assert changed["batch_size"] == (128, 16)
    assert "seed" not in changed


def test_the_whole_config_marks_what_was_changed(page):
    table = page.section("config").one("details").one("table")
    marked = {
        row.one("code").text
        for row in table.one("tbody").all("tr")
        if row.attributes.get("class") == "changed"
    }
    assert {"batch_size", "augment", "param_groups"} <= marked
    assert not {"seed", "precision", "early_stopping.mode"} & marked


def test_classes_list_their_most_frequent_mistakes(page):
    matrix = np.array(page.data()["confusion"]["matrix"])
    table = page.section("classes").one("details").one("table")
    for label, row in enumerate(table.rows()):
        named = re.findall(r"class (\d) \((\d+)\)", row[-1])
        for other, count in named:
            assert int(other) != label and matrix[label, int(other)] == int(count)
        wrong = matrix[label].sum() - matrix[label, label]
        assert bool(row[-1]) == bool(wrong)
