# Evaluation: a model's predictions of the labeled validation cases, scored.
#
# Takes predictions/{model}/predictions.csv; gives evaluation/{model}/metrics.csv (a row per case, the challenge's
# columns) and summary.csv (a row per class).


rule evaluate:
    """Score a model's predictions."""
    input:
        cases=f"{R}/cohort/cases.csv",
        training=f"{R}/training/{{model}}/training.json",
        predictions=f"{R}/predictions/{{model}}/predictions.csv",
    output:
        metrics=report(
            f"{R}/evaluation/{{model}}/metrics.csv",
            category="Evaluation",
            labels={"model": "{model}", "table": "by case"},
        ),
        summary=report(
            f"{R}/evaluation/{{model}}/summary.csv",
            category="Evaluation",
            labels={"model": "{model}", "table": "by class"},
        ),
    log:
        f"{R}/logs/evaluate/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/evaluate/{{model}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 4
    resources:
        mem_mb=16000,
        runtime=120,
    params:
        results=results,
        settings=CONFIG.settings("evaluation"),
    shell:
        "flare23 stage evaluate"
        " --results {params.results:q}"
        " --model {wildcards.model}"
        " --settings {params.settings:q}"
        " --threads {threads}"
        " --summary {output.summary:q}"
        " --output {output.metrics:q}"
        " > {log:q} 2>&1"


rule evaluation:
    """All models that are to be evaluated, and the records of their predictions."""
    input:
        expand(
            f"{R}/predictions/{{model}}/{{shard}}.csv",
            model=CONFIG.evaluated,
            shard=shards("predictions"),
        ),
        expand(f"{R}/evaluation/{{model}}/summary.csv", model=CONFIG.evaluated),
