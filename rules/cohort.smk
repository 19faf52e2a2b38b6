# Cohort: what cases there are, what is wrong with them, and what each one is.
#
# Takes the files of `sources` in `cohort`; gives cohort/cases.csv (every case), quarantine.csv (what is left out and
# why), warnings.csv (issues that are only listed) and categories.csv (counts); with several sources also sources.csv
# (what each label looks like in each source). The files of the cohort are not declared: the rule runs again when their
# listing changes, and reads only those that are new or changed.


rule cohort:
    """Find, read, check and categorise all cases."""
    output:
        cases=f"{R}/cohort/cases.csv",
        quarantine=report(
            f"{R}/cohort/quarantine.csv",
            category="Cohort",
            labels={"table": "quarantine"},
        ),
        warnings=report(f"{R}/cohort/warnings.csv", category="Cohort", labels={"table": "warnings"}),
        categories=report(
            f"{R}/cohort/categories.csv",
            category="Cohort",
            labels={"table": "categories"},
        ),
    log:
        f"{R}/logs/cohort.log",
    benchmark:
        f"{R}/benchmarks/cohort.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 8
    resources:
        mem_mb=scale_with_attempt(16000),
        runtime=scale_with_attempt(240),
    params:
        results=results,
        settings=settings(
            version=versions.SCAN,
            cohort=CONFIG.cohort,
            settings=CONFIG.cohort_settings(),
        ),
        dataset=dataset_hash,
    shell:
        "flare23 stage cohort"
        " --results {params.results:q}"
        " --settings {params.settings:q}"
        " --threads {threads}"
        " --output {output.cases:q}"
        " > {log:q} 2>&1"
