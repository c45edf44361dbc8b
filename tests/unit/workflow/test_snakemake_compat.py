"""Each use of what Snakemake does not document, with the real Snakemake: a test that fails says what has changed."""

import asyncio
import json
import logging
import shlex
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import forked_python
import pytest
from snakemake.scheduling.job_scheduler import JobScheduler

from ecgpipe.workflow.snakemake_compat import look_again_once, see_cancelled_jobs, shell_prefix

ROOT = Path(__file__).parents[3]

HEAD = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.workflow.snakemake_compat import Engine, errors_of_workflow
ENGINE = Engine(workflow)

def say(value):
    print("SAYS", json.dumps(value), file=sys.stderr)
"""

# A rule whose input is named when jobs are planned; by then it is known what Snakemake is asked to do.
PLANNED = """
rule all:
    input:
        lambda wildcards: say({what}) or []
    output:
        "all.txt"
    shell:
        "touch {{output}}"
"""


def snakemake(folder: Path, text: str, *options: str, name: str = "Snakefile") -> tuple[int, str]:
    """Run Snakemake in a folder with a Snakefile of this text."""
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text(text)
    command = ["-m", "snakemake", "--snakefile", str(folder / name), "--cores", "2", *options]
    return forked_python.run(command, folder, timeout_s=600)


def said(folder: Path, text: str, *options: str) -> list[Any]:
    """What the Snakefile `HEAD` and `text` says by `say`."""
    status, output = snakemake(folder, HEAD + text, *options)
    assert status == 0, output
    return [json.loads(line.removeprefix("SAYS ")) for line in output.splitlines() if line.startswith("SAYS ")]


def test_the_main_process_is_distinguished_from_that_of_a_job(tmp_path: Path) -> None:
    rule = "say(ENGINE.is_main_process)\nrule all:\n    output:\n        'x'\n    run:\n        Path('x').touch()\n"
    assert said(tmp_path, rule) == [True, False]  # a `run:` block is a process that parses the Snakefile again


@pytest.mark.parametrize(
    ("options", "runs"), [([], True), (["--dry-run"], False), (["--touch"], False), (["--summary"], False)]
)
def test_a_run_is_distinguished_from_what_only_looks(tmp_path: Path, options: list[str], runs: bool) -> None:
    assert set(said(tmp_path, PLANNED.format(what="ENGINE.runs_jobs"), *options)) == {runs}


def test_times_count_whatever_the_content(tmp_path: Path) -> None:
    rule = "rule all:\n    input:\n        planned\n    output:\n        'out'\n    shell:\n        'touch {output}'\n"
    ignores = "def planned(wildcards):\n    ENGINE.ignore_checksums()\n    return 'in'\n" + rule
    (tmp_path / "in").write_text("the same")
    assert snakemake(tmp_path, HEAD + ignores)[0] == 0
    (tmp_path / "in").write_text("the same")
    believes = ignores.replace("    ENGINE.ignore_checksums()\n", "")
    assert "Nothing to be done" in snakemake(tmp_path, HEAD + believes, "--dry-run")[1]
    assert "Updated input files: in" in snakemake(tmp_path, HEAD + ignores, "--dry-run")[1]


def test_cores_and_limits_are_those_of_the_command_line(tmp_path: Path) -> None:
    text = "say([ENGINE.cores, ENGINE.limit('gpu')])\nrule all:\n    output:\n        'x'\n"
    assert said(tmp_path, text, "--dry-run", "--cores", "3", "--resources", "gpu=4") == [[3, 4]]
    assert said(tmp_path, text, "--dry-run") == [[2, None]]


def test_a_rule_with_threads_of_its_own_is_known(tmp_path: Path) -> None:
    text = "say([ENGINE.sets_threads('infer'), ENGINE.sets_threads('all')])\nrule all:\n    output:\n        'x'\n"
    assert said(tmp_path, text, "--dry-run", "--set-threads", "infer=3") == [[True, False]]


def test_conda_is_known(tmp_path: Path) -> None:
    text = "say(ENGINE.uses_conda)\nrule all:\n    output:\n        'x'\n"
    assert said(tmp_path, text, "--dry-run", "--software-deployment-method", "conda") == [True]
    assert said(tmp_path, text, "--dry-run") == [False]


BEFORE = """
rule all:
    input:
        lambda wildcards: {before}
    output:
        "all.txt"
    shell:
        "cat first.txt > {{output}} || echo nothing > {{output}}"

rule first:
    output:
        "first.txt"
    shell:
        "echo first > {{output}}"
"""


def test_an_input_that_is_only_made_before_is_no_reason_to_run_a_job_again(tmp_path: Path) -> None:
    waits, does_not = BEFORE.format(before="ENGINE.only_before(['first.txt'])"), BEFORE.format(before="[]")
    assert snakemake(tmp_path, HEAD + waits)[0] == 0
    assert (tmp_path / "all.txt").read_text() == "first\n"  # it was made before
    for text in (waits, does_not, waits):
        (tmp_path / "first.txt").write_text("a newer one")
        assert "Nothing to be done" in snakemake(tmp_path, HEAD + text, "--dry-run")[1]
    assert snakemake(tmp_path, HEAD + does_not, "--force")[0] == 0
    assert "Nothing to be done" in snakemake(tmp_path, HEAD + waits, "--dry-run")[1]
    named = BEFORE.format(before="'first.txt'")
    assert "Set of input files has changed" in snakemake(tmp_path, HEAD + named, "--dry-run")[1]


def test_the_folder_is_that_of_the_snakefile_also_in_a_module(tmp_path: Path) -> None:
    inner = HEAD + "say(str(ENGINE.folder()))\nrule all:\n    output:\n        'x'\n"
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "Snakefile").write_text(inner)
    outer = "module inner:\n    snakefile: 'inner/Snakefile'\nuse rule * from inner\n"
    status, output = snakemake(tmp_path, outer, "--dry-run", "all")
    assert status == 0
    assert f'SAYS "{tmp_path / "inner"}"' in output


SHELL = """
ENGINE.prepare_shell(Path({root!r}))
ENGINE.prepare_shell(Path({root!r}))  # as where a workflow uses the Snakefile twice
rule all:
    output:
        "x"
    shell:
        "echo $(command -v python3) $PYTHONPATH > {{output}}; {more}"
"""


def test_shell_lines_have_the_python_of_snakemake_and_find_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)  # what it has stays behind the package
    root = str(tmp_path / "a {b} 'c'")
    status, output = snakemake(tmp_path, HEAD + SHELL.format(root=root, more="true"))
    assert status == 0, output
    assert (tmp_path / "x").read_text() == f"{forked_python.program()} {root}\n"


def test_a_shell_line_still_stops_at_the_first_error_of_a_pipe(tmp_path: Path) -> None:
    assert snakemake(tmp_path, HEAD + SHELL.format(root="/x", more="false | true"))[0] != 0


def test_what_a_workflow_has_set_before_its_shell_lines_stays(tmp_path: Path) -> None:
    text = "shell.prefix('set -e; echo first > before; ')\n" + SHELL.format(root="/x", more="true")
    assert snakemake(tmp_path, HEAD + text)[0] == 0
    assert (tmp_path / "before").exists()
    assert (tmp_path / "x").exists()


def test_in_a_conda_environment_its_python_stays_and_the_package_is_found(tmp_path: Path) -> None:
    # The prefix comes after the activation of the environment.
    (tmp_path / "python3").write_text('#!/bin/sh\necho "of conda $PYTHONPATH"\n')
    (tmp_path / "python3").chmod(0o755)
    activated = f"unset PYTHONPATH; export PATH={shlex.quote(str(tmp_path))}:$PATH; set -euo pipefail; "
    line = f"{activated}{shell_prefix(None, Path('/the clone'))}python3"
    done = subprocess.run(["/bin/bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "of conda /the clone\n"


def test_an_error_of_ecgpipe_is_shown_without_a_traceback(tmp_path: Path) -> None:
    text = "with errors_of_workflow():\n    raise EcgpipeError('input: not there; check the path')\n"
    status, output = snakemake(tmp_path, HEAD + text)
    assert status == 1
    assert "input: not there; check the path" in output
    assert "Traceback" not in output


def test_lines_of_ecgpipe_come_in_order_with_the_facts_for_logger_plugins(tmp_path: Path) -> None:
    rule = "rule all:\n    output:\n        'x'\n    shell:\n        'touch x'\n"
    text = rule + "onstart:\n    ENGINE.say('two\\nlines', a=1)\n"
    status, output = snakemake(tmp_path, HEAD + text)
    assert status == 0, output
    assert "two\nlines\n" in output


@pytest.mark.parametrize(
    ("options", "shows"),
    [
        (["--logger", "ecgpipe"], True),
        (["--logger", "ecgpipe", "--logger-ecgpipe-all"], False),
        (["--logger", "ecgpipe", "--verbose"], False),
        ([], False),
    ],
)
def test_whether_the_run_is_shown_in_ecgpipes_way(tmp_path: Path, options: list[str], shows: bool) -> None:
    text = "say(ENGINE.shows_progress)\nrule all:\n    output:\n        'x'\n    run:\n        Path('x').touch()\n"
    # The process of the job parses the Snakefile again, and is no run.
    assert said(tmp_path, text, *options) == [shows, False]


def test_jobs_that_are_still_to_be_done_are_counted_by_rule(tmp_path: Path) -> None:
    text = """
rule all:
    input:
        expand("{n}.txt", n=[1, 2, 3])
    shell:
        "true"
rule one:
    output:
        "{n}.txt"
    shell:
        "touch {output}"
onstart:
    say(ENGINE.count_jobs())
"""
    assert said(tmp_path, text) == [{"all": 1, "one": 3}]


def errors(folder: Path, text: str, *options: str) -> list[str]:
    """The lines that ecgpipe's output of a run shows of a run that fails."""
    status, output = snakemake(folder, HEAD + text, "--logger", "ecgpipe", *options)
    assert status == 1
    assert "Traceback" not in output
    return [line for line in output.splitlines() if line.startswith("error: ")]


RAISES = "with errors_of_workflow():\n    raise EcgpipeError('outdir: no\\nlabels: no')\n"


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("", ["--config", "umap.neighbors=3"], ["error: --config: Snakemake does not take 'umap.neighbors=3'; give "]),
        ("", ["--config", "input", "/x"], ["error: --config: 'input' is not KEY=VALUE; give --config input=/x"]),
        ("", ["--configfile", "no.yaml"], ["error: --configfile: there is no file 'no.yaml'; check the path"]),
        (RAISES, [], ["error: outdir: no", "error: labels: no"]),
        (
            "def planned(wildcards):\n" + "".join(f"    {line}\n" for line in RAISES.splitlines())
            + PLANNED.format(what="planned(wildcards)"),
            [],
            ["error: outdir: no", "error: labels: no"],
        ),
    ],
    ids=["dots", "no equals sign", "no file", "in the Snakefile", "while jobs are planned"],
)  # fmt: skip
def test_a_users_mistake_is_one_line(tmp_path: Path, text: str, options: list[str], says: list[str]) -> None:
    lines = errors(tmp_path, text, *options)
    assert [line[: len(start)] for line, start in zip(lines, says, strict=True)] == says


def test_it_is_known_where_each_setting_was_given(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("report: {title: x}\noutdir: y\n")
    text = "say([ENGINE.places(), ENGINE.lost_settings()])\n" + PLANNED.format(what="1")
    options = ("--configfile", str(tmp_path / "mine.yaml"), "--config", "outdir=z", "umap={neighbors: 3}")
    places = {"report.title": "mine.yaml: {key}", "outdir": "{key}", "umap.neighbors": "{key}"}
    assert said(tmp_path, text, *options)[0] == [places, None]


def test_settings_that_a_second_config_has_lost_are_noticed(tmp_path: Path) -> None:
    text = "say([ENGINE.lost_settings(), config])\n" + PLANNED.format(what="1")
    lost, config = said(tmp_path, text, "--config", "input=a", "--config", "outdir=b")[0]
    assert lost.startswith(
        "--config: given 2 times, of which Snakemake takes the last alone and ignores input=a; give "
    )
    assert config == {"outdir": "b"}


def test_an_interrupt_while_jobs_are_planned_is_one_line(tmp_path: Path) -> None:
    interrupts = "import os, signal\n" + PLANNED.format(what="os.kill(os.getpid(), signal.SIGINT)")
    (tmp_path / "Snakefile").write_text(HEAD + interrupts)
    done = subprocess.run(
        [sys.executable, "-m", "ecgpipe.workflow.snakemake_compat", "--cores", "1", "--logger", "ecgpipe"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == "stopped; the same command resumes"
    assert "Traceback" not in done.stderr + done.stdout


def test_a_rules_partition_is_that_of_the_profile(tmp_path: Path) -> None:
    rules = "".join(
        f"""
rule {name}:
    output:
        "{name}"
    resources:
        runtime=asked,
    shell:
        "touch {{output}}"
"""
        for name in ("all", "one", "two")
    )
    text = (
        "def asked(wildcards, attempt, rulename):\n    say([rulename, ENGINE.partition_of(rulename)])\n    return 1\n"
    )
    options = ("--default-resources", "slurm_partition=cpu", "--set-resources", "one:slurm_partition=gpu")
    lines = said(tmp_path, text + rules, "all", "one", "two", "--dry-run", *options)
    assert dict(lines) == {"all": "cpu", "one": "gpu", "two": "cpu"}
    (tmp_path / "none").mkdir()
    assert {partition for _, partition in said(tmp_path / "none", text + rules, "all", "one", "--dry-run")} == {None}


def test_the_scheduler_waits_for_one_look_at_the_ready_jobs_at_a_time() -> None:
    """Snakemake's own has a timer more with each job that ends, and ever less time for anything else."""
    look_again_once()
    look_again_once()
    scheduler: Any = object.__new__(JobScheduler)
    scheduler._open_jobs = threading.Semaphore(0)
    for _ in range(3):  # a look is followed by the next one
        for _ in range(100):
            scheduler._schedule_reevalutation(0.05)
        assert scheduler._open_jobs.acquire(timeout=60)
        assert not scheduler._open_jobs.acquire(timeout=0.3)


def test_a_run_whose_jobs_are_limited_by_time_comes_to_its_end(tmp_path: Path) -> None:
    rule = """
rule all:
    input:
        say("begun") or [f"{i}.txt" for i in range(6)]

rule one:
    output:
        "{i}.txt"
    shell:
        "touch {output}"
"""
    status, output = snakemake(tmp_path, HEAD + rule, "--max-jobs-per-timespan", "2/1s")
    assert status == 0, output
    assert len(list(tmp_path.glob("*.txt"))) == 6


def test_the_slurm_plugin_sees_a_job_that_sacct_calls_cancelled_by_somebody() -> None:
    plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
    see_cancelled_jobs()
    see_cancelled_jobs()

    def asked(command: str) -> tuple[Any, Any]:
        # In a thread of its own: where browser tests ran before, this thread has Playwright's event loop.
        with ThreadPoolExecutor(1) as thread:
            states, seconds = thread.submit(asyncio.run, plugin.query_job_status(command, logging.getLogger())).result()
        return states, seconds

    states, _ = asked("printf '1|CANCELLED by 1000\\n2|COMPLETED\\n3|RUNNING\\n'")
    assert states == {"1": "CANCELLED", "2": "COMPLETED", "3": "RUNNING"}
    assert asked("false") == (None, None)
