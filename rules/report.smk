# Report: figures of the run.
#
# Takes the configuration's tables, cohort/categories.csv and the evaluations; gives report/cohort.svg (the categories and
# their labels), report/method.svg (what was trained on what, with the numbers of cases), report/training/{model}.svg and
# report/scores.svg.


rule cohort_figure:
    """Draw the categories of the cohort and the labels present in them."""
    input:
        categories=f"{R}/cohort/categories.csv",
    output:
        figure=report(f"{R}/report/cohort.svg", category="Cohort", labels={"figure": "cohort"}),
    log:
        f"{R}/logs/report/cohort.log",
    benchmark:
        f"{R}/benchmarks/report/cohort.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=more(2000),
        runtime=more(10),
    params:
        labels=[{"name": row["name"], "value": row["value"]} for row in CONFIG["labels"]],
    script:
        "../scripts/cohort_figure.py"


rule method_figure:
    """Draw the method as it was configured."""
    input:
        categories=f"{R}/cohort/categories.csv",
    output:
        figure=report(f"{R}/report/method.svg", category="Method", labels={"figure": "method"}),
    log:
        f"{R}/logs/report/method.log",
    benchmark:
        f"{R}/benchmarks/report/method.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=more(2000),
        runtime=more(10),
    params:
        categories=CONFIG["categories"],
        completions=CONFIG["completions"],
        train_on={name: model["train_on"] for name, model in CONFIG["models"].items()},
    script:
        "../scripts/method_figure.py"


rule training_figure:
    """Draw the course of a training: losses and pseudo Dice by epoch."""
    input:
        history=f"{R}/training/{{model}}/training.csv",
    output:
        figure=report(
            f"{R}/report/training/{{model}}.svg",
            category="Training",
            labels={"figure": "{model}"},
        ),
    log:
        f"{R}/logs/report/training/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/report/training/{{model}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=more(2000),
        runtime=more(10),
    script:
        "../scripts/training_figure.py"


rule conflicts_figure:
    """Draw a completion's conflicts: original classes against predicted ones."""
    input:
        confusion=f"{R}/completed_labels/{{completion}}/confusion.csv",
    output:
        figure=report(
            f"{R}/report/pseudo_labels/{{completion}}.svg",
            category="Pseudo-labels",
            labels={"completion": "{completion}", "figure": "conflicts"},
        ),
    log:
        f"{R}/logs/report/pseudo_labels/{{completion}}.log",
    benchmark:
        f"{R}/benchmarks/report/pseudo_labels/{{completion}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=more(2000),
        runtime=more(10),
    params:
        label_names=LABEL_NAMES,
    script:
        "../scripts/conflicts_figure.py"


rule score_figure:
    """Draw the scores of the evaluated models by class."""
    input:
        summaries=expand(f"{R}/evaluation/{{model}}/summary.csv", model=CONFIG.evaluated),
    output:
        figure=report(
            f"{R}/report/scores.svg",
            category="Evaluation",
            labels={"figure": "scores by class"},
        ),
    log:
        f"{R}/logs/report/scores.log",
    benchmark:
        f"{R}/benchmarks/report/scores.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=more(2000),
        runtime=more(10),
    params:
        models=CONFIG.evaluated,
    script:
        "../scripts/score_figure.py"


rule report:
    """All figures."""
    input:
        rules.cohort_figure.output,
        rules.method_figure.output,
        expand(f"{R}/report/training/{{model}}.svg", model=CONFIG.models),
        expand(
            f"{R}/report/pseudo_labels/{{completion}}.svg",
            completion=CONFIG.completions,
        ),
        rules.score_figure.output if CONFIG.evaluated else [],
