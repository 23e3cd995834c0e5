# The DAG over the notebooks. `bedkd reproduce PROFILE` writes outputs/<profile>/plan.json and runs
# this file in that folder; by hand: cd outputs/quick && snakemake -s ../../Snakefile --cores 2
#
# A job's name ends in the key of its stage, so a changed parameter, data file or line of code is
# another job. `source`, the notebook's own digest, reruns a job whose notebook alone was edited;
# the results lie under outputs/runs/ and are found again by their key.
import json
import sys

with open("plan.json", encoding="utf-8") as stream:
    PLAN = json.load(stream)
JOBS = PLAN["jobs"]


def needs(wildcards):
    """Stamps of the jobs before. They only say that a result is there (`ancient`): its key says
    which one."""
    job = JOBS[f"{wildcards.notebook}/{wildcards.name}"]
    return [ancient(f"notebooks/{need}.done") for need in job["needs"]]


rule all:
    input:
        [f"notebooks/{job}.done" for job in JOBS],


rule run_notebook:
    input:
        needs,
    output:
        "notebooks/{notebook}/{name}.done",
    # declared, so that a failing cell leaves its traceback behind
    log:
        "notebooks/{notebook}/{name}.ipynb",
    params:
        source=lambda wildcards: JOBS[f"{wildcards.notebook}/{wildcards.name}"]["source"],
        python=sys.executable,
        stamp="notebooks/{notebook}/{name}.done",
    priority: lambda wildcards: JOBS[f"{wildcards.notebook}/{wildcards.name}"]["priority"]
    threads: 1
    # a GPU for each job, where they are counted
    resources:
        **PLAN["resources"],
    shell:
        "OMP_NUM_THREADS={threads} {params.python:q} -m bedkd.batch.run_job"
        " plan.json {wildcards.notebook:q}/{wildcards.name:q}"
        # where Snakemake carries files to and fro, {output} is not the stamp itself
        " && ([ {params.stamp:q} -ef {output:q} ] || cp {params.stamp:q} {output:q})"
