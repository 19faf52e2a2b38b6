"""The stages that score predictions and set the scores out, on a run made by hand."""

import pytest
from cohorts import changed
from faults import flip
from reports import configuration, finished_run

from flare23_lib.errors import CohortError, ImageError, StoreError
from flare23_lib.evaluation.details import detail_tables
from flare23_lib.evaluation.evaluate import evaluate
from flare23_lib.evaluation.paper_tables import write_tables
from flare23_lib.io.atomic import read_json, write_json, write_text
from flare23_lib.io.tables import read_csv


@pytest.fixture
def run(tmp_path):
    config = configuration("chain.yaml")
    return finished_run(tmp_path, config), config


def scored(results, config, **changes):
    own = results.root / "evaluation" / "student"
    settings = changed(config.evaluation_settings(), **changes)
    evaluate(results, "student", settings, own)
    return own


def test_another_dsc_limit_of_the_nsd_is_another_setting_and_other_scores(run):
    """Case_1's boxes are moved by half their width: a DSC of 0.5."""
    results, config = run
    row = read_csv(scored(results, config) / "metrics.csv")[1]
    assert row["liver_DSC"] == "0.5"
    assert float(row["liver_NSD"]) > 0
    other = configuration("chain.yaml", evaluation={"compare": [], "min_dsc_for_nsd": 0.6})
    assert other.evaluation_settings() != config.evaluation_settings()
    assert read_csv(scored(results, other) / "metrics.csv")[1]["liver_NSD"] == "0.0"


def test_the_tables_of_tumors_are_there_for_a_model_that_never_saw_one(run):
    """The workflow expects them before it knows what the model has seen."""
    results, config = run
    record = results.training("student")
    write_json(record, read_json(record) | {"labels_unseen": ["tumor"]})
    own = scored(results, config, details=True)
    assert set(detail_tables(config.label_map)) == {"distances.csv", "tumors.csv", "detection.csv"}
    assert read_csv(own / "distances.csv")
    assert read_csv(own / "tumors.csv") == read_csv(own / "detection.csv") == []


@pytest.mark.parametrize("fault", ["gone", "cut"])
def test_a_prediction_that_got_lost_is_not_scored_as_zero(run, fault):
    results, config = run
    file = results.file(read_csv(results.collected("predictions", "student"))[0]["file"])
    if fault == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(StoreError, match="is missing or damaged; run `flare23 verify`"):
        scored(results, config)


@pytest.mark.parametrize("place", [1, 40, -30])
def test_a_prediction_with_a_flipped_bit_is_not_scored(run, place):
    results, config = run
    before = (results.root / "evaluation" / "student" / "metrics.csv").read_bytes()
    file = results.file(read_csv(results.collected("predictions", "student"))[0]["file"])
    flip(file, place, 4)
    with pytest.raises(StoreError, match=f"{file.name}: .* run `flare23 verify --deep`"):
        scored(results, config)
    assert (results.root / "evaluation" / "student" / "metrics.csv").read_bytes() == before


def test_a_prediction_that_no_record_has_is_named(run):
    results, config = run
    table = results.collected("predictions", "student")
    write_text(table, "".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(StoreError, match="Case_2 is not in"):
        scored(results, config)


@pytest.mark.parametrize("fault", ["gone", "replaced"])
def test_a_reference_that_the_scan_did_not_see_ends_the_evaluation(run, fault, tmp_path):
    results, config = run
    metrics = results.root / "evaluation" / "student" / "metrics.csv"
    before, label = metrics.read_bytes(), tmp_path / "Case_1_label.nii.gz"
    if fault == "gone":
        label.unlink()
    else:
        label.write_bytes(label.with_name("Case_1_image.nii.gz").read_bytes())
    with pytest.raises((ImageError, CohortError), match=r"Case_1_label.nii.gz: (cannot be read|has changed since)"):
        scored(results, config)
    assert metrics.read_bytes() == before


def test_tables_of_earlier_scores_do_not_stay_beside_new_ones(run):
    results, config = run
    own = scored(results, config, details=True)
    assert (own / "tumors.csv").exists()
    scored(results, config, details=False)
    assert {path.name for path in own.iterdir()} == {"metrics.csv", "summary.csv"}
    folder = results.root / "evaluation" / "tables"
    for name in ("table8.csv", "table8.tex", "tables.md", "table6_for_the_paper.docx", "table7.ods"):
        write_text(folder / name, "of other predictions, or a user's own")
    write_tables(results, changed(config.tables_settings(), measured=False), folder)
    made = {f"{name}.{suffix}" for name in ("table6", "table9") for suffix in ("csv", "md", "tex")}
    own = {"tables.md", "table6_for_the_paper.docx", "table7.ods"}
    assert {path.name for path in folder.iterdir()} == made | own
