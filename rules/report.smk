# Report: figures of the run.
#
# Takes the configuration's tables, cohort/categories.csv and the evaluations; gives report/method.svg (what was
# trained on what, with the numbers of cases) and report/scores.svg.


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
        mem_mb=2000,
        runtime=10,
    params:
        categories=CONFIG["categories"],
        completions=CONFIG["completions"],
        train_on={name: model["train_on"] for name, model in CONFIG["models"].items()},
    script:
        "../scripts/method_figure.py"


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
        mem_mb=2000,
        runtime=10,
    params:
        models=CONFIG.evaluated,
    script:
        "../scripts/score_figure.py"


rule report:
    """All figures."""
    input:
        rules.method_figure.output,
        rules.score_figure.output if CONFIG.evaluated else [],
