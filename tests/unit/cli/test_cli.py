import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from conftest import ENVIRONMENT, flare23
from places import BASE_CONFIG, RECIPE, REPOSITORY

from flare23_lib import cli
from flare23_lib.cli.common import load_config
from flare23_lib.config import Config
from flare23_lib.config.cohort_models import Source
from flare23_lib.dataset.cases import read_cases
from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation import cases as scoring
from flare23_lib.evaluation.evaluate import evaluate_folders
from flare23_lib.io import nifti
from flare23_lib.io.tables import read_csv


def write(path, array):
    nifti.write_volume(path, array, nifti.header_for(array.shape, np.diag([-2.0, -2, 5, 1]), array.dtype))


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for case in ("one", "two"):
        write(tmp_path / "images" / f"{case}_0000.nii.gz", rng.integers(-1000, 500, (3, 4, 5)).astype(np.int16))
        label = np.zeros((3, 4, 5), np.uint8)
        label[0, 0, :2] = (1, 14) if case == "one" else (2, 3)
        write(tmp_path / "labels" / f"{case}.nii.gz", label)
    return tmp_path


def test_categorise_works_outside_the_workflow(folders):
    write(folders / "more/three_0000.nii.gz", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    done = flare23(
        folders, "categorise", "--images", "images", "--labels", "labels", "--unlabeled", "more", "--output", "out",
        *BASE_CONFIG, "--processes", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tumor                      1" in done.stdout
    assert "unlabeled                  1" in done.stdout
    assert {path.name for path in (folders / "out").glob("*.csv")} == {
        "cases.csv",
        "quarantine.csv",
        "warnings.csv",
        "categories.csv",
    }


def test_categorise_reads_the_numbers_of_a_source(folders):
    (folders / "mine.yaml").write_text(
        'sources: {other: {images: "x/{case}_0000.nii.gz", labels: "x/{case}.nii.gz",'
        " values: {1: spleen, 2: liver, 3: liver, 14: tumor}}}\n"
        "model_defaults: {training: {loss: label_sets}}\n"
    )
    command = [
        "categorise", "--images", "images", "--labels", "labels", "--output", "out", "--processes", "1",
        *BASE_CONFIG, "--configfile", "mine.yaml", "--source",
    ]  # fmt: skip
    done = flare23(folders, *command, "other")
    assert done.returncode == 0, done.stderr
    cases = {case.case: case for case in read_cases(folders / "out/cases.csv")}
    assert {name: case.labels_present for name, case in cases.items()} == {"other_one": [3, 14], "other_two": [1]}
    refused = flare23(folders, *command, "lost")
    assert refused.returncode == 2
    assert "flare23: --source: there is no source 'lost'; there are flare23, other" in refused.stderr


def test_evaluate_scores_two_folders(folders):
    done = flare23(
        folders, "evaluate", "--predictions", "labels", "--references", "labels", "--output", "out",
        *BASE_CONFIG, "--processes", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header = (folders / "out/metrics.csv").read_text().splitlines()[0].split(",")
    assert header[:2] == ["Name", "liver_DSC"]
    assert (folders / "out/summary.csv").exists()


@pytest.mark.parametrize("prefix", ["d_", ""])
@pytest.mark.parametrize("masks", [False, True])
def test_evaluate_reads_references_as_a_source_keeps_them(folders, prefix, masks):
    """Predictions are right in our numbers; the source's are others, and it did not look for the tumor."""
    (folders / "more").mkdir()
    for case in ("one", "two"):
        label = nifti.read_labels(folders / "labels" / f"{case}.nii.gz").array
        write(folders / "predictions" / f"{prefix}{case}.nii.gz", label)
        for name, number in (("liver", 1), ("right_kidney", 2), ("spleen", 3)):
            write(folders / "masks" / case / f"{name}.nii.gz", (label == number).astype(np.uint8))
        theirs = np.array([0, 30, 20, 10, 0], np.uint8)[label.clip(0, 4)]
        write(folders / "refs" / f"{case}_seg.nii.gz", theirs)
    names = {10: "spleen", 20: "right_kidney", 30: "liver"}
    source = {"labels": "D/{case}_seg.nii.gz", "values": names}
    if masks:
        source = {"masks": "D/{case}/{mask}.nii.gz", "values": {name: name for name in names.values()}}
    text = yaml.safe_dump({"sources": {"d": {"images": "I/{case}.nii.gz", **source}},
                           "model_defaults": {"training": {"loss": "label_sets"}}})  # fmt: skip
    (folders / "own.yaml").write_text(text)
    options = {
        "predictions": "predictions", "references": "masks" if masks else "refs", "output": "out", "source": "d",
        "base-config": RECIPE, "configfile": "own.yaml", "processes": 1,
    }  # fmt: skip
    done = flare23(folders, "evaluate", *(f"--{name}={value}" for name, value in options.items()))
    assert done.returncode == 0, done.stderr
    rows = read_csv(folders / "out/metrics.csv")
    assert [row["Name"] for row in rows] == [f"{prefix}one", f"{prefix}two"]
    assert [[row[f"{name}_DSC"] for name in ("liver", "right_kidney", "spleen")] for row in rows] == [["1.0"] * 3] * 2
    assert {row["tumor_DSC"] for row in rows} == {""}, "an empty cell: nobody looked for it"
    options |= {"source": "lost"}
    refused = flare23(folders, "evaluate", *(f"--{name}={value}" for name, value in options.items()))
    assert refused.returncode == 2
    assert "--source: there is no source 'lost'; there are flare23, d" in refused.stderr


def test_references_of_a_source_that_looked_for_different_labels_are_scored_where_they_occur(folders):
    labels = Config.load([RECIPE]).label_map
    patterns = {"images": "{case}.nii.gz", "labels": "D/{case}.nii.gz"}
    source = Source(**patterns, values=dict(zip(map(str, labels.values), labels.names, strict=True)),
                    annotated="present")  # fmt: skip
    paths = folders / "labels", folders / "labels", folders / "out"
    table, extra = evaluate_folders(*paths, scoring.Scoring(labels), source=("d", source))
    assert not extra
    assert table["liver_DSC"].isna().tolist() == [False, True]
    assert table["spleen_DSC"].isna().tolist() == [True, False]
    validation = {"validation_images": ("V/{case}.nii.gz",), "validation_labels": ("W/{case}.nii.gz",)}
    other = source.model_copy(update={"labels": ("D/{case}_l.nii.gz",)} | validation)
    assert evaluate_folders(*paths, scoring.Scoring(labels), source=("d", other))[0].equals(table)
    other = source.model_copy(update={"labels": ("D/{case}_l.nii.gz",)})
    with pytest.raises(EvaluationError, match=r"no file is named as the labels of sources\.d"):
        evaluate_folders(*paths, scoring.Scoring(labels), source=("d", other))


@pytest.mark.parametrize(("side", "scored"), [("predictions", "1 of 2"), ("references", "1 of 1")])
def test_a_case_without_its_prediction_or_reference_is_exit_code_1(folders, capsys, side, scored):
    for name in ("predictions", "references"):
        shutil.copytree(folders / "labels", folders / name)
    (folders / side / "two.nii.gz").unlink()
    options = {name: folders / name for name in ("predictions", "references", "output")}
    options |= {"base-config": RECIPE, "processes": 1}
    assert cli.main(["evaluate", *(f"--{name}={value}" for name, value in options.items())]) == 1
    assert f"{scored} cases scored" in capsys.readouterr().out


def test_evaluate_takes_the_dsc_limit_of_the_nsd_from_the_configuration(tmp_path):
    for folder, start in (("references", 2), ("predictions", 4)):  # cubes with a DSC of 0.125
        label = np.zeros((10, 10, 10), np.uint8)
        label[(slice(start, start + 4),) * 3] = 1
        write(tmp_path / folder / "case.nii.gz", label)
    (tmp_path / "published.yaml").write_text("evaluation: {min_dsc_for_nsd: 0.1}\n")
    surface = {}
    for name, options in (("now", []), ("published", ["--configfile", "published.yaml"])):
        done = flare23(
            tmp_path, "evaluate", "--predictions", "predictions", "--references", "references", "--output", name,
            *BASE_CONFIG, "--processes", "1", *options,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (row,) = read_csv(tmp_path / name / "metrics.csv")
        assert row["liver_DSC"] == "0.125"
        surface[name] = float(row["liver_NSD"])
    assert surface["now"] == 0 < surface["published"]


@pytest.mark.parametrize(
    ("options", "keys", "changed"),
    [
        ([], {}, {}),
        (["--partial"], {}, {"spleen": ""}),
        ([], {"references": "partial"}, {"spleen": ""}),
        (["--no-partial"], {"references": "partial"}, {}),
        (["--mode", "plain"], {}, {"aorta": "0.6667"}),
        (["--mode", "flare23"], {"mode": "plain"}, {}),
        (["--details"], {}, {"details": True}),
        (["--no-details"], {"details": True}, {}),
        (["--memory", "200"], {}, {"processes": 1}),
    ],
)
def test_options_of_evaluate_come_before_the_configuration(tmp_path, monkeypatch, options, keys, changed):
    processes = []
    for folder, end, spleen in (("references", 5, 0), ("predictions", 8, 3)):
        label = np.zeros((10, 8, 8), np.uint8)
        label[2:end, 2:4, 2:4], label[2:4, 5:, 5:] = 5, spleen  # the aorta is scored in the reference's slices
        for case in ("one", "two"):
            write(tmp_path / folder / f"{case}.nii.gz", label)
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"evaluation": keys}))

    def in_processes(score, pairs, number, name):
        processes.append(number)
        return map(score, pairs)

    monkeypatch.setattr(scoring, "in_processes", in_processes)
    folders = [f"--{name}={tmp_path / name}" for name in ("predictions", "references", "output")]
    given = [*BASE_CONFIG, "--configfile", str(tmp_path / "keys.yaml")]
    assert cli.main(["evaluate", *folders, *given, "--processes", "2", *options]) == 0
    row = read_csv(tmp_path / "output/metrics.csv")[0]
    found = {name: row[f"{name}_DSC"] for name in ("spleen", "aorta")} | {"processes": processes[0]}
    found["details"] = (tmp_path / "output/distances.csv").exists()
    assert found == {"spleen": "0.0", "aorta": "1.0", "processes": 2, "details": False} | changed


def test_config_yaml_is_the_recipe_in_the_workflows_folder_alone(tmp_path, monkeypatch):
    def config(*arguments):
        return load_config(cli.make_parser().parse_args(["status", *arguments]))

    monkeypatch.chdir(tmp_path)
    recipe, here = RECIPE.read_text(), tmp_path / "config.yaml"
    (tmp_path / "Snakefile").touch()
    here.write_text("samples: samples.tsv\n")  # another project's
    assert config().results == "results"
    here.write_text("results: mine\n")
    assert config("--configfile", "config.yaml").results == "mine"
    (tmp_path / "rules").symlink_to(REPOSITORY / "rules")
    here.write_text(recipe.replace("results: results", "results: edited"))
    assert config() == config("--configfile", "config.yaml")
    assert config().results == "edited"


@pytest.mark.parametrize("command", ["status", "verify", "clean"])
def test_a_wrong_configuration_is_refused_before_the_workflow_is_imported(tmp_path, monkeypatch, capsys, command):
    for module in ("status", "verify", "cleanup"):
        monkeypatch.setitem(sys.modules, f"flare23_lib.workflow.{module}", None)
    assert cli.main([command, "--configfile", str(tmp_path / "lost.yaml")]) == 1
    assert "lost.yaml: cannot be read (No such file or directory)" in capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_1(tmp_path):
    done = flare23(tmp_path, "predict", "--model", "nowhere", "--input", "x", "--output", "y")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("flare23: ")] == [
        "flare23: nowhere/model.json: is missing; nowhere is no model bundle"
    ]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "--model", "m", "--input", "i", "--output", "taken"], "taken is a file, not a folder"),
        (["predict", "-m", "m", "-i", "i", "-o", "o", "--run-report", "."], "is a folder, not a file"),
        (["predict", "--model", "m", "--input", "i", "--output", "o", "--threads", "-1"], "-1 is less than 1"),
        (["predict", "-m", "m", "-i", "i", "-o", "link"], "link is a link that leads nowhere"),
        (["predict", "-m", "m", "-i", "i", "-o", "link/x.nii.gz"], "link is a link that leads nowhere"),
        (["predict", "-m", "m", "-i", "i", "-o", "o", "--step", "1.5"], "--step: 1.5 is not above 0 and at most 1"),
        (["predict", "-m", "m", "-i", "i", "-o", "o", "--step", "0"], "--step: 0 is not above 0"),
        (["predict", "-m", "m", "-i", "i", "-o", "o", "--step", "nan"], "--step: nan is not above 0"),
        (["predict", "-m", "m", "-i", "i", "-o", "o", "--step", "x"], "--step: invalid number value: 'x'"),
        (["export", "--checkpoint", "c", "--output", "o", "--step", "1.5"], "--step: 1.5 is not above 0"),
        (["evaluate", "--predictions", "p", "--references", "r", "--output", "taken/in"], "is a file, not a folder"),
        (["evaluate", "--predictions", "p", "--references", "r", "--output", "o", "--processes", "0"], "0 is less"),
        (["rank", "a", "b", "--output", "."], "is a folder, not a file"),
        (["measure", "--output", "taken", "--", "true"], "is a file, not a folder"),
        (["estimate", "--output", "."], "is a folder, not a file"),
        (["predict"], "the following arguments are required: "),
        (["stage", "train", "--shards", "x"], "argument --shards: "),
        (["phantoms", "--output", "taken"], "is a file, not a folder"),
        (["phantoms", "--output", "o", "--validation", "-2"], "-2 is less than 0"),
        (["phantoms", "--output", "o", "--seed", "x"], "invalid whole number value: 'x'"),
        (["clean", "--unf", "--y"], "unrecognized arguments: --unf --y"),
        (["categorise", "--images", "i", "--labels", "l", "--output", "taken"], "is a file, not a folder"),
    ],
)
def test_what_cannot_be_written_or_meant_is_refused_before_any_work(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["phantoms", "--output", "o", "--coarseness", "50"], "coarseness 50"),
        (["phantoms", "--output", "o", "--coarseness", "0"], "coarseness 0"),
        (["verify", "--config", "results=typo"], "no folder of results typo"),
        (["estimate", "--cases", "bytes.csv"], "bytes.csv is not a CSV table"),
        (["estimate", "--cases", "other.csv"], "other.csv: has no column case"),
        (["rank", "one", "two", "--output", "ranking.csv"], "one/metrics.csv: a: liver_DSC is 'high', not a number"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bytes.csv").write_bytes(b"\x1f\x8b\xff\x00")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    labels = Config.load([RECIPE]).label_map.names
    for folder in ("one", "two"):
        columns = [f"{name}_{measure}" for name in labels for measure in ("DSC", "NSD")]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metrics.csv").write_text(
            f"Name,{','.join(columns)}\na,{','.join(['high'] + ['0.5'] * (len(columns) - 1))}\n"
        )
    configuration = [] if arguments[0] == "phantoms" else BASE_CONFIG
    assert cli.main([*arguments, *configuration]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flare23: ")]
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize("lines", [1, 10_000])
def test_output_that_is_not_read_to_its_end_ends_the_command_quietly(tmp_path, lines):
    code = (
        "import sys, flare23_lib.cli as cli\n"
        f"cli.evaluation._rank = lambda args: print('line\\n' * {lines})\n"
        "sys.exit(cli.main(['rank', 'a', '--output', 'ranking.csv']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=output, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (128 + cli.SIGPIPE, b"")


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch, capsys):
    def rank(args):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli.evaluation, "_rank", rank)
    assert cli.main(["rank", "a", "--output", "ranking.csv"]) == 1
    assert "flare23: Broken pipe" in capsys.readouterr().err


NOT_UTF8 = os.fsdecode(b"M\xfcller")


@pytest.mark.parametrize(
    "arguments",
    [
        ["categorise", "--images", f"{NOT_UTF8}/images", "--labels", "labels", "--output", "out"],
        ["evaluate", "--predictions", "labels", "--references", "labels", "--output", "out"],
        ["init", "."],
        ["measure", "--output", "out", "--name", NOT_UTF8, "true"],
    ],
)
def test_names_that_are_not_utf8_are_refused_in_one_line(folders, monkeypatch, capsys, arguments):
    monkeypatch.chdir(folders)
    (folders / "labels/one.nii.gz").rename(folders / f"labels/{NOT_UTF8}.nii.gz")
    assert cli.main([*arguments, *(BASE_CONFIG * (arguments[0] != "measure"))]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flare23: ")]
    assert "M\\xfcller" in line
    assert "its name is not UTF-8; rename it" in line


def test_a_folder_whose_path_is_not_utf8_is_refused_in_one_line(folders, monkeypatch, capsys):
    folders = folders.rename(folders.with_name(NOT_UTF8))
    monkeypatch.chdir(folders)
    options = ["--output", "out", *BASE_CONFIG]
    assert cli.main(["categorise", "--images", "images", "--labels", "labels", *options]) == 1
    assert "M\\xfcller/images: its name is not UTF-8; rename it" in capsys.readouterr().err


def test_text_that_cannot_be_encoded_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(cli.evaluation, "_rank", lambda args: f"image: {NOT_UTF8}".encode())
    assert cli.main(["rank", "a", "--output", "ranking.csv"]) == 1
    assert "flare23: 'image: M\\udcfcller': cannot be written as utf-8" in capsys.readouterr().err


def test_in_a_locale_without_utf8_the_remedy_is_named(tmp_path):
    (tmp_path / "Müller").mkdir()
    environment = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "flare23_lib.cli", "measure", "--output", "out", "--name", "Müller", "true"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "its name cannot be read in this locale; set PYTHONUTF8=1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.delitem(sys.modules, "flare23_lib.evaluation.ranking", raising=False)
    assert cli.main(["rank", "--output", str(tmp_path / "ranking.csv"), "a", "b"]) == 1
    assert "flare23: pandas is not installed; pip install" in capsys.readouterr().err


def test_every_command_explains_itself(capsys):
    for command in (["--help"], ["predict", "--help"], ["clean", "--help"], ["stage", "train", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(command)
        assert stopped.value.code == 0
    assert "usage: flare23" in capsys.readouterr().out


def test_threads_spin_briefly_unless_the_user_wants_otherwise(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "to be taken back at the end")
        monkeypatch.delenv(name)
    for policy, spins, expected in (("active", None, None), (None, "5", "5"), (None, None, str(cli.SPINS))):
        for name, value in (("OMP_WAIT_POLICY", policy), ("GOMP_SPINCOUNT", spins)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            cli.main(["--version"])
        assert os.environ.get("GOMP_SPINCOUNT") == expected
