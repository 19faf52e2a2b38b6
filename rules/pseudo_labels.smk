# Pseudo-labels: a teacher's predictions, merged under the original annotations.
#
# Takes cohort/cases.csv, a teacher's bundle and, for a completion that builds on another, that one's record; gives
# completed_labels/{completion}/conflicts.csv (a row per case) and confusion.csv (original against predicted classes), and
# beside them a link {case}.nii.gz for every case of the category.
# Shards work case by case: what lies whole in the store is not made again.


rule pseudo_label:
    """Segment a shard of a category with its teacher."""
    input:
        cases=f"{R}/cohort/cases.csv",
        teacher=lambda wildcards: bundle(teacher_name(wildcards)),
    output:
        record=f"{R}/pseudo_labels/{{completion}}/{{shard}}.csv",
    log:
        f"{R}/logs/pseudo_label/{{completion}}/{{shard}}.log",
    benchmark:
        f"{R}/benchmarks/pseudo_label/{{completion}}/{{shard}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 4
    resources:
        mem_mb=noop_or(is_pseudo_labeled, "mem_mb", 32000),
        runtime=noop_or(is_pseudo_labeled, "runtime", 720),
        gpu=noop_or(is_pseudo_labeled, "gpu", 1),
        device=DEVICE,
    params:
        results=results,
        settings=settings(
            version=versions.SEGMENTATION,
            settings=lambda wildcards: CONFIG.pseudo_label_settings(wildcards.completion),
            teacher=teacher_name,
            inference=lambda wildcards: CONFIG.inference_settings(teacher_name(wildcards)),
        ),
    shell:
        "flare23 stage pseudo-label"
        " --results {params.results:q}"
        " --settings {params.settings:q}"
        " --shard {wildcards.shard}"
        " --device {resources.device}"
        " --threads {threads}"
        " --output {output.record:q}"
        " > {log:q} 2>&1"


rule complete:
    """Merge a shard's original annotations and pseudo-labels."""
    input:
        cases=f"{R}/cohort/cases.csv",
        pseudo_labels=f"{R}/pseudo_labels/{{completion}}/{{shard}}.csv",
        base=base,
    output:
        record=f"{R}/completed_labels/{{completion}}/{{shard}}.csv",
    log:
        f"{R}/logs/complete/{{completion}}/{{shard}}.log",
    benchmark:
        f"{R}/benchmarks/complete/{{completion}}/{{shard}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=noop_or(is_completed, "mem_mb", 16000),
        runtime=noop_or(is_completed, "runtime", 240),
    params:
        results=results,
        settings=settings(
            version=[versions.MERGE, versions.SPECKS, versions.SPECK_VOTES],
            settings=lambda wildcards: CONFIG.completion_settings(wildcards.completion),
            label_names=LABEL_NAMES,
            base=base_name,
        ),
    shell:
        "flare23 stage complete"
        " --results {params.results:q}"
        " --completion {wildcards.completion}"
        " --settings {params.settings:q}"
        " --shard {wildcards.shard}"
        " --output {output.record:q}"
        " > {log:q} 2>&1"


rule gather_completed:
    """Count a category's completed labels and conflicts, and link them by plain names."""
    input:
        cases=f"{R}/cohort/cases.csv",
        records=expand(
            f"{R}/completed_labels/{{{{completion}}}}/{{shard}}.csv",
            shard=shards("pseudo_labels"),
        ),
    output:
        conflicts=report(
            f"{R}/completed_labels/{{completion}}/conflicts.csv",
            category="Pseudo-labels",
            labels={"completion": "{completion}", "table": "conflicts"},
        ),
        confusion=f"{R}/completed_labels/{{completion}}/confusion.csv",
    log:
        f"{R}/logs/gather_completed/{{completion}}.log",
    benchmark:
        f"{R}/benchmarks/gather_completed/{{completion}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(4000),
        runtime=scale_with_attempt(30),
    params:
        results=results,
        settings=settings(
            settings=lambda wildcards: CONFIG.completion_settings(wildcards.completion), label_names=LABEL_NAMES
        ),
        shards=SHARDS["pseudo_labels"],
    shell:
        "flare23 stage gather-completed"
        " --results {params.results:q}"
        " --completion {wildcards.completion}"
        " --settings {params.settings:q}"
        " --shards {params.shards}"
        " --output {output.conflicts:q}"
        " --confusion {output.confusion:q}"
        " > {log:q} 2>&1"


rule pseudo_labels:
    """All completed labels, and the records that they were made from."""
    input:
        expand(
            f"{R}/{{stage}}/{{completion}}/{{shard}}.csv",
            stage=["pseudo_labels", "completed_labels"],
            completion=CONFIG.completions,
            shard=shards("pseudo_labels"),
        ),
        expand(
            f"{R}/completed_labels/{{completion}}/conflicts.csv",
            completion=CONFIG.completions,
        ),
