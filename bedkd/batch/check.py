"""`bedkd check PROFILE`: what a profile needs and has, told before anything long starts."""

import os
import platform
import re
import shutil
import tomllib
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bedkd.batch.estimate import (
    expect_seconds,
    kept_model,
    measured,
    read_records,
    weights_bytes,
)
from bedkd.batch.inputs import list_runs, list_sources, look_for
from bedkd.core.devices import device_name, pick_compute
from bedkd.core.errors import BedkdError
from bedkd.runs.folders import Run
from bedkd.runs.launch import check_devices
from bedkd.runs.plan import Job, list_results, plan_jobs
from bedkd.runs.profiles import PROJECT, Profile, outputs_folder
from bedkd.runs.sweeps import is_settled


@dataclass(frozen=True)
class Line:
    """What was looked at. `problem`: what to provide, where the profile cannot start without."""

    topic: str
    text: str
    problem: str = ""


def check_profile(profile: Profile, overrides: dict, cores: int) -> int:
    """Print a report. Returns 0 if the profile can start, 1 if something is missing.

    Trains nothing and writes nothing.

    Raises BedkdError: an unknown parameter, or a value out of range.
    """
    runs = list_runs(profile, overrides)
    sources = look_for(list_sources(runs, profile.list_defences(overrides)))
    lines = [*check_packages(PROJECT), *check_device(runs[0], cores), *check_sources(sources)]
    if any(line.problem for line in lines):
        lines.append(Line("jobs", "not counted: their names hang on what is missing"))
    else:
        lines += check_work(plan_jobs(profile, overrides), cores)
    return show(profile.name, lines)


def show(name: str, lines: list[Line]) -> int:
    before = None
    for line in lines:
        print(f"{line.topic if line.topic != before else '':<15} {line.text}")
        before = line.topic
    problems = list(dict.fromkeys(line.problem for line in lines if line.problem))
    if not problems:
        print(f"\n{name} can start.")
        return 0
    print(f"\n{name} cannot start. Missing:")
    print("\n".join(f"- {problem}" for problem in problems))
    return 1


def check_packages(project: Path) -> list[Line]:
    """The direct dependencies; another version than the pinned one is worth a word, no more."""
    names = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (project / "constraints.txt").read_text(), re.M))
    pins = {canonical(name): pin for name, pin in pins.items()}
    lines, n_found = [], 0
    for name in (re.match(r"[\w.-]+", line)[0] for line in names):
        pin = pins.get(canonical(name))
        try:
            found = version(name)
        except PackageNotFoundError:
            problem = f"the package {name}: pip install -c constraints.txt -e ."
            lines.append(Line("packages", f"{name} is not installed", problem))
            continue
        n_found += 1
        if pin and found.split("+")[0] != pin:  # torch 2.13.0+cpu is 2.13.0
            lines.append(Line("packages", f"{name} is {found}, constraints.txt has {pin}"))
    text = f"Python {platform.python_version()}, {n_found} of {len(names)} packages found"
    return [Line("packages", text + ", as in constraints.txt" * (not lines)), *lines]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_device(run: Run, cores: int) -> list[Line]:
    try:
        compute = pick_compute(run.config.device, run.config.precision)
        check_devices(compute.device.type, run.config.devices)
    except BedkdError as error:
        return [Line("device", f"{run.config.device} cannot be used", str(error))]
    precision = str(compute.dtype).removeprefix("torch.")
    text = f"{device_name(compute.device)} in {precision}; {os.cpu_count()} cores"
    return [Line("device", f"{text}, {show_jobs(cores)} at a time with one thread each")]


def check_sources(found: list[tuple[str, str, str, str]]) -> list[Line]:
    width = max(len(name) for _, name, _, _ in found)
    return [
        Line(kind, f"{name:<{width}}  {where or 'not found'}", problem)
        for kind, name, where, problem in found
    ]


def cell_of(job: Job) -> tuple[str, str, int]:
    c = job.results[0][0].config
    return c.data.name, c.attack.name, c.seed


def check_work(jobs: list[Job], cores: int) -> list[Line]:
    """What is done and what is left, with the disk and the time that this will take."""
    results = list_results(jobs)
    left = [(run, stage) for run, stage in results if not is_settled(run, stage)]
    folders = {run.folder(stage) for run, stage in left}
    is_done = [not folders & {run.folder(stage) for run, stage in job.results} for job in jobs]
    cells: dict[tuple, bool] = {}
    for job, done in zip(jobs, is_done, strict=True):
        cells[cell_of(job)] = cells.get(cell_of(job), True) and done
    # not the model that never saw poison, which the others are held against
    defended = {cell_of(job) for job in jobs if any(s == "akd" for _, s in job.results)}
    cells = {cell: done for cell, done in cells.items() if cell in defended}
    todo = Counter(job.notebook for job, done in zip(jobs, is_done, strict=True) if not done)
    counts = ", ".join(f"{notebook} {n}" for notebook, n in sorted(todo.items()))
    records = read_records()
    return [
        Line("cells", f"{sum(cells.values())} of {len(cells)} done"),
        Line("jobs", f"{sum(is_done)} of {len(jobs)} done" + (f"; to do: {counts}" * bool(todo))),
        check_disk(left, records),
        *check_time(left, records, cores),
    ]


def check_disk(left: list[tuple[Run, str]], records: list[dict]) -> Line:
    """Weights alone: the rest is small."""
    folder = outputs_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    models = Counter(name for run, stage in left if (name := kept_model(run, stage)))
    sizes = {name: weights_bytes(name, records) for name in models}
    need = sum(n * sizes[name][0] for name, n in models.items())
    each = [
        f"{n} of {name} with {show_bytes(sizes[name][0])}{'' if sizes[name][1] else ' (assumed)'}"
        for name, n in models.items()
    ]
    text = f"{show_bytes(free)} free in {folder}, about {show_bytes(need)} needed"
    text += f" for the models to be kept: {', '.join(each)}" if each else ""
    problem = f"disk space: {text}; or set BEDKD_OUTPUTS to another folder"
    return Line("disk", text, problem if need > free else "")


def check_time(left: list[tuple[Run, str]], records: list[dict], cores: int) -> list[Line]:
    """From the medians of what was measured; what never was is counted, not guessed."""
    if not left:
        return [Line("time left", "none")]
    c = left[0][0].config
    known = list(measured(records, device_name(pick_compute(c.device, c.precision).device)))
    expected = [(stage, expect_seconds(run, stage, known)) for run, stage in left]
    unknown = Counter(stage for stage, seconds in expected if seconds is None)
    seconds = [seconds for _, seconds in expected if seconds is not None]
    if not seconds:
        return [Line("time left", "unknown: nothing like it was measured yet")]
    text = f"about {show_seconds(sum(seconds) / cores)} with {show_jobs(cores)} at a time"
    lines = [Line("time left", f"{text}; start-up and evaluation come on top")]
    if unknown:
        stages = ", ".join(f"{stage} {n}" for stage, n in unknown.items())
        lines.append(Line("time left", f"without what was never measured: {stages}"))
    return lines


def show_jobs(n: int) -> str:
    return "1 job" if n == 1 else f"{n} jobs"


def show_bytes(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.0f} MB"


def show_seconds(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
