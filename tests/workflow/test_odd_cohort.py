"""Odd names in odd folders, and volumes of one slice or column, through the whole chain."""

import html
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import CHAIN, run_snakemake

from flare23_lib.dataset.cases import read_cases
from flare23_lib.io.atomic import read_json
from flare23_lib.io.images import read_header
from flare23_lib.io.nifti import header_for, read_labels, read_volume, write_volume
from flare23_lib.io.tables import read_csv
from flare23_lib.phantom import PhantomLayout, write_cohort

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a chain of its own

NAMES = {
    "FLARE23_0001": 'O\'Neil "x" [2]*?',
    "FLARE23_0002": "50%_{y} #3",
    "FLARE23_0003": "-n --forceall",
    "FLARE23_0004": "a,b;c&d|e",
    "FLARE23_2201": "$PATH `id`",
    "FLARE23_2202": "Ångström.ø 2.0",
    "FLARE23Ts_0001": "<i>val<i> #1?x=1&y",
    "FLARE23Ts_0003": "back\\slash 'v' NA",
}
THIN = {"FLARE23_0002": "slice", "FLARE23_2201": "two slices", "FLARE23_2202": "column", "FLARE23Ts_0001": "slice"}


def thinned(path: Path, kind: str, place: int) -> None:
    """Keep one slice, two, or one column of a file."""
    volume = read_volume(path)
    kept = {"slice": np.s_[place : place + 1], "two slices": np.s_[place : place + 2], "column": np.s_[:, :, 20:21]}
    array = np.ascontiguousarray(volume.array[kept[kind]])
    if path.parent.name in ("labelsTr2200", "validation-gt"):
        array = array.astype(np.uint8)
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ([20, 0, 0] if kind == "column" else [0, 0, place])
    write_volume(path, array, header_for(array.shape, affine, array.dtype))


def richest_slice(cohort: Path, case: str) -> int:
    """The slice of a case that has the most labels; 5 for one without."""
    for path in (cohort / "labelsTr2200" / f"{case}.nii.gz", cohort / "validation-gt" / f"{case}.nii.gz"):
        if path.exists():
            counts = [len(np.unique(section)) for section in read_labels(path).array]
            return counts.index(max(counts))
    return 5


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd") / "My Project (ü) #1"
    cohort = folder / "co hort"
    write_cohort(cohort, cases=6, validation=2, seed=1, layout=PhantomLayout(coarseness=2.0))
    shutil.rmtree(cohort / "truth")
    places = {case: richest_slice(cohort, case) for case in THIN}
    for path in sorted(cohort.rglob("*.nii.gz")):
        case = path.name.removesuffix(".nii.gz").removesuffix("_0000")
        if case in THIN:
            thinned(path, THIN[case], places[case])
        path.rename(path.with_name(path.name.replace(case, NAMES[case])))
    config = folder / "ti ny.yaml"
    changes = yaml.safe_load(CHAIN.read_text()) | {"cohort": "co hort", "results": "re sults"}
    config.write_text(yaml.safe_dump(changes))
    done = run_snakemake(folder, configfile=config)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    again = run_snakemake(folder, "--dry-run", configfile=config)
    assert "Nothing to be done" in again.stdout + again.stderr
    return folder


def test_every_label_has_its_cases_name_and_lies_on_its_image(finished):
    results = finished / "re sults"
    cases = {case.case: case for case in read_cases(results / "cohort/cases.csv")}
    assert set(cases) == set(NAMES.values())
    assert all(case.usable for case in cases.values())
    labels = [*results.glob("completed_labels/*/*.nii.gz"), *results.glob("predictions/student/*.nii.gz")]
    assert sorted(path.name.removesuffix(".nii.gz") for path in labels) == sorted(NAMES.values())
    for path in labels:
        image, _ = read_header(finished / cases[path.name.removesuffix(".nii.gz")].image)
        label, _ = read_header(path)
        assert label.shape == image.shape
        assert np.allclose(label.affine, image.affine)


def test_thin_volumes_are_learned_from_completed_and_scored(finished):
    results = finished / "re sults"
    shapes = {case.case: case.shape for case in read_cases(results / "cohort/cases.csv")}
    assert shapes[NAMES["FLARE23_0002"]][0] == shapes[NAMES["FLARE23Ts_0001"]][0] == 1
    assert shapes[NAMES["FLARE23_2201"]][0] == 2
    assert shapes[NAMES["FLARE23_2202"]][2] == 1
    completed = [path for path in results.glob("completed_labels/*/*.nii.gz") if path.name.startswith("50%_{y} #3.")]
    assert [read_labels(path).array.any() for path in completed] == [True]
    scores = {row["Name"]: row for row in read_csv(results / "evaluation/student/metrics.csv")}
    assert {row["status"] for row in scores.values()} == {"ok"}
    assert all(0 <= float(row["liver_DSC"]) <= 1 for row in scores.values())
    for path in results.glob("training/*/training.csv"):
        assert "nan" not in path.read_text()
    assert read_json(results / "training/student/training.json")["cases"] == 6


def test_the_page_shows_names_and_runs_nothing_of_them(finished):
    page = (finished / "re sults/report/index.html").read_text(encoding="utf-8")
    name = NAMES["FLARE23Ts_0001"]
    assert html.escape(name) in page or html.escape(name, quote=False) in page
    assert name not in re.sub(r"(?s)<script.*?</script>", "", page)
