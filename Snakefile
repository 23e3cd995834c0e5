# The DAG over the notebooks. `bedkd reproduce PROFILE` writes outputs/<profile>/plan.json and runs
# this file in that folder; by hand: cd outputs/quick && snakemake -s ../../Snakefile --cores 2
#
# A job's name ends in the key of its stage, so a changed parameter, data file or line of code is
# another job. The plan says which jobs are to be run (`is_todo`) and has taken their stamps away;
# Snakemake says when. The results lie under outputs/runs/ and are found again by their key.
import json
import sys

with open("plan.json", encoding="utf-8") as stream:
    PLAN = json.load(stream)
# of jobs that share a kernel the last, which has their names
JOBS = {name: job for name, job in PLAN["jobs"].items() if "members" in job}


def needs(wildcards):
    """Stamps of the jobs before. They only say that a result is there (`ancient`): its key says
    which one. A job that is done needs none that is to be run again, or it would be run too."""
    job = JOBS[f"{wildcards.notebook}/{wildcards.name}"]
    wanted = [need for need in job["before"] if job["is_todo"] or not JOBS[need]["is_todo"]]
    return [ancient(f"notebooks/{need}.done") for need in wanted]


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
