"""What Snakemake's log says of jobs that could not say it themselves."""

from bedkd.batch.lost import KILLED, note_lost_jobs, read_errors

# as Snakemake 9.27 writes them: locally, on Slurm, and where it carries files to a storage
LOG = """Select jobs to execute...
[Fri Nov 20 17:41:02 2026]
Error in rule run_notebook:
    message: None
    jobid: 7
    output: notebooks/04_akd/killed-s3-77.done
    log: notebooks/04_akd/killed-s3-77.ipynb (check log file(s) for error details)
    shell:
        OMP_NUM_THREADS=1 python -m bedkd.batch.run_job plan.json 04_akd/killed-s3-77
        (command exited with non-zero exit code)
[Fri Nov 20 17:41:02 2026]
Error in rule run_notebook:
    message: SLURM-job '2' failed, SLURM status is: 'CANCELLED'. For further error details see
    jobid: 5
    input: notebooks/01_poisoning/other-s3-11.done
    output: notebooks/02_dmm/gone-s3-42.done
    log: notebooks/02_dmm/gone-s3-42.ipynb, /scratch/2.log (check log file(s) for error details)
    external_jobid: 2
Finished jobid: 3 (Rule: run_notebook)
Error in rule run_notebook:
    message: pod evicted
    output: /shared/quick/notebooks/03_mepd/pod-s3-5.done (send to storage)
    log: /shared/quick/notebooks/03_mepd/pod-s3-5.ipynb (send to storage) (check log file(s))
    external_jobid: snakejob-1
"""


def test_errors_are_read_by_job():
    assert read_errors(LOG) == {
        "04_akd/killed-s3-77": KILLED,
        "02_dmm/gone-s3-42": "SLURM-job '2' failed, SLURM status is: 'CANCELLED'. "
        "(log: /scratch/2.log)",
        "03_mepd/pod-s3-5": "pod evicted",
    }
    assert read_errors("") == {}


def test_only_of_a_job_that_said_nothing(tmp_path):
    said = tmp_path / "notebooks/02_dmm/gone-s3-42.failed"
    done = tmp_path / "notebooks/03_mepd/pod-s3-5.done"
    for path in (said, done):
        path.parent.mkdir(parents=True)
        path.write_text("its own words")
    (tmp_path / "snakemake.log").write_text(LOG)
    note_lost_jobs(tmp_path)
    assert (tmp_path / "notebooks/04_akd/killed-s3-77.failed").read_text() == f"{KILLED}\n"
    assert said.read_text() == "its own words"
    assert not done.with_suffix(".failed").exists()


def test_only_of_this_run(tmp_path):
    (tmp_path / "snakemake.log").write_text(LOG)
    note_lost_jobs(tmp_path, len(LOG))
    assert not (tmp_path / "notebooks").exists()
