# Training: a model out of the labels that its row in `models` names.
#
# Takes cohort/cases.csv, the gathered completions that the model learns from and the weights that it starts from, if it
# does; gives the record training/{model}/training.json and the deployable bundle models/{model}/. Preprocessed cases,
# checkpoints and logs lie in the store; a job that is started again goes on from its last checkpoint.


rule measure_intensity:
    """Measure the intensities of a model's training set, where they are not given."""
    input:
        cases=f"{R}/cohort/cases.csv",
        completed=completed_labels,
    output:
        record=f"{R}/training/{{model}}/intensity.json",
    log:
        f"{R}/logs/measure_intensity/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/measure_intensity/{{model}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 4
    resources:
        mem_mb=noop_or(is_measured, "mem_mb", 12000),
        runtime=noop_or(is_measured, "runtime", 480),
    params:
        results=results,
        settings=settings(
            version=versions.INTENSITY, settings=lambda wildcards: CONFIG.intensity_settings(wildcards.model)
        ),
    shell:
        "flare23 stage measure-intensity"
        " --results {params.results:q}"
        " --model {wildcards.model}"
        " --settings {params.settings:q}"
        " --threads {threads}"
        " --output {output.record:q}"
        " > {log:q} 2>&1"


rule preprocess:
    """Prepare a shard of a model's training cases."""
    input:
        cases=f"{R}/cohort/cases.csv",
        completed=completed_labels,
        intensity=measured_intensity,
    output:
        record=f"{R}/preprocessed/{{model}}/{{shard}}.csv",
    log:
        f"{R}/logs/preprocess/{{model}}/{{shard}}.log",
    benchmark:
        f"{R}/benchmarks/preprocess/{{model}}/{{shard}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=noop_or(is_preprocessed, "mem_mb", 6000),
        runtime=noop_or(is_preprocessed, "runtime", 480),
    params:
        results=results,
        settings=settings(
            version=[versions.PREPROCESSED_IMAGE, versions.PREPROCESSED_LABEL],
            settings=lambda wildcards: CONFIG.preprocessing_settings(wildcards.model),
            patch_size=lambda wildcards: CONFIG.models[wildcards.model].patch_size,
            organs=lambda wildcards: CONFIG.background_organs(wildcards.model),
            label_names=LABEL_NAMES,
        ),
        intensity=option("--intensity", measured_intensity),
    shell:
        "flare23 stage preprocess"
        " --results {params.results:q}"
        " --model {wildcards.model}"
        " --settings {params.settings:q}"
        " {params.intensity}"
        " --shard {wildcards.shard}"
        " --output {output.record:q}"
        " > {log:q} 2>&1"


rule train:
    """Train a model to its last epoch, from its last checkpoint if there is one."""
    input:
        records=expand(
            f"{R}/preprocessed/{{{{model}}}}/{{shard}}.csv",
            shard=shards("preprocessing"),
        ),
        intensity=measured_intensity,
        pretrained=pretrained,
    output:
        record=f"{R}/training/{{model}}/training.json",
        history=f"{R}/training/{{model}}/training.csv",
    log:
        f"{R}/logs/train/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/train/{{model}}.tsv"
    retries: RETRIES
    conda:
        "../envs/workflow.yaml"
    threads: 12
    resources:
        mem_mb=for_training("mem_mb", lambda wildcards: 64000),
        runtime=for_training("runtime", lambda wildcards: 4320),
        gpu=for_training("gpu", lambda wildcards: CONFIG.models[wildcards.model].gpus),
        nodes=1,  # SLURM may divide several GPUs among nodes
        processes=lambda wildcards: CONFIG.models[wildcards.model].gpus,
        attempt=lambda wildcards, attempt: attempt,
        device=DEVICE,
        checkpoint_minutes=CHECKPOINT_MINUTES,
    params:
        results=results,
        settings=settings(
            version=[versions.TRAINING, versions.HIDDEN_LABELS],
            settings=lambda wildcards: CONFIG.training_settings(wildcards.model),
            label_names=LABEL_NAMES,
            pretrained=pretrained,
        ),
        shards=SHARDS["preprocessing"],
        intensity=option("--intensity", measured_intensity),
        pretrained=option("--pretrained", pretrained),
    # exec: a signal to all of a job's processes would end a shell, and with it the job, before the training has saved.
    shell:
        "exec flare23 stage train"
        " --results {params.results:q}"
        " --model {wildcards.model}"
        " --settings {params.settings:q}"
        " {params.intensity}"
        " {params.pretrained}"
        " --shards {params.shards}"
        " --device {resources.device}"
        " --threads {threads}"
        " --checkpoint-minutes {resources.checkpoint_minutes}"
        " --gpus {resources.processes}"
        " --attempt {resources.attempt}"
        " --history {output.history:q}"
        " --output {output.record:q}"
        " > {log:q} 2>&1"


rule bundle:
    """Write a trained model's bundle."""
    input:
        record=f"{R}/training/{{model}}/training.json",
    output:
        description=f"{R}/models/{{model}}/model.json",
        weights=f"{R}/models/{{model}}/model.safetensors",
    log:
        f"{R}/logs/bundle/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/bundle/{{model}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(16000),
        runtime=scale_with_attempt(10),
    params:
        results=results,
        settings=settings(inference=lambda wildcards: CONFIG.inference_settings(wildcards.model), labels=LABELS),
    shell:
        "flare23 stage export"
        " --results {params.results:q}"
        " --model {wildcards.model}"
        " --settings {params.settings:q}"
        " --output {output.description:q}"
        " > {log:q} 2>&1"


rule teachers:
    """All teachers."""
    input:
        expand(bundle("{model}"), model=TEACHERS),


rule models:
    """All models, and the records that they were made from (so that one withdrawn is made again)."""
    input:
        expand(
            f"{R}/preprocessed/{{model}}/{{shard}}.csv",
            model=CONFIG.models,
            shard=shards("preprocessing"),
        ),
        expand(f"{R}/training/{{model}}/training.json", model=CONFIG.models),
        expand(bundle("{model}"), model=CONFIG.models),
