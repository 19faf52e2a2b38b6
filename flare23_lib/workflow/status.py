"""What the next run would compute, found out from the cache without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flare23_lib.cache.entries import Entry, Metadata
from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.config.settings import PreprocessingSettings, TrainingSettings
from flare23_lib.config.training_models import IntensityValues
from flare23_lib.dataset.discover import find, notices
from flare23_lib.dataset.scan import CohortScan, scan_found
from flare23_lib.errors import StoreError
from flare23_lib.evaluation.efficiency import measured_folders
from flare23_lib.inference.image_files import NO_EXTRAS
from flare23_lib.inference.segmentations import LABELS, Wanted, model_digest, segmentation_entry, segmentation_folder
from flare23_lib.nnunet.checkpoints import mark
from flare23_lib.nnunet.pretrained import digest_of
from flare23_lib.nnunet.train import describe
from flare23_lib.nnunet.training_job import TrainingJob
from flare23_lib.preprocessing.fit_intensity import case_entry, intensity_folder, pooled_entry
from flare23_lib.preprocessing.preprocess_cases import (
    TrainingCase,
    image_entry,
    label_entry,
    record_row,
    select_cases,
)
from flare23_lib.pseudo_labels.complete import completed_entry, completion_folder
from flare23_lib.pseudo_labels.pseudo_label import extras_of

Rows = list[dict]
"""A completion's cases: `case`, `file`, `labels_present`."""


@dataclass
class Step:
    """One stage of one model or completion.

    Attributes:
        stage: "intensity", "preprocessing", "training", "pseudo-labels", "completion" or "predictions".
        total: cases; of a training 1.
        to_do: of these, how many would be computed.
        note: a remark for the user.
        from_zero: a training without a checkpoint to resume from.
        unknown: its files depend on a result that does not exist yet.
    """

    stage: str
    name: str
    total: int
    to_do: int
    note: str = ""
    from_zero: bool = False
    unknown: bool = False


@dataclass
class Plan:
    """What the configuration and the cohort ask for.

    Attributes:
        scan: the cohort as it is now.
        steps: in order.
        used: metadata files of the cache's entries that belong to the configuration.
        used_folders: folders of trainings and of measurements that belong to it.
        notices: what the configuration asks for and the cohort's folders do not have.
    """

    scan: CohortScan
    steps: list[Step] = field(default_factory=list)
    used: set[Path] = field(default_factory=set)
    used_folders: set[Path] = field(default_factory=set)
    notices: list[str] = field(default_factory=list)

    @property
    def retrained(self) -> list[str]:
        """The models whose training would start from zero."""
        return [step.name for step in self.steps if step.from_zero]

    @property
    def unknown(self) -> list[str]:
        """The steps whose files depend on a result that does not exist yet."""
        return [f"{step.stage} of {step.name}" for step in self.steps if step.unknown]


def make_plan(config: Config, processes: int = 1) -> Plan:
    """Compare the configuration with the cache. New files of the cohort are read (and remembered)."""
    results, cohort = Results(Path(config.results)), Path(config.cohort)
    found = find(cohort, config.sources)
    scan = scan_found(found, config.cohort_settings(), results.scan_memory, processes)
    plan = _Planner(config, results, scan).run()
    plan.notices += notices(found, config.sources, config.validation is not None, config.evaluated)
    return plan


class _Planner:
    """Goes through completions and models in order; what a missing result would decide is None."""

    def __init__(self, config: Config, results: Results, scan: CohortScan) -> None:
        self.config = config
        self.results = results
        self.plan = Plan(scan)
        self.cases = [case for case in scan.cases if case.usable]
        self.digests: dict[str, str | None] = {}
        self.weights: dict[str, str] = {}
        self.completed: dict[str, Rows | None] = {}

    def run(self) -> Plan:
        for table, name in self.config.order():
            if table == "models":
                self._model(name)
            else:
                self.completed[name] = self._completion(name)
        return self.plan

    def _load(self, entry: Entry) -> Metadata | None:
        self.plan.used.add(entry.metadata_path)
        return entry.load()

    def _count(self, stage: str, name: str, entries: Sequence[Entry]) -> list[Metadata | None]:
        found = [self._load(entry) for entry in entries]
        self.plan.steps.append(Step(stage, name, len(entries), found.count(None)))
        return found

    def _model(self, name: str) -> None:
        job = self._training_job(name)
        if isinstance(job, str):
            self.plan.steps.append(Step("training", name, 1, 1, f"from zero: {job}", True, True))
            self.digests[name] = None
        else:
            self._training(job)
        if name in self.config.evaluated:
            wanted: Wanted = [(case, NO_EXTRAS) for case in self.cases if case.split == "validation"]
            self._segmentations("predictions", name, name, wanted)
            if self.config.evaluation.efficiency_cases:
                measured = measured_folders(self.results, self.digests[name], self.config.inference_settings(name))
                self.plan.used_folders |= set(measured)

    def _training_job(self, name: str) -> TrainingJob | str:
        """Return a model's training; a text if a result that decides it does not exist yet."""
        settings = self.config.preprocessing_settings(name)
        rows = {}
        for completion in settings.label_completions:
            completed = self.completed[completion]
            if completed is None:
                return "its labels are still to be made"
            rows[completion] = completed
        training = [case for case in self.cases if case.split == "training"]
        cases = select_cases(self.results, training, settings, rows)
        if not cases:
            return "no case is in its categories, so that it cannot be trained"
        if settings.intensity == "measure":
            measured = self._intensity(name, cases)
            if measured is None:
                return "its intensities are still to be measured"
            settings = PreprocessingSettings.of(settings, intensity=measured)
        images = [image_entry(self.results, settings, case.case) for case in cases]
        labels = [label_entry(self.results, settings, case) for case in cases]
        found = [self._load(entry) for entry in labels]
        made = sum(bool(self._load(image)) and label is not None for image, label in zip(images, found, strict=True))
        self.plan.steps.append(Step("preprocessing", name, len(cases), len(cases) - made))
        try:
            rows_made = [record_row(self.results, settings, case) for case in cases]
        except StoreError:
            return "the bundle of a teacher of its labels is still to be written"
        table = [
            row | {"labels_present": " ".join(map(str, metadata["results"]["labels_present"])) if metadata else ""}
            for row, metadata in zip(rows_made, found, strict=True)
        ]
        source = self.config.models[name].pretrained_model
        if source is not None and source not in self.weights:
            return f"{source}, from which it starts, is still to be trained"
        digest = self.weights[source] if source is not None else digest_of(self.config.pretrained_file(name))
        shaping = self.config.training_settings(name)
        shaping = TrainingSettings.of(shaping, intensity=settings.intensity, pretrained=digest or None)
        return TrainingJob(self.results, name, shaping, self.config.label_map.names, table)

    def _intensity(self, name: str, cases: Sequence[TrainingCase]) -> IntensityValues | None:
        """Return a model's measured intensity; None if it is still to be measured."""
        folder = intensity_folder(self.results)
        pooled = self._load(pooled_entry(folder, cases))
        there = sum(self._load(case_entry(folder, case)) is not None for case in cases)
        self.plan.steps.append(Step("intensity", name, len(cases), 0 if pooled else len(cases) - there))
        return IntensityValues.from_json(pooled["results"]["intensity"]) if pooled else None

    def _training(self, job: TrainingJob) -> None:
        self.plan.used_folders.add(job.folder.path)
        done = job.weights.load()
        if done:
            sha256 = done["results"]["weights_sha256"]
            inference = self.config.inference_settings(job.model)
            model = describe(job.model, job.settings, inference, self.config.label_map.labels, sha256)
            self.weights[job.model], self.digests[job.model] = sha256, model_digest(model.to_json())
            preprocessed = not self.plan.steps[-1].to_do
            never = f"; never saw {', '.join(job.unseen)}" if job.unseen and preprocessed else ""
            self.plan.steps.append(Step("training", job.model, 1, 0, f"is trained{never}"))
            return
        self.digests[job.model] = None
        resumes = bool(mark(job.checkpoints))
        note = "resumes from its last checkpoint" if resumes else "from zero"
        if not resumes and self.results.training(job.model).exists():
            note += ": its settings or its training set changed since it was trained"
        self.plan.steps.append(Step("training", job.model, 1, 1, note, not resumes))

    def _segmentations(self, stage: str, name: str, model: str, wanted: Wanted) -> list[Entry] | None:
        """Return the entries of segmentations; None if the model is still to be trained."""
        digest = self.digests[model]
        if digest is None:
            self.plan.steps.append(
                Step(stage, name, len(wanted), len(wanted), f"after {model} is trained", unknown=True)
            )
            return None
        folder = segmentation_folder(self.results, digest, self.config.inference_settings(model))
        entries = [segmentation_entry(folder, case, extras) for case, extras in wanted]
        self._count(stage, name, entries)
        return entries

    def _completion(self, name: str) -> Rows | None:
        """Return a completion's rows; None if a result that decides them does not exist yet."""
        row, settings = self.config.completions[name], self.config.completion_settings(name)
        cases = [case for case in self.cases if case.split == "training" and case.category == row.category]
        known = self.completed[row.base] if row.base is not None else []
        bases = {entry["case"]: entry for entry in known or ()}
        extras = extras_of(self.config.pseudo_label_settings(name))
        wanted = [(case, extras) for case in cases]
        segmented = self._segmentations("pseudo-labels", name, row.teacher, wanted)
        if segmented is None or known is None:
            self.plan.steps.append(Step("completion", name, len(cases), len(cases), unknown=True))
            return None
        folder = completion_folder(self.results, settings)
        predictions = [self.results.relative(entry.file(LABELS)) for entry in segmented]
        entries = [completed_entry(folder, case, file, bases) for case, file in zip(cases, predictions, strict=True)]
        found = self._count("completion", name, entries)
        rows = []
        for case, entry, metadata in zip(cases, entries, found, strict=True):
            known_metadata = metadata or entry.metadata()  # those of a lost file hold the same
            present = known_metadata["results"]["labels_present"] if known_metadata else ()
            text = " ".join(map(str, present))
            rows.append(
                {"case": case.case, "file": self.results.relative(entry.file(LABELS)), "labels_present": text}
            )
        return rows


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
