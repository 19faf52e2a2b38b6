# Evaluation: a model's predictions of the labeled validation cases, scored.
#
# Takes predictions/{model}/predictions.csv; gives evaluation/{model}/metrics.csv (a row per case, the challenge's
# columns), summary.csv (a row per class) and, if so configured, efficiency.csv (time and memory of single cases) and
# the tables of details; from all models, evaluation/tables/: the paper's tables as CSV, Markdown and LaTeX.


rule evaluate:
    """Score a model's predictions."""
    input:
        cases=f"{R}/cohort/cases.csv",
        training=f"{R}/training/{{model}}/training.json",
        predictions=f"{R}/predictions/{{model}}/predictions.csv",
    output:
        metrics=report(
            f"{R}/evaluation/{{model}}/metrics.csv",
            caption="captions/metrics.rst",
            category="Evaluation",
            labels={"model": "{model}", "table": "by case"},
        ),
        summary=report(
            f"{R}/evaluation/{{model}}/summary.csv",
            caption="captions/summary.rst",
            category="Evaluation",
            labels={"model": "{model}", "table": "by class"},
        ),
        details=expand(f"{R}/evaluation/{{{{model}}}}/{{table}}", table=DETAILS),
    log:
        f"{R}/logs/evaluate/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/evaluate/{{model}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 4
    resources:
        mem_mb=scale_with_attempt(16000),
        runtime=scale_with_attempt(120),
    params:
        results=results,
        settings=settings(version=versions.EVALUATION, settings=CONFIG.evaluation_settings()),
    shell:
        "flare23 stage evaluate"
        " --results {params.results:q}"
        " --model {wildcards.model}"
        " --settings {params.settings:q}"
        " --threads {threads}"
        " --memory {resources.mem_mb}"
        " --output {output.summary:q}"
        " > {log:q} 2>&1"


rule measure_efficiency:
    """Measure a model's inference, one validation case at a time in a fresh process."""
    input:
        cases=f"{R}/cohort/cases.csv",
        model=bundle("{model}"),
    output:
        efficiency=report(
            f"{R}/evaluation/{{model}}/efficiency.csv",
            caption="captions/efficiency.rst",
            category="Evaluation",
            labels={"model": "{model}", "table": "efficiency"},
        ),
    log:
        f"{R}/logs/measure_efficiency/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/measure_efficiency/{{model}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 16  # as a rule the whole machine, so that no other job is measured with it
    resources:
        mem_mb=scale_with_attempt(32000),
        runtime=scale_with_attempt(240),
        gpu=1,
    params:
        results=results,
        settings=settings(
            version=[versions.EFFICIENCY, versions.SEGMENTATION],
            inference=lambda wildcards: CONFIG.inference_settings(wildcards.model),
            cases=CONFIG.evaluation.efficiency_cases,
        ),
        device=DEVICE,
    shell:
        "flare23 stage measure-efficiency"
        " --results {params.results:q}"
        " --model {wildcards.model}"
        " --settings {params.settings:q}"
        " --device {params.device}"
        " --threads {threads}"
        " --output {output.efficiency:q}"
        " > {log:q} 2>&1"


rule paper_tables:
    """Set out the scores of all evaluated models as in the paper's tables."""
    input:
        cases=f"{R}/cohort/cases.csv",
        summaries=expand(f"{R}/evaluation/{{model}}/summary.csv", model=CONFIG.evaluated),
        metrics=expand(f"{R}/evaluation/{{model}}/metrics.csv", model=CONFIG.evaluated),
        efficiency=expand(f"{R}/evaluation/{{model}}/efficiency.csv", model=MEASURED),
    output:
        tables=expand(f"{R}/evaluation/tables/{{table}}.{{format}}", table=TABLES, format=FORMATS),
    log:
        f"{R}/logs/paper_tables.log",
    benchmark:
        f"{R}/benchmarks/paper_tables.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(2000),
        runtime=scale_with_attempt(10),
    params:
        results=results,
        settings=settings(settings=CONFIG.tables_settings()),
        folder=lambda wildcards, output: Path(output.tables[0]).parent,
    shell:
        "flare23 stage paper-tables"
        " --results {params.results:q}"
        " --settings {params.settings:q}"
        " --output {params.folder:q}"
        " > {log:q} 2>&1"


rule efficiency:
    """Time and memory of all evaluated models' inference, if `evaluation.efficiency_cases` is set."""
    input:
        expand(f"{R}/evaluation/{{model}}/efficiency.csv", model=MEASURED),


rule evaluation:
    """All models that are to be evaluated, the records of their predictions, and the paper's tables."""
    input:
        expand(
            f"{R}/predictions/{{model}}/{{shard}}.csv",
            model=CONFIG.evaluated,
            shard=shards("predictions"),
        ),
        expand(f"{R}/evaluation/{{model}}/summary.csv", model=CONFIG.evaluated),
        rules.efficiency.input,
        rules.paper_tables.output if CONFIG.evaluated else [],
