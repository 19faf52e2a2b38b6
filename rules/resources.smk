# Resources: what jobs ask of a machine or a cluster.
#
# The first attempt of a job that would only find that its work is done asks for no GPU, little memory and a few minutes;
# where that was wrong, the next attempt asks for everything. A job that is tried again asks for more memory. Shards and
# trainings go on where they ended, in the same time; short jobs, which begin anew, ask for more of that too.

from flare23_lib.cache.entries import Shard
from flare23_lib.workflow import up_to_date

NOOP_RESOURCES = {"mem_mb": 2000, "runtime": 10, "gpu": 0}


def scaled(amount, failures):
    """Half as much again for each failure, up to twice as much."""
    return int(amount * min(1 + failures / 2, 2))


def scale_with_attempt(amount):
    """A function that gives memory or time: more for each attempt."""
    return lambda wildcards, attempt: scaled(amount, attempt - 1)


def noop_or(is_done, name, amount):
    """A function that gives a resource of a job that goes on where it ended: little if its work is done."""

    def resource(wildcards, input, attempt):
        if attempt == 1 and is_done(wildcards, input):
            return NOOP_RESOURCES[name]
        return scaled(amount, attempt - 1) if name == "mem_mb" else amount

    return resource


def for_training(name, amount):
    """A function that gives a training's resource: little if it is done, or given up in this run of the workflow."""

    def resource(wildcards, input, attempt):
        if attempt == 1:
            return NOOP_RESOURCES[name] if is_trained(wildcards, input) else amount(wildcards)
        training = training_of(wildcards)
        if training.is_given_up():
            return NOOP_RESOURCES[name]
        return scaled(amount(wildcards), training.killed()) if name == "mem_mb" else amount(wildcards)

    return resource


def intensity_record(wildcards):
    """The record of a model's measured intensity as a path; None where it is given."""
    record = measured_intensity(wildcards)
    return Path(record) if record else None


def training_of(wildcards):
    """What there is of a model's training."""
    return up_to_date.Training(
        RESULTS,
        wildcards.model,
        CONFIG.training_settings(wildcards.model),
        SHARDS["preprocessing"],
        intensity_record(wildcards),
        CONFIG.pretrained_file(wildcards.model),
    )


is_measured = up_to_date.Question(
    lambda wildcards: up_to_date.is_measured(RESULTS, CONFIG.intensity_settings(wildcards.model))
)
is_preprocessed = up_to_date.Question(
    lambda wildcards: up_to_date.is_preprocessed(
        RESULTS,
        CONFIG.preprocessing_settings(wildcards.model),
        intensity_record(wildcards),
        Shard.parse(wildcards.shard),
    )
)
is_trained = up_to_date.Question(lambda wildcards: training_of(wildcards).is_done())
is_pseudo_labeled = up_to_date.Question(
    lambda wildcards: up_to_date.is_pseudo_labeled(
        RESULTS,
        teacher_name(wildcards),
        base_name(wildcards) if base_of_runner_up(wildcards) else None,
        CONFIG.pseudo_label_settings(wildcards.completion),
        CONFIG.inference_settings(teacher_name(wildcards)),
        Shard.parse(wildcards.shard),
    )
)
is_completed = up_to_date.Question(
    lambda wildcards: up_to_date.is_completed(
        RESULTS,
        wildcards.completion,
        base_name(wildcards),
        CONFIG.completion_settings(wildcards.completion),
        Shard.parse(wildcards.shard),
    )
)
is_predicted = up_to_date.Question(
    lambda wildcards: up_to_date.is_predicted(
        RESULTS, wildcards.model, CONFIG.inference_settings(wildcards.model), Shard.parse(wildcards.shard)
    )
)
