import json

import pytest
import yaml
from places import RECIPE, REPOSITORY, script
from snakemake.cli import parse_config

from flare23_lib.config import Config
from flare23_lib.config.load import merge, parse_overrides, read_yaml
from flare23_lib.errors import ConfigError


def load(**overrides) -> Config:
    return Config.load([RECIPE], overrides)


@pytest.mark.parametrize("preset", sorted(path.name for path in (REPOSITORY / "presets").glob("*.yaml")))
def test_every_preset_is_a_valid_configuration(preset):
    Config.load([RECIPE, REPOSITORY / "presets" / preset])


def test_several_files_are_merged_in_themselves_and_then_over_the_recipe(tmp_path):
    from snakemake.utils import update_config

    texts = [
        "models: {student_2200: null}",
        "models: {student_2200: {ignore_label: always}}",
        "shards: {predictions: 3}",
    ]
    files = [tmp_path / f"{number}.yaml" for number in range(len(texts))]
    given, whole = {}, yaml.safe_load(RECIPE.read_text())
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
        update_config(given, yaml.safe_load(text))
    update_config(whole, given)
    made = Config.load([RECIPE, *files])
    assert made == Config.check(whole)
    assert made.models["student_2200"].train_on.label_completions, "the recipe's entry is back, without its null"


def test_merging_is_what_snakemake_does():
    from snakemake.utils import update_config

    base = yaml.safe_load(RECIPE.read_text())
    update = yaml.safe_load((REPOSITORY / "presets/demo.yaml").read_text())
    ours = merge(base, update)
    update_config(base, update)
    assert ours == base


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {a: 1}\ncohort: x\nmodels: {b: 1}\n", r"models is there twice in a table \(line 3\)"),
        ("models:\n- {epochs: 1, epochs: 2}\n", r"epochs is there twice in a table \(line 2\)"),
    ],
)
def test_a_key_given_twice_is_refused(tmp_path, text, words):
    file = tmp_path / "twice.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_yaml(file)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    file = tmp_path / "latin.yaml"
    file.write_bytes("cohort: Gef\u00e4\u00dfe\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_yaml(file)


def test_a_table_may_change_what_it_takes_from_another(tmp_path):
    file = tmp_path / "merged.yaml"
    file.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, y: 3}\n")
    assert read_yaml(file)["c"] == {"x": 1, "y": 3}


def test_null_removes_an_entry():
    assert "student_2200" not in load(models={"student_2200": None}, evaluation={"compare": []}).models


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {student_220: null}", "models.student_220: null removes nothing; there are organ_teacher, tumor_"),
        ("completions: {unlabelled: null}", "completions.unlabelled: null removes nothing; there are tumor, all_"),
        ("sources: {flare: null}", "sources.flare: null removes nothing; there are flare23"),
    ],
)
def test_a_null_for_an_entry_that_is_in_no_file_is_refused(tmp_path, text, words):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Config.load([RECIPE, tmp_path / "own.yaml"])
    assert str(caught.value).startswith(words)


def test_a_preset_may_remove_what_the_recipe_of_a_clone_has_no_more(tmp_path, monkeypatch):
    recipe = yaml.safe_load(RECIPE.read_text())
    del recipe["models"]["student_2200"]
    recipe["evaluation"]["compare"] = []
    edited, own = tmp_path / "config.yaml", tmp_path / "own.yaml"
    edited.write_text(yaml.safe_dump(recipe, sort_keys=False))
    own.write_text("models: {student_2200: null}")
    monkeypatch.setattr("flare23_lib.config.load.RECIPE", edited)
    assert "student_2200" not in Config.load([edited, REPOSITORY / "presets/second_look.yaml"]).models
    with pytest.raises(ConfigError, match="student_2200: null removes nothing"):
        Config.load([edited, own])


@pytest.mark.parametrize("smoke", ["false", "true"])
def test_a_null_may_remove_an_entry_of_another_file_and_be_given_twice(tmp_path, smoke):
    (tmp_path / "first.yaml").write_text(
        'sources: {mine: {images: "i/{case}.nii.gz"}}\nmodels: {pilot: {evaluate: true}, organ_teacher: null}\n'
    )
    (tmp_path / "second.yaml").write_text("sources: {mine: null}\nmodels: {pilot: null, organ_teacher: null}\n")
    files = [tmp_path / "first.yaml", REPOSITORY / "presets/partial_labels.yaml", tmp_path / "second.yaml"]
    config = Config.load([RECIPE, *files], {"smoke": smoke})
    assert list(config.models) == ["student", "student_2200", "teacher"]
    assert list(config.sources) == ["flare23"]


def test_a_preset_may_remove_what_is_gone_from_ones_own_recipe(tmp_path):
    recipe = yaml.safe_load(RECIPE.read_text())
    del recipe["models"]["student_2200"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(recipe | {"evaluation": {"compare": []}}))
    config = Config.load([tmp_path / "config.yaml", REPOSITORY / "presets/demo.yaml"])
    assert sorted(config.models) == ["organ_teacher", "student", "tumor_teacher"]


def test_values_on_the_command_line_are_read_as_snakemake_reads_them():
    pairs = [
        "cohort=a b", "device=cpu", "shards={predictions: 2}", "max_training_restarts=010", "check=True",
        "checkpoint_interval_minutes=1e1",
        "results=2026-11-28", "none=", "names=[a, b]", "odd={", "report={a: b}", "report={c: d}", "quoted='5'",
        'text="010"',
    ]  # fmt: skip
    values = parse_overrides(pairs)
    assert values["shards"] == {"predictions": "2"}
    assert values["results"] == "2026-11-28"
    assert values == parse_config(pairs)
    with pytest.raises(ConfigError, match="the value is empty"):
        parse_overrides(["cohort=#a"])


def test_models_and_completions_follow_what_they_need():
    order = load().order()
    for name in ("organ_teacher", "tumor_teacher"):
        assert order.index(("models", name)) < order.index(("models", "student"))
    assert order.index(("models", "organ_teacher")) < order.index(("completions", "tumor"))
    assert order.index(("completions", "tumor")) < order.index(("models", "tumor_teacher"))


def test_a_completion_may_build_on_another():
    again = {"category": "tumor", "base": "tumor", "teacher": "tumor_teacher"}
    order = load(completions={"tumor_again": again}).order()
    assert order.index(("completions", "tumor")) < order.index(("completions", "tumor_again"))


WITHOUT_TTA = {"models": {"organ_teacher": {"inference": {"tta": False}}}}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"models": {"student": {"training": {"epochs": "many"}}}}, "models.student.training.epochs"),
        ({"models": {"student": {"training": {"epochs": 0}}}}, "models.student.training.epochs"),
        ({"models": {"student": {"training": {"seed": 2**32}}}}, "models.student.training.seed"),
        ({"models": {"student": {"training": {"learning_rate": float("inf")}}}}, "learning_rate: inf"),
        ({"models": {"student": {"spacing": [1, float("nan"), 1]}}}, "student.spacing[1]: nan is not a finite"),
        ({"models": {"student": {"intensity": {"low": 400}}}}, "models.student.intensity: low 400 is not below"),
        ({"models": ["student"]}, "models: ['student'] is not of type 'object'"),
        ({"models": {"student": 5}}, "models.student: 5 is not of type 'object'"),
        ({"model_defaults": 5}, "model_defaults: 5 is not of type 'object'"),
        ({"categories": [{"name": "validation", "no_labels": True}]}, "categories[0].name: 'validation' is kept"),
        ({"categories": [{"name": "none", "contains_any": []}]}, "categories[0].contains_any: is empty"),
        (
            {"categories": [{"name": "a", "contains_any": ["liver"]}, {"name": "b", "contains_all": ["liver"]}]},
            "categories[1]: 'b' gets no case; each that fits it fits 'a' before it",
        ),
        ({"sources": {"flare23": {"prefix": "a/"}}}, "sources.flare23.prefix: 'a/' has a slash"),
        ({"sources": {"flare23": {"prefix": ".."}}}, "sources.flare23.prefix: '..' has a slash, or begins"),
        (
            {
                "sources": {"mine": {"images": "mine/{case}.nii"}},
                "categories": [{"name": "mine", "sources": ["mine"]}],
            },
            "categories[0]: its sources have no labels; add `no_labels: true`",
        ),
        (
            {"categories": [{"name": "a", "subset": "2/2"}]},
            "categories[0].subset: '2/2' is not a part such as 0/2 or 1/2",
        ),
        ({"categories": [{"name": "a", "subset": "0/2/3"}]}, "categories[0].subset: '0/2/3' is not a part such as"),
        ({"categories": [{"name": "a", "subset": 0.5}]}, "categories[0].subset: 0.5 is not of type 'string'"),
        (
            {"sources": {"flare23": {"validation_labels": ["l/{case}.nii", "validation/**/{case}_0000.nii.gz"]}}},
            "sources.flare23.validation_labels: 'validation/**/{case}_0000.nii.gz' are images, too",
        ),
        (
            {"sources": {"flare23": {"unlabeled_images": "labelsTr2200/**/{case}.nii.gz"}}},
            "sources.flare23.labels: 'labelsTr2200/**/{case}.nii.gz' are images, too",
        ),
        ({"layout": {"training_images": ["images"]}}, "there is no key 'layout'; there are categories, checkpoint_"),
        ({"retries": 3}, "there is no key 'retries'; there are categories, checkpoint_interval_minutes, cohort"),
        (
            {"models": {"student": {"train_on": {"completions": ["tumor"]}}}},
            "models.student.train_on: there is no key 'completions'; there are label_completions, manual_labels",
        ),
        ({"labels": [{"name": "ignore", "value": 1, "tolerance_mm": 1}]}, "'ignore' is reserved"),
        ({"labels": [{"name": "organs", "value": 1, "tolerance_mm": 1}]}, "'organs' is reserved"),
        ({"labels": [{"name": "background", "value": 1, "tolerance_mm": 1}]}, "'background' is reserved"),
        ({"models": {"student": {"trainning": {}}}}, "trainning"),
        (
            {"models": {"student": {"network": "unet"}}},
            "network: 'unet' is none of stunet_tiny, stunet_small, stunet_base, stunet_large, stunet_huge, nor",
        ),
        (
            {"models": {"student": {"intensity": "measured"}}},
            "student.intensity: 'measured' is neither measure nor",
        ),
        (
            {"models": {"student": {"training": {"epoch": 3}}}},
            "there is no key 'epoch'; there are batch_size, copy_tumors",
        ),
        (
            {"models": {"student": {"training": {"learning_rate": "3e-5"}}}},
            "learning_rate: '3e-5' is a text in YAML, not a number; write 0.00003",
        ),
        (
            {"models": {"student": {"training": {"epochs": "1e3"}}}},
            "'1e3' is a text in YAML, not a number; write 1000",
        ),
        ({"models": {"student": {"training": {"learning_rate": "1e9999"}}}}, "'1e9999' is not of type 'number'"),
        ({"models": {"student": {"training": {"epochs": "0.5"}}}}, "epochs: '0.5' is not of type 'integer'"),
        ({"completions": {"tumor": {"annotated": "all"}}}, "annotated: 'all' is neither present nor a list"),
        ({"models": {"student": {"network": {"depth": [1, 1, 1]}}}}, "student.network: the key 'widths' is missing"),
        ({"labels": None}, "the key 'labels' is missing"),
        (
            {"models": {"studnet": {"evaluate": True}}},
            "models.studnet: the key 'network' is missing; a new entry needs it (there are organ_teacher, "
            "tumor_teacher, student, student_2200)",
        ),
        (
            {"completions": {"tumour": {"teacher": "organ_teacher"}}},
            "completions.tumour: the key 'category' is missing; a new entry needs it (there are tumor, all_organs, "
            "five_organs, unlabeled)",
        ),
        ({"completions": {"unlabeled": {"annotated": ["liver"]}}}, "the category 'unlabeled' has no labels"),
        *(
            ({"completions": {"unlabeled": {rule: "ignore"}}}, f"unlabeled.{rule}: the category 'unlabeled' has no")
            for rule in ("conflict_policy", "unmarked_tumors", "tumor_inside_organs")
        ),
        ({"models": {"student": {"training": {"oversample_foreground": 0.2}}}}, "0.2 of a batch of 2 is no patch"),
        ({"models": {"student": {"training": {"batch_size": 1}}}}, "oversample_foreground: 0.33 of a batch of 1"),
        ({"device": "cpu", "models": {"student": {"inference": {"precision": "float16"}}}}, "float16 is for GPUs"),
        (
            {"categories": [{"name": "a", "folders": ["elsewhere"]}]},
            "there is no folder of training images",
        ),
        ({"categories": [{"name": "a", "contains_all": []}]}, "contains_all: is empty, every labeled case would fit"),
        ({"models": {"student": {"strides": [[1, 1, 1], [2, 2, 2]]}}}, "models.student.strides"),
        ({"models": {"student": {"patch_size": [50, 128, 160]}}}, "models.student.patch_size"),
        ({"models": {"student": {"patch_size": [8, 32, 32]}}}, "models.student.patch_size: the strides leave one"),
        (
            {"models": {"student": {"patch_size": [1, 64, 64], "strides": [[1, 1, 1], *5 * [[1, 2, 2]]]}}},
            "models.student.patch_size[0]: 1 is less than 4",
        ),
        (
            {"models": {"student": {"train_on": {"label_completions": ["nothing"]}}}},
            "models.student.train_on.label_completions",
        ),
        ({"models": {"student": {"train_on": {"manual_labels": ["unlabeled"]}}}}, "has no labels to learn from"),
        ({"models": {"student": {"train_on": {"manual_labels": ["tumor"]}}}}, "learned from twice"),
        ({"completions": {"tumor": {"teacher": "nobody"}}}, "completions.tumor.teacher"),
        ({"completions": {"tumor": {"category": "nothing"}}}, "completions.tumor.category"),
        ({"completions": {"tumor": {"annotated": ["heart"]}}}, "completions.tumor.annotated"),
        ({"completions": {"tumor": {"teacher": "tumor_teacher"}}}, "circle"),
        ({"completions": {"tumor": {"base": "tumor"}}}, "circle"),
        ({"completions": {"tumor": {"base": "unlabeled"}}}, "completes another category"),
        ({"completions": {"tumor": {"min_component_ml": {"heart": 1}}}}, "completions.tumor.min_component_ml"),
        ({"completions": {"tumor": {"min_component_ml": {"liver": 0}}}}, "completions.tumor.min_component_ml"),
        ({"completions": {"tumor": {"min_agreement": 2}}}, "completions.tumor.min_agreement"),
        (
            {**WITHOUT_TTA, "completions": {"tumor": {"min_agreement": 0.5}}},
            "completions.tumor.min_agreement: asks how",
        ),
        ({**WITHOUT_TTA, "completions": {"tumor": {"unmarked_tumors": "if_sure"}}}, "models.organ_teacher has none"),
        (
            {
                "models": {"organ_teacher": {"training": {"mirror_axes": []}}},
                "completions": {"tumor": {"unmarked_tumors": "if_sure"}},
            },
            "models.organ_teacher has none",
        ),
        ({"categories": [{"name": "a", "contains_any": ["heart"]}]}, "categories[0].contains_any"),
        (
            {"labels": [{"name": "a", "value": 1, "tolerance_mm": 1}, {"name": "a", "value": 2, "tolerance_mm": 1}]},
            "'a'",
        ),
        ({"labels": [{"name": "a", "value": 0, "tolerance_mm": 1}]}, "labels[0].value"),
        ({"quality_issues": {"constant_image": "ignore"}}, "quality_issues.constant_image"),
        ({"cohrot": "x"}, "cohrot"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line_that_names_the_key(overrides, words):
    with pytest.raises(ConfigError) as caught:
        load(**overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_that_are_no_text_are_refused_too():
    with pytest.raises(ConfigError, match="there is no key 1, 'cohrot'; there are"):
        Config.load([RECIPE], {1: 2, "cohrot": 3})


def test_how_the_work_is_cut_is_in_no_stages_settings():
    one = load()
    other = load(shards={"pseudo_labels": 3}, device="cpu", checkpoint_interval_minutes=1, results="elsewhere")
    for stage in ("preprocessing", "training", "inference"):
        assert getattr(other, f"{stage}_settings")("student") == getattr(one, f"{stage}_settings")("student")
    assert other.completion_settings("tumor") == one.completion_settings("tumor")
    assert other.cohort_settings() == one.cohort_settings()


def test_whole_numbers_are_one_setting_however_they_are_written():
    plain = load(models={"student": {"spacing": [3, 2, 2], "training": {"epochs": 10}}})
    other = load(models={"student": {"spacing": [3.0, 2.0, 2], "training": {"epochs": 10.0}}})
    one, two = (json.dumps(config.training_settings("student").to_json()) for config in (plain, other))
    assert one == two
    assert '"spacing": [3, 2, 2]' in one


@pytest.mark.parametrize(
    "row",
    [
        {"conflict_policy": "ignore"},
        {"tumor_inside_organs": "if_sure"},
        {"unmarked_tumors": "ignore"},
        {"min_agreement": 0.5},
    ],
)
def test_the_ignore_label_is_there_when_a_completion_may_write_it(row):
    assert not load().training_settings("student").ignore_label
    config = load(completions={"tumor": row})
    assert config.training_settings("student").ignore_label
    assert not config.training_settings("organ_teacher").ignore_label


def test_the_ignore_label_is_there_when_what_is_built_on_may_write_it():
    again = {"category": "tumor", "teacher": "organ_teacher", "base": "tumor"}
    models = {"student": {"train_on": {"label_completions": ["again"]}}}
    first = {"category": "tumor", "teacher": "organ_teacher", "conflict_policy": "ignore"}
    config = load(completions={"tumor": first, "again": again}, models=models)
    assert config.training_settings("student").ignore_label
    plain = load(completions={"again": again}, models=models)
    assert not plain.training_settings("student").ignore_label


def test_rules_for_what_is_annotated_may_be_given_where_a_completion_builds_on_labels():
    again = {"category": "unlabeled", "teacher": "student", "base": "unlabeled", "conflict_policy": "ignore"}
    assert load(completions={"again": again}).completion_settings("again").conflict_policy == "ignore"


def test_volumes_of_specks_are_given_by_label_value():
    labels = [{"name": name, "value": value, "tolerance_mm": 1} for name, value in (("liver", 60), ("tumor", 7))]
    config = load(
        labels=labels,
        categories=[{"name": "tumor", "contains_any": ["tumor"]}],
        completions={
            **dict.fromkeys(["all_organs", "five_organs", "unlabeled"]),
            "tumor": {"category": "tumor", "teacher": "organ_teacher", "min_component_ml": {"liver": 2}},
        },
        models={
            **dict.fromkeys(["tumor_teacher", "student_2200"]),
            "organ_teacher": {"train_on": {"manual_labels": ["tumor"]}},
            "student": {"train_on": {"label_completions": ["tumor"]}},
        },
        evaluation={"compare": []},
    )
    assert config.completion_settings("tumor").min_component_ml == {"60": 2}


def test_the_recipe_has_the_papers_values():
    student = load().models["student"]
    assert student.training.epochs == 2000
    assert student.training.momentum == 0.99
    assert student.patch_size == (48, 128, 160)
    assert load().models["organ_teacher"].patch_size == (48, 192, 192)
    assert student.intensity.to_json() == {"low": -970, "high": 279, "mean": 80.3, "std": 141.4}


def test_the_example_of_the_documentation_is_valid():
    text = (REPOSITORY / "docs/your_cohort.md").read_text()
    blocks = [yaml.safe_load(block.split("```")[0]) for block in text.split("```yaml")[1:]]
    config = load(**merge(blocks[0], blocks[3]))
    assert list(config.models) == ["organ_teacher", "student"]
    assert list(config.sources) == ["lits", "kits", "total", "more"]
    assert list(config.completions) == ["unlabeled", "lits", "kits", "total"]
    assert config.sources["kits"].targets == ["right_kidney", "left_kidney", "tumor", "ignore"]


def test_messages_name_a_key_as_the_configuration_does_and_not_as_fingerprints_do():
    with pytest.raises(ConfigError, match=r"models\.student\.inference\.tile_step_size: 2 is greater than 1"):
        load(models={"student": {"inference": {"tile_step_size": 2}}})


def test_the_page_of_all_keys_is_made_from_the_models():
    page = script("configuration_docs").page()
    assert (REPOSITORY / "docs/configuration.md").read_text() == page, "python scripts/configuration_docs.py"
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []


def test_a_model_s_null_removes_what_all_models_have_by_default():
    copies = {"training": {"copy_tumors": {"label": "tumor"}}}
    changes = {"model_defaults": copies, "models": {"student": {"training": {"copy_tumors": None}}}}
    models = Config.load([RECIPE], changes).models
    assert models["student"].training.copy_tumors is None
    assert models["tumor_teacher"].training.copy_tumors is not None


def test_empty_tables_of_a_model_leave_what_all_models_have_by_default():
    empty = {"student": {"training": None, "inference": None, "intensity": None}}
    assert Config.load([RECIPE], {"models": empty}).models["student"] == Config.load([RECIPE]).models["student"]


def test_a_smoke_run_has_patches_on_foreground_whatever_the_batch_was():
    Config.load(
        [RECIPE], {"smoke": "true", "model_defaults": {"training": {"batch_size": 8, "oversample_foreground": 0.2}}}
    )


def test_a_completion_takes_what_its_category_states_for_annotated():
    every = [row["name"] for row in yaml.safe_load(RECIPE.read_text())["labels"]]

    def annotated(category=None, source=None, **completion):
        rows = yaml.safe_load(RECIPE.read_text())["categories"]
        rows = [{**row, "annotated": category} if row["name"] == "five_organs" else row for row in rows]
        changes = {"categories": rows, "completions": {"five_organs": completion}}
        changes["sources"] = {"flare23": {"annotated": source}}
        config = Config.load([RECIPE], changes)
        again = Config.from_json(config.to_json())
        assert again.completion_settings("five_organs") == config.completion_settings("five_organs")
        return config.completion_settings("five_organs").annotated

    assert annotated() == annotated(annotated="present") == annotated("present") == annotated(["liver"]) == "present"
    assert annotated(["liver"], annotated="present") == annotated(source=every, annotated="present")
    assert annotated(["liver"], annotated="present") == "only_present"
    assert annotated(["liver"], annotated=["spleen"]) == (3,)


def test_manual_labels_beside_completed_ones_must_be_whole():
    training_set = {"manual_labels": ["all_organs"], "label_completions": ["tumor"]}
    changes = {"models": {"student": {"train_on": training_set}}}
    Config.load([RECIPE], changes)  # nothing is stated
    rows = yaml.safe_load(RECIPE.read_text())["categories"]
    changes["categories"] = [{**row, "annotated": ["liver"]} if row["name"] == "all_organs" else row for row in rows]
    with pytest.raises(ConfigError, match=r"cases of 'all_organs' lack .*tumor, which completed labels can hold"):
        Config.load([RECIPE], changes)
    changes["models"]["student"]["training"] = {"loss": "label_sets"}
    Config.load([RECIPE], changes)


def test_a_smoke_run_shrinks_the_users_own_configuration(tmp_path):
    own = {
        "results": "/disk/results",
        "models": {
            "organ_teacher": {"pretrained": "weights.model", "gpus": 1},
            "student": {"pretrained": {"model": "organ_teacher"}, "network": "stunet_large"},
            "student_2200": None,
        },
        "evaluation": {"compare": [], "efficiency_cases": 20},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    config = Config.load([RECIPE, tmp_path / "own.yaml"], {"smoke": "true"})
    assert config.results == "/disk/smoke/results"
    assert {model.network for model in config.models.values()} == {"stunet_tiny"}
    assert {model.training.epochs for model in config.models.values()} == {2}
    assert config.models["organ_teacher"].pretrained is None
    assert config.models["student"].pretrained_model == "organ_teacher"
    assert config.models["organ_teacher"].inference.tta  # the rest stays
    assert config.scan.cases_per_category == 4
    assert config.evaluation.efficiency_cases == 1
    assert Config.load([RECIPE, tmp_path / "own.yaml"], {"smoke": "false"}).results == "/disk/results"
    with pytest.raises(ConfigError, match="smoke: 'maybe' is neither true nor false"):
        Config.load([RECIPE], {"smoke": "maybe"})
    with pytest.raises(ConfigError, match=r"results: '\.\.' can have no folder smoke beside it"):
        Config.load([RECIPE], {"smoke": "true", "results": ".."})


def test_a_pattern_without_quotes_is_named(tmp_path):
    (tmp_path / "own.yaml").write_text("sources:\n  own: {images: {case}.nii.gz}\n")
    with pytest.raises(ConfigError, match=r"patterns with \{ need quotes"):
        Config.load([RECIPE, tmp_path / "own.yaml"])


def test_a_file_that_stands_alone_inherits_nothing(tmp_path):
    own = {
        "recipe": "none",
        "cohort": "data",
        "labels": [{"name": "liver", "value": 1, "tolerance_mm": 5}],
        "sources": {"own": {"images": "images/{case}.nii.gz", "labels": "labels/{case}.nii.gz"}},
        "categories": [{"name": "own", "sources": ["own"]}],
        "models": {
            "student": {
                "network": "stunet_tiny",
                "train_on": {"manual_labels": ["own"]},
                "patch_size": [32, 48, 48],
                "spacing": [6, 5, 5],
                "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
                "intensity": "measure",
            }
        },
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    config = Config.load([RECIPE, tmp_path / "own.yaml"])
    assert (list(config.models), list(config.sources), config.completions) == (["student"], ["own"], {})
    with pytest.raises(ConfigError, match=r"^completions\.tumor: .*; with `recipe: none` there is no entry of"):
        Config.load([RECIPE, tmp_path / "own.yaml", REPOSITORY / "presets/partial_labels.yaml"])


def test_a_configuration_that_is_too_long_for_a_command_line_is_refused():
    def listing(number):
        names = "|".join(f"case_{index:012d}" for index in range(number))
        return {"flare23": None, "mine": {"images": f"i/{{case:{names}}}.nii.gz", "labels": "l/{case}.nii.gz"}}

    assert "mine" in load(sources=listing(4000)).sources
    with pytest.raises(ConfigError, match=r"^sources: has 108[0-9]{3} characters; .* more than 100000 does not fit"):
        load(sources=listing(6000))
