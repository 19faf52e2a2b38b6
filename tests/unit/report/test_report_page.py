"""The report's page: what it shows of a run, and what it says is missing."""

import base64
import gzip
import json
import math
import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from engines import a_volume
from reports import SHAPE, SPACING, configuration, cut_off, drawn, finished_run, report_of, stand_in

from flare23_lib.cache.results import Results
from flare23_lib.colors import label_colors
from flare23_lib.config import Config
from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.io.label_maps import ValueTable
from flare23_lib.io.label_tables import label_table
from flare23_lib.io.nifti import write_volume
from flare23_lib.io.tables import write_csv
from flare23_lib.labels import Label, LabelMap
from flare23_lib.report.cases import (
    ERROR_COLOR,
    CaseVolumes,
    RankedCase,
    choose_slice,
    draw_case,
    overlaid,
    rank_cases,
    read_case,
    spread,
)
from flare23_lib.report.preview import draw_preview
from flare23_lib.report.run import Run, read_markdown
from flare23_lib.report.style import new_figure, shortened
from flare23_lib.report.viewer import averaged, largest_error, thinned_affine, thinning

SECTIONS = [
    "Cohort",
    "Method",
    "Training",
    "Pseudo-labels",
    "Results",
    "Efficiency",
    "Best and worst cases",
    "CT viewer",
    "Provenance",
]


class Page(HTMLParser):
    """What a page holds: text, headings, ids, addresses it would load, and pictures."""

    def __init__(self, text):
        super().__init__()
        self.words, self.headings, self.ids, self.loaded, self.pictures = [], [], [], [], []
        self._open = []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in ("meta", "link", "img", "input"):
            self._open.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.loaded += [values[key] for key in ("src", "srcset", "data") if key in values]
        self.loaded += [values["href"]] if tag == "link" else []
        self.pictures += [values] if tag == "img" else []

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def config():
    return configuration("chain.yaml")


@pytest.fixture(scope="module")
def report(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    results = finished_run(folder, config, validation=6, faults=True)
    return report_of(results, config, stand_in(folder / "niivue"))


def case_scripts(page):
    scripts = sorted((page.parent / "viewer" / "cases").glob("*.js"))
    return [json.loads(path.read_text().removeprefix("showCase(").removesuffix(");\n")) for path in scripts]


def volume(text):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_the_page_has_all_sections_in_order_and_no_id_twice(report):
    page = Page(report.read_text())
    assert page.headings[1:] == SECTIONS
    assert len(page.ids) == len(set(page.ids))


def test_everything_is_in_the_page_or_beside_it(report):
    text = report.read_text()
    for address in Page(text).loaded:
        assert address.startswith("data:") or (report.parent / address).is_file(), address
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", text)


def test_every_picture_is_described(report):
    pictures = Page(report.read_text()).pictures
    assert len(pictures) == 4
    assert all(len(picture["alt"]) > 20 for picture in pictures)


def test_a_figure_states_its_width(config, tmp_path):
    results = finished_run(tmp_path, config, validation=1)
    with new_figure(results.root / "report/figures/cohort.svg", 50, 2):
        pass
    pictures = Page(report_of(results, config).read_text()).pictures
    assert [picture["style"] for picture in pictures if "Categories" in picture["alt"]] == ["--width: 3600pt"]


def test_figures_lie_beside_the_page_as_svg_and_png(report):
    figures = report.parent / "figures"
    for name in ("cases/Case_0", "cases/Case_5"):
        assert (figures / f"{name}.svg").read_text().lstrip().startswith("<?xml")
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not (figures / "cases/Case_2.svg").exists()


def test_quarantined_cases_are_listed_with_what_to_do(report):
    page = Page(report.read_text())
    assert "Quarantine: 1 case with cannot_be_read (1)" in page.text
    assert "ends <early> copy it again" in page.text


def test_what_the_run_has_not_is_said(report):
    text = Page(report.read_text()).text
    assert "No GPU was used" in text
    assert "Inference was not measured: set evaluation.efficiency_cases" in text
    assert "Not completed yet: tumor, all organs, five organs, unlabeled." in text


def test_labels_have_one_color_in_viewer_and_pictures(report, config):
    content = json.loads(re.search(r'id="viewer-content">(.*?)</script>', report.read_text())[1])
    colors = label_colors(config.label_map.names)
    assert [(row["name"], row["color"]) for row in content["labels"]] == [
        (name.replace("_", " "), colors[name]) for name in config.label_map.names
    ]
    picture = (report.parent / "figures/cases/Case_5.svg").read_text()
    for name in ("liver", "tumor"):
        assert colors[name] in picture
    assert ERROR_COLOR in picture


def test_the_viewers_cases_are_listed_from_the_best_to_the_worst(report):
    content = json.loads(re.search(r'id="viewer-content">(.*?)</script>', report.read_text())[1])
    assert [row["name"] for row in content["cases"]] == [case["name"] for case in case_scripts(report)]
    scores = [float(row["score"].removesuffix(" %")) for row in content["cases"]]
    assert scores == sorted(scores, reverse=True)
    assert content["cases"][0] == {"name": "Case_0", "score": "100.00 %", "file": "viewer/cases/000.js"}


def test_a_viewers_case_lies_where_the_ct_lies(report, config):
    case = case_scripts(report)[1]
    reference, image = volume(case["reference"]), volume(case["image"])
    assert np.array_equal(reference.affine, np.diag([*SPACING[::-1], 1]))
    assert set(np.unique(reference.dataobj)) == set(range(len(config.label_map.names) + 1))
    assert image.shape == SHAPE[::-1]
    x, y, z = np.round(np.linalg.inv(reference.affine) @ [*case["error"], 1]).astype(int)[:3]
    assert reference.dataobj[x, y, z] != volume(case["prediction"]).dataobj[x, y, z]
    assert case_scripts(report)[0]["error"] is None


def test_without_the_viewing_library_the_page_says_how_to_get_it(config, tmp_path):
    page = report_of(finished_run(tmp_path, config, validation=1), config)
    assert "`make viewer` fetches it" in Page(page.read_text()).text
    assert not (page.parent / "viewer").exists()


def test_cases_without_a_sound_prediction_are_counted_and_not_drawn(config, tmp_path):
    results = finished_run(tmp_path, config, validation=3)
    path = results.root / "evaluation/student/metrics.csv"
    path.write_text(path.read_text().replace(",ok\n", ",prediction is missing\n", 1))
    page = report_of(results, config, stand_in(tmp_path / "niivue"))
    assert "without a score or a valid prediction (metrics.csv has the reason): 1 case." in page.read_text()
    assert [case["name"] for case in case_scripts(page)] == ["Case_1", "Case_2"]


def test_what_became_of_the_voxels_of_a_completion_is_given_in_percent(config, tmp_path):
    results = finished_run(tmp_path, config, validation=1)
    one = {"case": "A", "agreement": 0.5, "voxels": 100, "background": 60, "kept_liver": 30}
    other = {"case": "B", "agreement": 1.0, "voxels": 100, "background": 40, "kept_liver": 60}
    rows = [{**one, "taken_tumor": 10}, {**other, "taken_tumor": 0}]
    write_csv(results.collected("completed_labels", "tumor"), list(rows[0]), rows)
    text = Page(report_of(results, config).read_text()).text
    assert "tumor 2 75.0 % 90.0 % 0.0 % 10.0 % 0.0 %" in text
    assert "Not completed yet: all organs, five organs, unlabeled." in text


def test_times_of_stages_are_added_up_from_the_benchmark_files(config, tmp_path):
    results = finished_run(tmp_path, config, validation=1)
    folder = results.root / "benchmarks" / "predict" / "student"
    folder.mkdir(parents=True)
    for shard, seconds in (("0-of-1", 30), ("1-of-2", 40)):  # the latter of a number of shards that was once
        (folder / f"{shard}.tsv").write_text(f"s\th:m:s\tmax_rss\n{seconds}\t-\t{seconds * 10}\n")
    for model, end in (("organ_teacher", "\n5"), ("tumor_teacher", ""), ("removed", "")):  # one is cut by a kill
        (folder.parents[1] / "train").mkdir(exist_ok=True)
        (folder.parents[1] / "train" / f"{model}.tsv").write_text(f"s\th:m:s\tmax_rss\n10\t-\t100{end}\n")
    (folder.parents[1] / "train" / "student.tsv").touch()
    text = Page(report_of(results, config).read_text()).text
    assert "predict 1 30 s 300" in text
    assert "train 2 20 s 100" in text


def test_a_single_case_is_enough(config, tmp_path):
    page = report_of(finished_run(tmp_path, config, validation=1), config, stand_in(tmp_path / "niivue"))
    assert len(case_scripts(page)) == 1
    assert "Geometries of 1 image " in Page(page.read_text()).text


def test_geometries_name_the_axes_as_they_are_stored(config, tmp_path):
    results = Results(tmp_path)
    case = Case("a", "a.nii.gz", None, "training", {}, shape=(512, 500, 90), spacing=(0.8, 0.7, 5.0))
    write_cases(results.cases, [case])
    table = Run(results, config).geometries()
    assert table.cells.set_index("")["median"].to_dict() == {
        "voxels along z": "512", "voxels along y": "500", "voxels along x": "90",
        "spacing along z, mm": "0.8", "spacing along y, mm": "0.7", "spacing along x, mm": "5",
    }  # fmt: skip


def test_labels_of_several_sources_are_shown_beside_each_other(config, tmp_path):
    results = finished_run(tmp_path, config, validation=1)
    rows = [
        {"source": source, "label": "liver", "cases": 3, "ml": volume, "hu": 90, "right_mm": 60, "front_mm": 5}
        for source, volume in (("kits", 1501.5), ("lits", 1420.0))
    ]
    write_csv(results.root / "cohort" / "sources.csv", list(rows[0]), rows)
    text = Page(report_of(results, config).read_text()).text
    assert "Labels by source" in text
    assert "liver kits 3 1501.5 90 60 5" in text


def test_a_run_without_validation_labels_says_why_there_are_no_scores(tmp_path):
    config = configuration("chain.yaml", models={"student_2200": None, "student": {"evaluate": False}})
    page = report_of(finished_run(tmp_path, config, labeled=False), config, stand_in(tmp_path / "niivue"))
    assert Page(page.read_text()).text.count("No model of the configuration has `evaluate: true`") == 4


def test_the_mean_of_a_cohort_without_organs_is_named_as_what_it_is(tmp_path):
    model = {"train_on": {"manual_labels": ["all"]}, "evaluate": True, "patch_size": [16, 24, 24],
             "intensity": "measure", "spacing": [14, 12, 12], "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
             "network": {"depth": [1, 1, 1], "widths": [4, 8, 8]}}  # fmt: skip
    values = {"recipe": "none", "cohort": "cohort", "results": "results", "models": {"student": model},
              "labels": [{"name": "lesion", "value": 1, "tolerance_mm": 2, "kind": "tumor"}],
              "sources": {"own": {"images": "i/{case}.nii.gz", "labels": "l/{case}.nii.gz"}},
              "categories": [{"name": "all", "contains_any": ["lesion"]}]}  # fmt: skip
    config = Config.check(values)
    page = report_of(finished_run(tmp_path, config, validation=1), config)
    assert "by the mean DSC of the classes that were scored in the case" in Page(page.read_text()).text


def test_a_cohort_without_validation_cases_says_so(tmp_path):
    config = configuration("chain.yaml", models={"student_2200": None, "student": {"evaluate": False}})
    page = report_of(finished_run(tmp_path, config, validation=0), config)
    assert "The cohort has no validation cases" in Page(page.read_text()).text


@pytest.mark.slow
def test_the_same_run_gives_the_same_page_and_cases_of_before_are_gone(config, tmp_path):
    results = finished_run(tmp_path, config, validation=2)
    viewer = stand_in(tmp_path / "niivue")
    page = report_of(results, config, viewer)
    before = page.read_bytes()
    leftovers = [page.parent / name for name in ("viewer/cases/999.js", "figures/cases/old.svg")]
    for path in leftovers:
        path.write_text("of a run before")
    assert report_of(results, config, viewer).read_bytes() == before
    assert not any(path.exists() for path in leftovers)


@pytest.mark.slow
def test_as_many_cases_are_in_the_viewer_as_configured(tmp_path):
    config = configuration("chain.yaml", report={"viewer_cases": 2})
    page = report_of(finished_run(tmp_path, config, validation=5), config, stand_in(tmp_path / "niivue"))
    assert [case["name"] for case in case_scripts(page)] == ["Case_0", "Case_4"]


@pytest.mark.parametrize(
    ("cases", "most", "chosen"), [(5, 0, ""), (5, 1, "0"), (5, 2, "04"), (5, 3, "024"), (2, 9, "01"), (0, 3, "")]
)
def test_cases_are_spread_over_the_ranks(cases, most, chosen):
    assert spread(list(range(cases)), most) == [int(place) for place in chosen]


def test_a_table_comes_back_from_markdown_with_its_bars_and_empty_cells():
    grid = read_markdown("**A title**\n\n| a | b | c |\n| --- | ---: | ---: |\n| x\\|y |  | 1 |\n\nA note.\n")
    assert (grid.caption, grid.notes) == ("A title", ["A note."])
    assert grid.cells.to_dict("list") == {"a": ["x|y"], "b": [""], "c": ["1"]}


def test_the_chosen_slice_has_the_most_errors_among_those_with_many_classes():
    reference = np.zeros((4, 1, 6), np.uint8)
    reference[1, 0, :5], reference[2, 0, :5] = (1, 2, 3, 4, 5), (1, 2, 3, 4, 5)
    prediction = reference.copy()
    prediction[2, 0, 0] = 2
    prediction[3, 0, :] = 1
    assert choose_slice(reference, prediction) == 2


@pytest.mark.parametrize("letters", [6, 28])
def test_pictures_hold_their_legends_and_titles_whole(tmp_path, monkeypatch, letters):
    names = [f"{f'label_{number}_':x<{letters}}" for number in range(60)]
    volume = a_volume((10, 60, 60), np.diag([-1.0, -1, 6, 1]), dtype=np.int16)
    array = np.broadcast_to(np.arange(1, 61, dtype=np.uint8), volume.array.shape)
    figures, uid = drawn(monkeypatch), "1.3.6.1.4.1.14519.5.2.1.6279.6001.105756658031515062000744821260"
    title = f"{shortened(uid * 3)}: mean DSC 91.22 % (60 classes)"
    draw_case(tmp_path / "case.svg", title, CaseVolumes(volume.array, array, 61 - array, volume.geometry), names)
    for name, shown in (("some", array), ("none", np.zeros_like(array))):
        draw_preview(tmp_path / f"{name}.png", uid * 3, volume, shown, label_table(names, range(1, 61)))
    assert len(figures) == 3
    assert cut_off(figures) == []
    assert all(axes.get_window_extent().height > 100 for figure in figures for axes in figure.axes)
    assert shortened(uid) == uid


def test_labels_are_laid_over_gray_in_their_colors():
    picture = overlaid(np.array([[0.0, 1.0]]), np.array([[1, 0]]), ["#ff7711"])
    assert np.allclose(picture[0, 1], 1)
    assert np.allclose(picture[0, 0], 0.55 * np.array([255, 0x77, 0x11]) / 255)


def test_fine_axes_are_halved_and_large_volumes_thinned_further():
    assert thinning((10, 20, 20), (5.0, 0.8, 0.8)) == [1, 2, 2]
    steps = thinning((1000, 512, 512), (0.5, 0.8, 0.8))
    assert 1000 * 512 * 512 / np.prod(steps) < 6_100_000


def test_an_average_lies_in_the_middle_of_its_voxels():
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    assert np.array_equal(averaged(image, (2, 1, 2))[0, 0], [6.5, 8.5])
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    moved = thinned_affine(affine, (2, 1, 2), (0.5, 0, 0.5))
    assert np.allclose(moved @ [1, 1, 1, 1], affine @ [2.5, 1, 2.5, 1])


def test_the_largest_error_is_found_and_none_where_there_is_none():
    reference, prediction = np.zeros((5, 9, 9), np.uint8), np.zeros((5, 9, 9), np.uint8)
    assert largest_error(reference, prediction) is None
    prediction[0, 0, 0] = 1
    prediction[1:4, 4:7, 5:8] = 2
    assert largest_error(reference, prediction) == (2, 5, 6)


@pytest.mark.parametrize("label", ["l.nii.gz", "{mask}.nii.gz"])
def test_references_are_read_as_their_source_keeps_them(tmp_path, label):
    volume = a_volume((4, 5, 6), dtype=np.int16)
    theirs, ours = np.zeros((2, 4, 5, 6), np.uint8)
    theirs[1], theirs[2], theirs[3] = 2, 3, 255
    ours[1], ours[2] = 3, 2
    write_volume(tmp_path / "i.nii.gz", volume.array, volume.header)
    write_volume(tmp_path / "l.nii.gz", theirs, volume.header)
    for name, value in (("spleen", 3), ("kidney", 2)):
        write_volume(tmp_path / f"{name}.nii.gz", (ours == value).astype(np.uint8), volume.header)
    prediction = ours.copy()
    prediction[3] = 2 if label == "l.nii.gz" else 0
    write_volume(tmp_path / "p.nii.gz", prediction, volume.header)
    table = {"2": 3, "3": 2} if label == "l.nii.gz" else {"spleen": 3, "kidney": 2}
    case = Case(
        "a", str(tmp_path / "i.nii.gz"), str(tmp_path / label), "validation", {}, mapping=ValueTable(table).text
    )  # fmt: skip
    labels = LabelMap((Label("kidney", 2), Label("spleen", 3)))
    volumes = read_case(RankedCase(case, 1.0, tmp_path / "p.nii.gz", labels.names, 2), labels)
    assert np.array_equal(volumes.reference, np.array([0, 0, 1, 2])[ours])
    assert np.array_equal(volumes.prediction, volumes.reference)


def test_pictures_show_what_was_scored_in_the_case(tmp_path):
    volume = a_volume((4, 5, 6), dtype=np.int16)
    reference, prediction = np.zeros((2, 4, 5, 6), np.uint8)
    reference[1] = prediction[1] = prediction[2] = 1
    prediction[3] = 2  # a spleen, which nobody looked for
    for name, array in (("i", volume.array), ("l", reference), ("p", prediction)):
        write_volume(tmp_path / f"{name}.nii.gz", array, volume.header)
    case = Case("a", str(tmp_path / "i.nii.gz"), str(tmp_path / "l.nii.gz"), "validation", {}, annotated=(1,))
    labels = LabelMap((Label("liver", 1), Label("spleen", 2)))
    volumes = read_case(RankedCase(case, 1.0, tmp_path / "p.nii.gz", ("liver",), 1), labels)
    assert [slice_.tolist() for slice_ in (volumes.reference != volumes.prediction).any(axis=(1, 2)).nonzero()] == [
        [2]
    ]


def test_cases_with_tumors_alone_are_ranked_by_them(tmp_path):
    labels = LabelMap((Label("liver", 1), Label("spleen", 2), Label("tumor", 3, kind="tumor")))
    names = ("whole", "liver", "tumor", "lost", "nothing")
    results = Results(tmp_path)
    for name in names:
        (tmp_path / f"{name}.nii.gz").touch()
    write_cases(results.cases, [Case(name, f"{name}.nii.gz", None, "validation", {}) for name in names])
    nothing = math.nan
    scores = [[0.9, 0.5, 0.3], [0.8, nothing, nothing], [nothing, nothing, 0.6], [0, 0, 0], [nothing] * 3]
    metrics = pd.DataFrame(scores, columns=[f"{name}_DSC" for name in labels.names])
    metrics = metrics.assign(Name=names, status=["ok", "ok", "ok", "no prediction", "ok"])
    predictions = pd.DataFrame({"case": names, "file": [f"{name}.nii.gz" for name in names]})
    ranked = rank_cases(results, metrics, predictions, labels)
    assert [(case.name, case.score, case.averaged) for case in ranked] == [
        ("liver", 0.8, 1), ("whole", 0.7, 2), ("tumor", 0.6, 1),
    ]  # fmt: skip
    assert ranked[1].scored == ("liver", "spleen", "tumor")
