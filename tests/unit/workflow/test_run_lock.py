"""A folder of results: one run at a time, and nothing in it that is unfinished or of no run."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgpipe.cli import main
from ecgpipe.core import atomic, parquet, provenance, results
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config
from ecgpipe.workflow import reuse, run_lock, slurm, stage_settings


@pytest.fixture(autouse=True)
def _no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`take` tells the jobs of this process by its environment whose they are."""
    monkeypatch.setenv(atomic.RUN, "")


def other_process(folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"""
import os
from pathlib import Path
from ecgpipe.core import atomic
from ecgpipe.workflow import run_lock
lock = run_lock.take(Path({str(folder)!r}))
print(os.environ[atomic.RUN], end="")
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_second_process_is_refused_as_long_as_the_first_one_has_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "deep"
    lock = run_lock.take(folder)
    assert lock is not None
    refused = other_process(folder)
    assert refused.returncode != 0
    assert f"outdir: another run is at work in {folder}" in refused.stderr
    lock.release()
    assert other_process(folder).returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(EcgpipeError, match="outdir: cannot write to"):
        run_lock.take(tmp_path / "out")


def test_a_job_of_a_run_that_another_has_followed_finishes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_lock.take(tmp_path)
    assert first is not None
    of_the_first = os.environ[atomic.RUN]
    with atomic.whole(tmp_path / "a") as path:
        path.write_text("by the first")
    first.release()
    second = run_lock.take(tmp_path)
    with atomic.whole(tmp_path / "a") as path:
        path.write_text("by the second")
    monkeypatch.setenv(atomic.RUN, of_the_first)
    with (
        pytest.raises(EcgpipeError, match="belongs to a run that was killed"),
        atomic.whole(tmp_path / "a") as path,
    ):
        path.write_text("late, by the first")
    assert (tmp_path / "a").read_text() == "by the second"
    assert not list(tmp_path.glob("*.tmp"))
    assert second is not None


def test_a_job_whose_run_lives_no_more_finishes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(atomic.RUN, other_process(tmp_path).stdout)
    with (
        pytest.raises(EcgpipeError, match="belongs to a run that was killed"),
        atomic.whole(tmp_path / "a") as path,
    ):
        path.write_text("by nobody's job")
    assert not list(tmp_path.glob("*a*"))


def test_whether_a_run_on_another_machine_lives_is_not_guessed_from_its_process_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, process, _, owner = other_process(tmp_path).stdout.split(" ", 3)
    monkeypatch.setenv(atomic.RUN, f"{name} {process} another {owner}")
    with atomic.whole(tmp_path / "a") as path:
        path.write_text("by a job on a node of a cluster")
    assert (tmp_path / "a").exists()


def test_what_killed_jobs_left_unfinished_is_removed_and_nothing_else(tmp_path: Path) -> None:
    run = other_process(tmp_path).stdout.partition(" ")[0]
    kept = ["run.json", "logits/part-00000.parquet", "logs/x.tmp", "logs/infer/.x.log", "mine/.draft.tmp", ".a.tmp"]
    # Of another version, of a run in another folder, in a user's folder.
    kept += [".run.json.17.tmp", f"logits/.part-00000.parquet.{'0' * 16}.4711.tmp", f"mine/.a.{run}.4711.tmp"]
    left = [f".run.json.{run}.17.tmp", f"logits/.part-00000.parquet.{run}.4711.tmp"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert run_lock.clear_up(tmp_path) == 2
    assert files(tmp_path) - {".lock", ".owner", results.RUNS} == set(kept)


def test_what_a_killed_process_left_is_known_by_its_run_also_in_a_copy_and_after_further_runs(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from ecgpipe.core import atomic
from ecgpipe.workflow import run_lock
lock = run_lock.take(Path({str(tmp_path / "out")!r}))
with atomic.whole(Path({str(tmp_path / "out/logits/part-00000.parquet")!r})) as path:
    path.write_text("half")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (unfinished,) = (tmp_path / "out" / "logits").iterdir()
    other_process(tmp_path / "out")
    copy = shutil.copytree(tmp_path / "out", tmp_path / "copy")
    assert run_lock.clear_up(copy) == 1
    assert not list((copy / "logits").iterdir())
    assert unfinished.exists()


def test_shards_and_parts_beyond_those_of_the_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = ["records/shard-00002.parquet", "logits/part-00000.parquet", "timing/part-00000.json"]
    left = ["records/shard-00003.parquet", "logits/part-00001.parquet", "timing/part-00012.json"]
    left += ["segments/shard-100000.arrow"]
    for name in kept + left:
        write_result(tmp_path / name)
    mine = ["run.json", "logits/part-of-mine.parquet", "logits/other-00009.parquet", "x/shard-.parquet"]
    for name in mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert run_lock.remove_surplus(tmp_path, shards=3, parts=1) == len(left)
    assert files(tmp_path) == {*kept, *mine}


def test_what_is_not_of_ecgpipe_in_the_folders_of_results_stays_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_result(tmp_path / "logits/part-00000.parquet")
    write_result(tmp_path / "logits/part-00002.parquet")
    copy = shutil.copy(tmp_path / "logits/part-00000.parquet", tmp_path / "logits/part-00007.parquet")
    derived = tmp_path / "logits/part-00008.parquet"
    pq.write_table(pq.read_table(tmp_path / "logits/part-00000.parquet").slice(0, 0), derived)  # keeps the metadata
    (tmp_path / "logits/notes.csv").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/part-00009.parquet").touch()
    assert run_lock.remove_surplus(tmp_path, shards=1, parts=1) == 1
    assert Path(copy).exists()
    assert derived.exists()
    (message,) = caplog.messages
    assert "has logits/notes.csv, logits/part-00007.parquet, logits/part-00008.parquet beside results" in message


@pytest.mark.parametrize("name", ["run.json", "figures/map.png", ".owner"])
def test_the_first_run_in_a_folder_overwrites_no_file_that_is_called_as_its_results(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(EcgpipeError, match=re.escape(f"{tmp_path} has {name}, which ecgpipe did not write")):
        run_lock.take(tmp_path)
    assert files(tmp_path) == {name, "notes.txt"}


def test_no_later_run_overwrites_a_file_that_is_called_as_its_results(tmp_path: Path) -> None:
    write_result(tmp_path / "logits/part-00000.parquet")
    (tmp_path / "logits/part-00001.parquet").write_text("mine")
    run_lock.refuse_foreign(tmp_path, shards=1, parts=1)
    with pytest.raises(EcgpipeError, match=r"logits/part-00001.parquet, which this run would overwrite"):
        run_lock.refuse_foreign(tmp_path, shards=1, parts=2)


# A user's files

LABELS = Path(__file__).parents[3] / "config/labels/mimic_iv_ecg.csv"

WORDS = st.sampled_from(["a", "part-00007", "shard-00002", ".hidden", "run", "notes", "\u00e4 b\n", "recording"])
ENDINGS = st.sampled_from([".parquet", ".arrow", ".json", ".csv", ".tmp", ".txt", ""])
FREE = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
NAMES = st.one_of(
    st.builds("{}{}".format, WORDS, ENDINGS),
    st.builds(".{}.{:016x}.{}.tmp".format, WORDS, st.integers(0, 2**64 - 1), st.integers(0, 99999)),
    st.builds(".{}.{}.tmp".format, WORDS, st.integers(0, 99999)),
    st.sampled_from([".slurm-run", *(name for names in results.FIXED.values() for name in names)]),
    FREE.filter(lambda name: name not in (".", "..")),
)
FOLDERS = st.sampled_from(["", *results.FOLDERS, "mine", "ecg_parquet", "mine/logits", "logits/mine", "../beside"])
KINDS = st.sampled_from(["text", "copy", "link to a file", "link to a folder", "folder"])


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(planted=st.lists(st.tuples(FOLDERS, NAMES, KINDS), min_size=1, max_size=12), kept=st.integers(0, 3))
def test_whatever_a_user_keeps_in_and_around_a_folder_of_results_is_never_touched(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    planted: list[tuple[str, str, str]],
    kept: int,
) -> None:
    top = tmp_path_factory.mktemp("top")
    out, elsewhere, recordings = top / "out", top / "elsewhere", top / "recordings"
    lock = run_lock.take(out)
    assert lock is not None
    run = os.environ[atomic.RUN].partition(" ")[0]
    for folder, (kind, _, suffix) in results.NUMBERED.items():
        for number in range(4):
            write_result(out / folder / f"{kind}-{number:05d}.{suffix}")
    for folder, names in results.FIXED.items():
        (out / folder).mkdir(exist_ok=True)
        for name in names:
            (out / folder / name).touch()
    (out / f".run.json.{run}.1.tmp").touch()
    write_result(elsewhere / "logits/part-00099.parquet")
    recordings.mkdir()
    (recordings / "a.mat").write_bytes(b"x")
    ours = everything(out)
    for folder, name, kind in planted:
        plant(out / folder / name, kind, elsewhere)
    mine = {path: what for path, what in everything(top).items() if path not in ours}

    slurm.cancel_left_jobs(out, [])
    slurm.forget(out)
    run_lock.clear_up(out)
    stages = stage_settings.derive_stages(Config(input=str(recordings), labels=str(LABELS)), "{}", certain=True)
    reuse.prepare(out, stages, attention=True)
    reuse.remove_outdated_report(out)
    run_lock.remove_surplus(out, kept, kept)
    main(["manifest", "--input", str(recordings), "--outdir", str(out / "manifest")])
    lock.release()
    now = everything(top)
    assert {path: now.get(path) for path in mine} == mine
    assert not any(path.endswith(f".{run}.1.tmp") for path in now)


def plant(path: Path, kind: str, elsewhere: Path) -> None:
    """Put a user's file, link or folder there, unless something is there already or the system takes no such name."""
    if os.path.lexists(path):
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "text":
            path.write_text("mine")
        elif kind == "copy":  # of a result
            shutil.copy(elsewhere / "logits/part-00099.parquet", path)
        elif kind == "link to a file":
            path.symlink_to(elsewhere / "logits/part-00099.parquet")
        elif kind == "link to a folder":
            path.symlink_to(elsewhere / "logits")
        else:
            path.mkdir()
            (path / "part-00007.parquet").write_text("mine")


def everything(top: Path) -> dict[str, str | bytes]:
    """Each file below a folder with its time and content, where each link leads, and the folders."""
    found: dict[str, str | bytes] = {}
    for folder, folders, names in os.walk(top):
        for name in (*folders, *names):
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path)] = str(path.readlink())
            elif path.is_dir():
                found[str(path)] = "a folder"
            else:
                found[str(path)] = f"{path.stat().st_mtime_ns} ".encode() + path.read_bytes()
    return found


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def write_result(path: Path) -> None:
    """Write an empty shard or part as its stage does."""
    stage = results.NUMBERED[path.parent.name][1]
    schema = provenance.add_origin(pa.schema([("record_id", pa.string())]), stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps({"ecgpipe": "0.2.0", "stage": stage, "file": path.name}))
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, provenance.add_file_name(schema, path)):
            pass
    else:
        parquet.write(path, schema.empty_table())
