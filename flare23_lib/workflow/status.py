"""What the next run would really compute, found out from the store without computing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flare23_lib.cache.entries import Item, Shard
from flare23_lib.cache.results import SHARDED, Results
from flare23_lib.config import Config
from flare23_lib.config.models import Intensity
from flare23_lib.config.settings import CompletionSettings, PreprocessingSettings, TrainingSet, TrainingSettings
from flare23_lib.dataset.cases import Case
from flare23_lib.dataset.discover import find, notices
from flare23_lib.dataset.scan import Survey, survey_found
from flare23_lib.evaluation.measure_efficiency import measured_folders
from flare23_lib.inference.segment_cases import model_digest, segmentation_folder, segmentation_item
from flare23_lib.nnunet import train
from flare23_lib.nnunet.checkpoints import FINAL, mark
from flare23_lib.nnunet.initial_weights import digest_of, with_digest
from flare23_lib.preprocessing import preprocess_cases
from flare23_lib.preprocessing.fit_intensity import case_item, intensity_folder, pooled_item
from flare23_lib.preprocessing.preprocess_cases import TrainingCase
from flare23_lib.pseudo_labels.complete import (
    LABELS,
    annotated_labels,
    change_item,
    completed_item,
    completion_folder,
    left_out,
)
from flare23_lib.pseudo_labels.pseudo_label import pass_change


@dataclass
class Step:
    """One stage of one model or completion.

    Attributes:
        stage: "intensity", "preprocessing", "training", "pseudo-labels", "completion" or "predictions".
        name: of the model or completion.
        total: cases.
        to_do: cases that would be computed; for a training 1 or 0.
        note: what a person should know.
        from_zero: a training that would not go on from a checkpoint.
    """

    stage: str
    name: str
    total: int
    to_do: int
    note: str = ""
    from_zero: bool = False


@dataclass
class Plan:
    """What the configuration and the cohort ask for.

    Attributes:
        survey: the cohort as it is now.
        steps: in order.
        used: items of the store that belong to the configuration.
        used_folders: folders of trainings and of measurements that belong to it.
        records: the records of shards that the configuration asks for.
        unknown: what is gone, or not made yet, and hides which files of the store follow from it.
        notices: what the configuration asks for and the cohort's folders do not have.
    """

    survey: Survey
    steps: list[Step] = field(default_factory=list)
    used: set[Path] = field(default_factory=set)
    used_folders: set[Path] = field(default_factory=set)
    records: set[Path] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def retrained(self) -> list[str]:
        """The models whose training would start from zero."""
        return [step.name for step in self.steps if step.from_zero]


def make_plan(config: Config, processes: int = 1) -> Plan:
    """Work out what is there and what is not. Files of the cohort that are new are read (and remembered)."""
    results, cohort = Results(Path(config.results)), Path(config.cohort)
    found = find(cohort, config.layout)
    surveyed = survey_found(found, config.cohort_settings(), results.scan_memory, processes)
    plan = _Planner(config, results, surveyed).run()
    plan.notices += notices(found, cohort, config.layout, config.evaluated)
    return plan


class _Planner:
    """Walks through completions and models; what cannot be known before something is made is None."""

    def __init__(self, config: Config, results: Results, surveyed: Survey) -> None:
        self.config = config
        self.results = results
        self.plan = Plan(surveyed)
        self.cases = [case for case in surveyed.cases if case.usable]
        self.digests: dict[str, str | None] = {}
        self.weights: dict[str, str] = {}
        self.completed: dict[str, list[dict[str, str]] | None] = {}

    def run(self) -> Plan:
        for table, name in self.config.order():
            if table == "models":
                self._model(name)
            else:
                self._completion(name)
        return self.plan

    def _whole(self, item: Item) -> dict | None:
        self.plan.used.add(item.note_path)
        return item.read()

    def _records(self, rule: str, name: str) -> None:
        folder, key = SHARDED[rule]
        total = dict(self.config.shards)[key]
        self.plan.records |= {self.results.shard(folder, name, Shard(index, total)) for index in range(total)}

    def _model(self, name: str) -> None:
        self._records("preprocess", name)
        settings = self.config.preprocessing_settings(name)
        cases = self._training_set(settings)
        if cases is None:
            self._not_yet(name, "its labels are still to be made")
        elif not cases:
            self._not_yet(name, "no case is in its categories, so that it cannot be trained")
        else:
            self._known_model(name, settings, cases)
        if name in self.config.evaluated:
            self._records("predict", name)
            validation = [case for case in self.cases if case.split == "validation"]
            self._segmentations("predictions", name, name, validation, {})
            if self.config.evaluation.efficiency_cases:
                measured = measured_folders(self.results, self.digests[name], self.config.inference_settings(name))
                self.plan.used_folders |= set(measured)

    def _known_model(self, name: str, settings: PreprocessingSettings, cases: Sequence[TrainingCase]) -> None:
        measured = self._intensity(name, settings, cases)
        if measured is None:
            self._not_yet(name, "its intensities are still to be measured")
            return
        settings = PreprocessingSettings.of(settings, intensity=measured)
        made = 0
        seen: set[int] = set()
        for case in cases:
            _, image, _ = preprocess_cases.image_item(self.results, settings, case.case)
            _, label, _ = preprocess_cases.label_item(self.results, settings, case)
            note = self._whole(label)
            seen |= set(note["results"]["labels_present"]) if note else set()
            made += bool(self._whole(image)) & bool(note)
        rows = [preprocess_cases.row_of(self.results, settings, case) for case in cases]
        self.plan.steps.append(Step("preprocessing", name, len(cases), len(cases) - made))
        digest = self._initial_weights(name)
        if digest is None:
            self._not_yet(
                name, f"{self.config.model(name).pretrained_model}, from which it starts, is still to be trained"
            )
            return
        training_settings = with_digest(
            TrainingSettings.of(self.config.training_settings(name), intensity=measured), digest
        )
        folder = train.training_folder(self.results, training_settings, rows)
        self.plan.used_folders.add(folder.path)
        note = train.weights_item(folder).read()
        if note:
            self.weights[name] = note["results"]["weights_sha256"]
            model = train.describe(
                name,
                training_settings,
                self.config.inference_settings(name),
                self.config.label_map.names,
                [],
                note["results"]["weights_sha256"],
                {},
            )
            self.digests[name] = model_digest(model.to_json())
            unseen = [label.name for label in self.config.labels if label.value not in seen]
            never = f"; never saw {', '.join(unseen)}" if unseen and made == len(cases) else ""
            self.plan.steps.append(Step("training", name, 1, 0, f"is trained{never}"))
            return
        self.digests[name] = None
        checkpoints = folder.path / train.CHECKPOINTS
        begun = bool(mark(checkpoints))
        if (checkpoints / FINAL).exists():
            self.plan.unknown.append(f"the last weights of {name}")
        note_text = "goes on from its last checkpoint" if begun else "from zero"
        if not begun and self.results.training(name).exists():
            note_text += ": its settings or its training set changed since it was trained"
        self.plan.steps.append(Step("training", name, 1, 1, note_text, not begun))

    def _not_yet(self, name: str, reason: str) -> None:
        self.digests[name] = None
        self.plan.steps.append(Step("training", name, 1, 1, f"from zero: {reason}", True))

    def _intensity(
        self, name: str, settings: PreprocessingSettings, cases: Sequence[TrainingCase]
    ) -> Intensity | None:
        """Return a model's intensity as numbers; None if it is still to be measured."""
        if settings.intensity != "measure":
            return settings.intensity
        folder = intensity_folder(self.results)
        pooled = self._whole(pooled_item(folder, cases)[0])
        there = sum(self._whole(case_item(folder, case)[0]) is not None for case in cases)
        self.plan.steps.append(Step("intensity", name, len(cases), 0 if pooled else len(cases) - there))
        if there and not pooled:
            self.plan.unknown.append(f"the intensities of {name}")
        return Intensity.from_json(pooled["results"]["intensity"]) if pooled else None

    def _initial_weights(self, name: str) -> str | None:
        """Return the digest of the weights that a model starts from, empty without; None if they are not there."""
        source = self.config.model(name).pretrained_model
        if source is not None:
            return self.weights.get(source)
        return digest_of(self.config.pretrained_file(name)) or ""

    def _training_set(self, settings: TrainingSet) -> list[TrainingCase] | None:
        rows = {name: self.completed[name] for name in settings.label_completions}
        if None in rows.values():
            return None
        training = [case for case in self.cases if case.split == "training"]
        return preprocess_cases.selected(self.results, training, settings, rows)

    def _segmentations(
        self,
        stage: str,
        name: str,
        model: str,
        cases: Sequence[Case],
        exclude: Mapping[str, Sequence[int]],
        votes: bool = False,
    ) -> list[Item] | None:
        digest = self.digests[model]
        if digest is None:
            self.plan.steps.append(Step(stage, name, len(cases), len(cases), f"after {model} is trained"))
            return None
        folder = segmentation_folder(self.results, digest, self.config.inference_settings(model))
        items = [segmentation_item(folder, case, exclude.get(case.case, ()), votes)[0] for case in cases]
        to_do = sum(self._whole(item) is None for item in items)
        self.plan.steps.append(Step(stage, name, len(cases), to_do))
        return items

    def _completion(self, name: str) -> None:
        for rule in ("pseudo_label", "complete"):
            self._records(rule, name)
        row = self.config.completion(name)
        settings = self.config.completion_settings(name)
        cases = [case for case in self.cases if case.split == "training" and case.category == row.category]
        base = row.base
        bases: dict[str, dict[str, str]] | None = {}
        if base is not None:
            known = self.completed[base]
            bases = None if known is None else {entry["case"]: entry for entry in known}
        exclude = {}
        if settings.conflict_policy == "next_class" and bases is not None:
            exclude = {case.case: annotated_labels(settings.annotated, case, bases) for case in cases}
        items = self._segmentations("pseudo-labels", name, row.teacher, cases, exclude, settings.need_votes)
        if items is None or bases is None:
            self.completed[name] = None
            self.plan.steps.append(Step("completion", name, len(cases), len(cases)))
            return
        folder = completion_folder(self.results, settings)
        rows, to_do, nameless = [], 0, 0
        for case, segmentation in zip(cases, items, strict=True):
            prediction = self.results.relative(segmentation.file(LABELS))
            item, _ = completed_item(folder, case, prediction, bases)
            note = self._whole(item)
            to_do += note is None
            known = note or item.note()  # what is gone held the same
            nameless += known is None
            present = " ".join(map(str, known["results"]["labels_present"])) if known else ""
            rows.append(
                {"case": case.case, "file": self.results.relative(item.file(LABELS)), "labels_present": present}
            )
        # What a second look would build on is only known once the first is made.
        self.plan.steps.append(Step("completion", name, len(cases), to_do))
        if nameless and any(other.base == name for other in self.config.completions.values()):
            self.plan.unknown.append(f"the labels of {name}")
        changes = self._changes(settings, rows, items)
        if changes is None:
            self.completed[name] = None
            self.plan.unknown.append(f"which cases {name} leaves out")
            return
        excluded = left_out(settings, changes)
        self.completed[name] = [row | {"left_out": row["case"] in excluded} for row in rows]

    def _changes(
        self, settings: CompletionSettings, rows: Sequence[Mapping], items: Sequence[Item]
    ) -> dict[str, float] | None:
        """Return how much each case's labels changed; None if that is needed and not known yet."""
        if settings.exclude_most_changed is None:
            return {}
        compared = settings.exclude_most_changed.compared_completion
        if compared is None:
            notes = [self._whole(item) for item in items]
            if None in notes:
                return None
            return {row["case"]: pass_change(note) for row, note in zip(rows, notes, strict=True)}
        known = self.completed[compared]
        if known is None:
            return None
        others = {row["case"]: row["file"] for row in known}
        changes = {}
        for row in rows:
            item = change_item(self.results, settings, row["case"], row["file"], others[row["case"]])[1]
            note = self._whole(item)
            if note is None:
                return None
            changes[row["case"]] = note["results"]["change"]
        return changes


def format_plan(plan: Plan) -> str:
    """Return the plan as a table for the terminal."""
    lines = [*plan.notices, f"{'stage':<16}{'of':<24}{'cases':>7}{'to do':>7}"]
    for step in plan.steps:
        total = "" if step.stage == "training" else str(step.total)
        to_do = ("yes" if step.to_do else "-") if step.stage == "training" else str(step.to_do or "-")
        lines.append(f"{step.stage:<16}{step.name:<24}{total:>7}{to_do:>7}  {step.note}".rstrip())
    if plan.retrained:
        lines.append(f"The next run trains from zero: {', '.join(plan.retrained)}")
    elif not any(step.to_do for step in plan.steps):
        lines.append("Everything is there; the next run computes nothing, at most tables, figures and the report.")
    return "\n".join(lines)
