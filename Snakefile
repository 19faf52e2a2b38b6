"""CT segmentation from partial labels: teachers complete what annotators left open, a student learns from all of it.

What a run makes is said by the configuration's tables `completions` and `models`; the order follows from them.
Targets: `all` (the default), `cohort`, `teachers`, `pseudo_labels`, `models`, `efficiency`, `evaluation`,
`report`, `model_cards`, or any file.
"""

from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config.yaml"


include: "rules/common.smk"
include: "rules/resources.smk"
include: "rules/cohort.smk"
include: "rules/training.smk"
include: "rules/pseudo_labels.smk"
include: "rules/segmentation.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        rules.pseudo_labels.input,
        rules.models.input,
        rules.evaluation.input,
        rules.report.input,
        rules.model_cards.input,


onstart:
    refuse_emulation()
    ask_squeue_for_sacct()


onsuccess:
    print_summaries()
