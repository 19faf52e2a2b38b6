"""Whether a job would only find that its work is done, asked before it is submitted.

Such a job need not wait for a GPU or for a long time on a cluster. The answers are quick, not certain: files are
looked for by name and not opened. What is not known yet is not done, and the job asks for all that it may need; so
does the next attempt of a job that asked for too little.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from flare23_lib.cache.entries import Item, Shard, StageFolder
from flare23_lib.cache.results import Results, read_shards
from flare23_lib.config.settings import (
    CompletionSettings,
    InferenceSettings,
    PreprocessingSettings,
    PseudoLabelSettings,
    TrainingSet,
    TrainingSettings,
)
from flare23_lib.dataset.cases import Case, usable_cases
from flare23_lib.errors import FlareError
from flare23_lib.inference.segment_cases import model_digest, segmentation_folder, segmentation_item
from flare23_lib.io.atomic import read_json
from flare23_lib.io.tables import read_csv
from flare23_lib.nnunet import retry_state
from flare23_lib.preprocessing import preprocess_cases
from flare23_lib.preprocessing.fit_intensity import intensity_folder, pooled_item, with_intensity
from flare23_lib.pseudo_labels.base_labels import base_rows
from flare23_lib.pseudo_labels.complete import completed_item, completion_folder
from flare23_lib.pseudo_labels.pseudo_label import exclusion


class Question:
    """Asks something of a job once, as long as the files that it works on stay as they are.

    Args:
        answer: says of a job's wildcards whether its work is done. Bad or missing input means that it is not.
    """

    def __init__(self, answer: Callable[[Any], bool]) -> None:
        self._answer = answer
        self._known: dict[tuple, bool] = {}

    def __call__(self, wildcards: Sequence[str], files: Iterable[str]) -> bool:
        """Return the answer for a job: its wildcards and its input files."""
        try:
            key = (tuple(wildcards), tuple(Path(file).stat().st_mtime_ns for file in files))
            if key not in self._known:
                self._known[key] = self._answer(wildcards)
        except (FlareError, OSError, KeyError, TypeError, ValueError):  # a record of another version lacks columns
            return False
        return self._known[key]


_listings: dict[Path, tuple[int, set[str]]] = {}


def _names(folder: Path) -> set[str]:
    """Return the names in a folder of the store, which is listed again only after it changed."""
    changed = folder.stat().st_mtime_ns
    if folder not in _listings or _listings[folder][0] != changed:
        _listings[folder] = changed, {path.name for path in folder.iterdir()}
    return _listings[folder][1]


def _are_there(items: Sequence[Item]) -> bool:
    return all(item.note_path.name in _names(item.folder) for item in items)


def is_measured(results: Results, settings: TrainingSet) -> bool:
    """Say whether the intensities of a training set are known."""
    return _are_there([pooled_item(intensity_folder(results), preprocess_cases.training_set(results, settings))[0]])


def is_preprocessed(results: Results, settings: PreprocessingSettings, intensity: Path | None, shard: Shard) -> bool:
    """Say whether the preprocessed cases of a shard are there.

    Args:
        results: the results folder.
        settings: what shapes them.
        intensity: record of the measured intensity, if the settings say `measure`.
        shard: which cases.
    """
    settings = with_intensity(settings, intensity)
    cases = [case for case in preprocess_cases.training_set(results, settings) if case.case.case in shard]
    images = [preprocess_cases.image_item(results, settings, case.case)[1] for case in cases]
    labels = [preprocess_cases.label_item(results, settings, case)[1] for case in cases]
    return _are_there(images) and _are_there(labels)


def is_pseudo_labeled(
    results: Results,
    teacher: str,
    base: str | None,
    settings: PseudoLabelSettings,
    inference: InferenceSettings,
    shard: Shard,
) -> bool:
    """Say whether a teacher has segmented the cases of a shard; arguments as `segmentation.pseudo_label`."""
    cases = [case for case in usable_cases(results.cases, "training", settings.category) if case.case in shard]
    exclude = exclusion(settings, base_rows(results, base))
    return _is_segmented(results, teacher, inference, cases, exclude, settings.votes)


def is_predicted(results: Results, model: str, inference: InferenceSettings, shard: Shard) -> bool:
    """Say whether a model has segmented the validation cases of a shard."""
    cases = [case for case in usable_cases(results.cases, "validation") if case.case in shard]
    return _is_segmented(results, model, inference, cases, lambda case: (), False)


def _is_segmented(
    results: Results,
    model: str,
    inference: InferenceSettings,
    cases: Sequence[Case],
    exclude: Callable[[Case], Collection[int]],
    votes: bool,
) -> bool:
    digest = model_digest(read_json(results.model_file(model)))
    folder = segmentation_folder(results, digest, inference)
    return _are_there([segmentation_item(folder, case, exclude(case), votes)[0] for case in cases])


def is_completed(
    results: Results, completion: str, base: str | None, settings: CompletionSettings, shard: Shard
) -> bool:
    """Say whether the completed labels of a shard are there; arguments as `completion.complete`.

    Where cases may be left out their changes are compared too, and the answer is no.
    """
    if settings.exclude_most_changed is not None:
        return False
    cases = [case for case in usable_cases(results.cases, "training", settings.category) if case.case in shard]
    predictions = {row["case"]: row["file"] for row in read_csv(results.shard("pseudo_labels", completion, shard))}
    bases = base_rows(results, base)
    folder = completion_folder(results, settings)
    known = [case for case in cases if case.case in predictions]
    items = [completed_item(folder, case, predictions[case.case], bases)[0] for case in known]
    return len(known) == len(cases) and _are_there(items)


class Training:
    """What there is of a model's training.

    Args:
        results: the results folder.
        model: its name.
        settings: what shapes its weights.
        shards: shards of the preprocessing.
        intensity: record of the measured intensity, if the settings say `measure`.
        pretrained: file of weights that it starts from, or None.
    """

    def __init__(
        self,
        results: Results,
        model: str,
        settings: TrainingSettings,
        shards: int,
        intensity: Path | None = None,
        pretrained: Path | None = None,
    ) -> None:
        from flare23_lib.nnunet.initial_weights import digest_of, with_digest
        from flare23_lib.nnunet.train import training_folder

        settings = with_digest(with_intensity(settings, intensity), digest_of(pretrained))
        self.folder: StageFolder = training_folder(
            results, settings, read_shards(results, "preprocessed", model, shards)
        )

    def is_done(self) -> bool:
        """Say whether the final weights are there."""
        from flare23_lib.nnunet.train import weights_item

        return weights_item(self.folder).note_path.exists()

    def is_given_up(self) -> bool:
        """Say whether an attempt of this run of the workflow failed in a way that another cannot mend."""
        return retry_state.is_given_up(self.folder.path)

    def killed(self) -> int:
        """Return how many attempts of this run were ended by force, as for want of memory."""
        return retry_state.killed(self.folder.path)
