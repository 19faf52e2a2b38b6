# Segmentation: the validation cases as a model sees them.
#
# Takes cohort/cases.csv and a model's bundle; gives predictions/{model}/predictions.csv and, beside it, a link
# {case}.nii.gz for every validation case.


rule predict:
    """Segment a shard of the validation cases."""
    input:
        cases=f"{R}/cohort/cases.csv",
        model=bundle("{model}"),
    output:
        record=f"{R}/predictions/{{model}}/{{shard}}.csv",
    log:
        f"{R}/logs/predict/{{model}}/{{shard}}.log",
    benchmark:
        f"{R}/benchmarks/predict/{{model}}/{{shard}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 4
    resources:
        mem_mb=noop_or(is_predicted, "mem_mb", 32000),
        runtime=noop_or(is_predicted, "runtime", 240),
        gpu=noop_or(is_predicted, "gpu", 1),
        device=DEVICE,
    params:
        results=results,
        settings=settings(
            version=versions.SEGMENTATION, inference=lambda wildcards: CONFIG.inference_settings(wildcards.model)
        ),
    shell:
        "flare23 stage predict"
        " --results {params.results:q}"
        " --model {wildcards.model}"
        " --settings {params.settings:q}"
        " --shard {wildcards.shard}"
        " --device {resources.device}"
        " --threads {threads}"
        " --output {output.record:q}"
        " > {log:q} 2>&1"


rule gather_predictions:
    """Count a model's predictions and link them by plain names."""
    input:
        cases=f"{R}/cohort/cases.csv",
        records=expand(f"{R}/predictions/{{{{model}}}}/{{shard}}.csv", shard=shards("predictions")),
    output:
        predictions=f"{R}/predictions/{{model}}/predictions.csv",
    log:
        f"{R}/logs/gather_predictions/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/gather_predictions/{{model}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(4000),
        runtime=scale_with_attempt(30),
    params:
        results=results,
        shards=SHARDS["predictions"],
    shell:
        "flare23 stage gather-predictions"
        " --results {params.results:q}"
        " --model {wildcards.model}"
        " --shards {params.shards}"
        " --output {output.predictions:q}"
        " > {log:q} 2>&1"
