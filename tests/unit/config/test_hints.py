"""Paths as shells write them, and values that YAML takes for something else: one line that says what to do."""

import pytest
from places import RECIPE

from flare23_lib.config import Config
from flare23_lib.errors import ConfigError


@pytest.mark.parametrize("key", ["cohort", "results"])
@pytest.mark.parametrize("path", ["~", "~/x", "~/x y/z"])
def test_a_tilde_is_the_users_folder(key, path, monkeypatch):
    monkeypatch.setenv("HOME", "/users/me")
    config = Config.load([RECIPE], {key: path})
    assert getattr(config, key) == path.replace("~", "/users/me")


def test_the_file_of_weights_may_begin_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pth").write_text("")
    config = Config.load([RECIPE], {"models": {"student": {"pretrained": "~/w.pth"}}})
    assert config.pretrained_file("student") == tmp_path / "w.pth"
    config.check_given_files()


@pytest.mark.parametrize("path", ["a~b", "./~", "data/~x"])
def test_a_tilde_elsewhere_is_a_part_of_the_name(path):
    assert Config.load([RECIPE], {"cohort": path}).cohort == path


@pytest.mark.parametrize("key", ["cohort", "results"])
@pytest.mark.parametrize("path", ["$HOME/x", "${HOME}", "a/$USER"])
def test_names_of_variables_are_refused(key, path):
    with pytest.raises(ConfigError, match=rf"^{key}: '.*' is taken as it is, \$NAME is not replaced"):
        Config.load([RECIPE], {key: path})


@pytest.mark.parametrize("path", ["{x}", "a/{b}/c", "a}"])
def test_braces_in_the_results_are_refused_and_elsewhere_are_not(path):
    with pytest.raises(ConfigError, match=r"^results: .* has braces, which Snakemake takes for wildcards"):
        Config.load([RECIPE], {"results": path})
    assert Config.load([RECIPE], {"cohort": path}).cohort == path


@pytest.mark.parametrize(
    "text",
    ["a: 2024-02-30", "a: 2024-13-01T00:00:00", "2024-02-30: a", "a: 2024-01-01T25:61:00Z", "a: {b: [2023-02-29]}",
     "a: !!int x", "a: !!float x", "a: !!timestamp x", "[[]]: 1", "? {a: b}\n: c", "a: &a [*a]", "\x00",
     "a: " + "[" * 5000],
)  # fmt: skip
def test_whatever_yaml_cannot_make_of_a_text_is_one_line_that_names_the_file(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml: ") as error:
        Config.load([RECIPE, path])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cohort: 2024-02-03", "cohort: .* YAML reads it as a date; write it in quotes"),
        ("cohort: 012", "cohort: 10 is not of type 'string': YAML reads it as a number; write it in quotes"),
        ("cohort: 12:30:00", "cohort: .* YAML reads it as a number; write it in quotes"),
        ("labels: [{name: no, value: 1, tolerance_mm: 1}]", "name: False is not .* no, yes, on and off as truth"),
        ("results: 1.5", "results: 1.5 .* YAML reads it as a number; write it in quotes"),
    ],
)
def test_what_yaml_reads_as_something_else_is_to_be_quoted(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        Config.load([RECIPE, tmp_path / "c.yaml"])


@pytest.mark.parametrize("stage", ["preprocessing", "pseudo_labels", "predictions"])
def test_a_number_of_shards_that_nobody_can_plan_is_refused(stage):
    with pytest.raises(ConfigError, match=rf"^shards\.{stage}: .* is greater than 10000"):
        Config.load([RECIPE], {"shards": {stage: 10_001}})
