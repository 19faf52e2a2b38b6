# Resources: what jobs ask of a machine or a cluster.
#
# The first attempt of a job that would only find that its work is done asks for no GPU, little memory and a few minutes;
# where that was wrong, the next attempt asks for everything. A job that is tried again asks for more memory. Shards and
# trainings go on where they ended, in the same time; short jobs, which begin anew, ask for more of that too.

from flare23_lib.cache.entries import Shard
from flare23_lib.errors import FlareError
from flare23_lib.inference.segmentations import segmentation_entries, validation_shard
from flare23_lib.nnunet import retry_state
from flare23_lib.nnunet.training_job import training_job
from flare23_lib.preprocessing import fit_intensity, preprocess_cases
from flare23_lib.pseudo_labels.complete import CompletionJob, all_entries
from flare23_lib.pseudo_labels.pseudo_label import category_shard
from flare23_lib.workflow.resources import NOOP_RESOURCES, noop_or, scale_with_attempt, scaled
from flare23_lib.workflow.up_to_date import UpToDate


def for_training(name, amount):
    """A function that gives a training's resource: little if it is done, or bound to fail in this run of the workflow."""

    def resource(wildcards, input, attempt):
        if attempt == 1:
            return NOOP_RESOURCES[name] if is_trained(wildcards, input) else amount(wildcards)
        try:
            folder = job_of_training(wildcards).folder.path
            if retry_state.is_given_up(folder):
                return NOOP_RESOURCES[name]
            killed = retry_state.killed(folder)
        except (FlareError, KeyError, TypeError, ValueError):  # a broken input, which the job itself will name
            return NOOP_RESOURCES[name]
        except OSError:
            return amount(wildcards)
        return scaled(amount(wildcards), killed) if name == "mem_mb" else amount(wildcards)

    return resource


def intensity_record(wildcards):
    """The record of a model's measured intensity as a path; None where it is given."""
    record = measured_intensity(wildcards)
    return Path(record) if record else None


def job_of_training(wildcards):
    """A model's training."""
    given = intensity_record(wildcards), CONFIG.pretrained_file(wildcards.model)
    settings = CONFIG.training_settings(wildcards.model)
    return training_job(RESULTS, wildcards.model, settings, LABEL_NAMES, SHARDS["preprocessing"], *given)


def pooled_entries(wildcards):
    """What `measure_intensity` keeps."""
    cases = preprocess_cases.training_set(RESULTS, CONFIG.intensity_settings(wildcards.model))
    return [fit_intensity.pooled_entry(fit_intensity.intensity_folder(RESULTS), cases)]


def preprocessed_entries(wildcards):
    """What `preprocess` keeps."""
    settings = CONFIG.preprocessing_settings(wildcards.model)
    settings = fit_intensity.with_intensity(settings, intensity_record(wildcards))
    return preprocess_cases.shard_entries(RESULTS, settings, Shard.parse(wildcards.shard))


def pseudo_label_entries(wildcards):
    """What `pseudo_label` keeps."""
    teacher, settings = teacher_name(wildcards), CONFIG.pseudo_label_settings(wildcards.completion)
    wanted = category_shard(RESULTS, settings, Shard.parse(wildcards.shard))
    return segmentation_entries(RESULTS, teacher, CONFIG.inference_settings(teacher), wanted)


def completed_entries(wildcards):
    """What `complete` keeps."""
    name = wildcards.completion
    job = CompletionJob(RESULTS, name, base_name(wildcards), CONFIG.completion_settings(name), LABEL_NAMES)
    return all_entries(job, Shard.parse(wildcards.shard))


def predicted_entries(wildcards):
    """What `predict` keeps."""
    wanted = validation_shard(RESULTS, Shard.parse(wildcards.shard))
    return segmentation_entries(RESULTS, wildcards.model, CONFIG.inference_settings(wildcards.model), wanted)


is_measured = UpToDate(pooled_entries, has_files=False)
is_preprocessed = UpToDate(preprocessed_entries)
is_trained = UpToDate(lambda wildcards: [job_of_training(wildcards).weights])
is_pseudo_labeled = UpToDate(pseudo_label_entries)
is_completed = UpToDate(completed_entries)
is_predicted = UpToDate(predicted_entries)
