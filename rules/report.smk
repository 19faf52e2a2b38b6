# Report: figures of the run, and the page that shows everything.
#
# Takes the configuration's tables, the cohort's tables, completed labels, trainings and the evaluations; gives
# report/index.html, which opens from disk, and report/figures/ (each figure as SVG and PNG). The CT viewer is on the page
# if `make viewer` has fetched its library into vendor/niivue.

VIEWER = [f"{workflow.basedir}/vendor/niivue/{name}" for name in ("niivue.js", "LICENSE.txt")]
HAS_VIEWER = all(Path(file).exists() for file in VIEWER)


rule model_card:
    """Write a model's card: labels, cases, scores, intended use."""
    input:
        description=f"{R}/models/{{model}}/model.json",
        record=f"{R}/training/{{model}}/training.json",
        summary=lambda wildcards: expand(
            f"{R}/evaluation/{wildcards.model}/summary.csv" if wildcards.model in CONFIG.evaluated else []
        ),
    output:
        card=f"{R}/models/{{model}}/README.md",
    log:
        f"{R}/logs/model_card/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/model_card/{{model}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(2000),
        runtime=scale_with_attempt(10),
    params:
        results=results,
        settings=settings(about=CONFIG.model_card, evaluated=sorted(CONFIG.evaluated)),
    shell:
        "flare23 stage model-card"
        " --results {params.results:q}"
        " --model {wildcards.model}"
        " --settings {params.settings:q}"
        " --output {output.card:q}"
        " > {log:q} 2>&1"


rule model_cards:
    """The cards of all models."""
    input:
        expand(f"{R}/models/{{model}}/README.md", model=CONFIG.models),


rule cohort_figure:
    """Draw the categories of the cohort and the labels present in them."""
    input:
        categories=f"{R}/cohort/categories.csv",
    output:
        figure=report(
            f"{R}/report/figures/cohort.svg",
            caption="captions/cohort.rst",
            category="Cohort",
            labels={"figure": "cohort"},
        ),
        png=f"{R}/report/figures/cohort.png",
    log:
        f"{R}/logs/report/cohort.log",
    benchmark:
        f"{R}/benchmarks/report/cohort.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(2000),
        runtime=scale_with_attempt(10),
    params:
        labels=dict(zip(LABEL_NAMES, CONFIG.label_map.values)),
    script:
        "../scripts/cohort_figure.py"


rule method_figure:
    """Draw the method as it was configured."""
    input:
        categories=f"{R}/cohort/categories.csv",
    output:
        figure=report(
            f"{R}/report/figures/method.svg",
            caption="captions/method.rst",
            category="Method",
            labels={"figure": "method"},
        ),
        png=f"{R}/report/figures/method.png",
    log:
        f"{R}/logs/report/method.log",
    benchmark:
        f"{R}/benchmarks/report/method.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(2000),
        runtime=scale_with_attempt(10),
    params:
        settings=CONFIG.method_settings().to_json(),
    script:
        "../scripts/method_figure.py"


rule training_figure:
    """Draw the course of a training: losses and pseudo Dice by epoch."""
    input:
        history=f"{R}/training/{{model}}/training.csv",
    output:
        figure=report(
            f"{R}/report/figures/training/{{model}}.svg",
            caption="captions/training.rst",
            category="Training",
            labels={"figure": "{model}"},
        ),
        png=f"{R}/report/figures/training/{{model}}.png",
    log:
        f"{R}/logs/report/training/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/report/training/{{model}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(2000),
        runtime=scale_with_attempt(10),
    script:
        "../scripts/training_figure.py"


rule conflicts_figure:
    """Draw a completion's conflicts: original classes against predicted ones."""
    input:
        confusion=f"{R}/completed_labels/{{completion}}/confusion.csv",
    output:
        figure=report(
            f"{R}/report/figures/pseudo_labels/{{completion}}.svg",
            caption="captions/conflicts.rst",
            category="Pseudo-labels",
            labels={"completion": "{completion}", "figure": "conflicts"},
        ),
        png=f"{R}/report/figures/pseudo_labels/{{completion}}.png",
    log:
        f"{R}/logs/report/pseudo_labels/{{completion}}.log",
    benchmark:
        f"{R}/benchmarks/report/pseudo_labels/{{completion}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(2000),
        runtime=scale_with_attempt(10),
    params:
        label_names=LABEL_NAMES,
    script:
        "../scripts/conflicts_figure.py"


rule score_figure:
    """Draw the scores of the evaluated models by class."""
    input:
        summaries=expand(f"{R}/evaluation/{{model}}/summary.csv", model=CONFIG.evaluated),
        metrics=expand(f"{R}/evaluation/{{model}}/metrics.csv", model=CONFIG.evaluated),
    output:
        figure=report(
            f"{R}/report/figures/scores.svg",
            caption="captions/scores.rst",
            category="Evaluation",
            labels={"figure": "scores by class"},
        ),
        png=f"{R}/report/figures/scores.png",
    log:
        f"{R}/logs/report/scores.log",
    benchmark:
        f"{R}/benchmarks/report/scores.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(2000),
        runtime=scale_with_attempt(10),
    params:
        models=CONFIG.evaluated,
    script:
        "../scripts/score_figure.py"


rule report_page:
    """Make the page of the run."""
    input:
        cases=f"{R}/cohort/cases.csv",
        categories=f"{R}/cohort/categories.csv",
        cohort=rules.cohort_figure.output.figure,
        method=rules.method_figure.output.figure,
        trainings=expand(f"{R}/training/{{model}}/training.json", model=CONFIG.models),
        training_figures=expand(f"{R}/report/figures/training/{{model}}.svg", model=CONFIG.models),
        conflicts=expand(
            f"{R}/completed_labels/{{completion}}/conflicts.csv",
            completion=CONFIG.completions,
        ),
        conflict_figures=expand(
            f"{R}/report/figures/pseudo_labels/{{completion}}.svg",
            completion=CONFIG.completions,
        ),
        predictions=expand(f"{R}/predictions/{{model}}/predictions.csv", model=CONFIG.evaluated),
        metrics=expand(f"{R}/evaluation/{{model}}/metrics.csv", model=CONFIG.evaluated),
        summaries=expand(f"{R}/evaluation/{{model}}/summary.csv", model=CONFIG.evaluated),
        efficiency=expand(f"{R}/evaluation/{{model}}/efficiency.csv", model=MEASURED),
        tables=rules.paper_tables.output if CONFIG.evaluated else [],
        scores=rules.score_figure.output.figure if CONFIG.evaluated else [],
        viewer=VIEWER if HAS_VIEWER else [],
    output:
        page=f"{R}/report/index.html",
    log:
        f"{R}/logs/report/page.log",
    benchmark:
        f"{R}/benchmarks/report/page.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=scale_with_attempt(8000),
        runtime=scale_with_attempt(60),
    params:
        results=results,
        settings=settings(settings=CONFIG.to_json()),
        viewer=f"--viewer {quote(str(Path(VIEWER[0]).parent))}" if HAS_VIEWER else "",
    shell:
        "flare23 stage report"
        " --results {params.results:q}"
        " --settings {params.settings:q}"
        " {params.viewer}"
        " --output {output.page:q}"
        " > {log:q} 2>&1"


rule report:
    """The page of the run and all its figures."""
    input:
        rules.report_page.output,
