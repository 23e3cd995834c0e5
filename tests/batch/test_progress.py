"""What a running batch says, from what its jobs leave."""

import pytest

from bedkd.batch import progress
from bedkd.batch.progress import Progress
from bedkd.batch.run_job import job_file
from bedkd.core.files import write_json, write_text

JOBS = ("a/before", "a/one", "a/two", "b/three")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def plan(tmp_path):
    end(tmp_path, "a/before", 180.0)
    jobs = {name: {"title": f"cell {name[2:]}"} for name in JOBS}
    return {"jobs": jobs, "summaries": {"c/tables": {"title": "quick"}}}


def end(folder, job, seconds):
    write_json(job_file(folder, job, "done"), {"seconds": seconds, "source": "x"})


def look(progress, capsys):
    progress.look()
    return capsys.readouterr().out.splitlines()


def test_each_end_is_said_once_with_the_count_and_the_time_left(plan, tmp_path, clock, capsys):
    with Progress(plan, tmp_path, list(JOBS[1:])) as said:
        assert look(said, capsys) == []
        clock[0] = 60.0
        end(tmp_path, "a/one", 120.0)
        # two at a time so far: 150 s, the mean of a, for each of a and the unknown b
        expected = "[2/5]     done   a              cell one 120.0 s; about 2 min left"
        assert look(said, capsys) == [expected]
        assert look(said, capsys) == []
        write_text(job_file(tmp_path, "a/two", "failed"), "no such file\n")
        (line,) = look(said, capsys)
        assert line.startswith(
            "[3/5]     failed a              cell two: no such file; about 1 min"
        )
        end(tmp_path, "b/three", 10.0)
        assert look(said, capsys) == ["[4/5]     done   b              cell three 10.0 s"]


def test_a_stamp_that_is_half_written_is_none_yet(plan, tmp_path, capsys):
    job_file(tmp_path, "b/three", "done").parent.mkdir(parents=True)
    job_file(tmp_path, "b/three", "done").write_text('{"seconds": ')
    with Progress(plan, tmp_path, list(JOBS[1:])) as said:
        assert look(said, capsys) == []


def test_it_follows_a_process_to_its_end(plan, tmp_path, capsys):
    class Process:
        returncode, looks = 7, 0

        def poll(self):
            self.looks += 1
            end(tmp_path, JOBS[self.looks], 1.0)
            return self.returncode if self.looks == 3 else None

    with Progress(plan, tmp_path, list(JOBS[1:])) as said:
        assert said.follow(Process()) == 7
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "[2/5]",
        "[3/5]",
        "[4/5]",
    ]
