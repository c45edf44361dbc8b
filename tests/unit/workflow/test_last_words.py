"""What a run says at its end. How it stops is tested with the real thing, in tests/crash."""

import os
from pathlib import Path

from ecgpipe.workflow import last_words


def test_nothing_is_said_of_a_run_without_a_report(tmp_path: Path) -> None:
    assert last_words.closing_words(tmp_path) == ""


def test_errors_of_this_run_are_repeated_and_those_of_earlier_runs_are_not(tmp_path: Path) -> None:
    (tmp_path / "logs" / "infer").mkdir(parents=True)
    new, old = tmp_path / "logs" / "infer" / "part-00000.log", tmp_path / "logs" / "umap.log"
    new.write_text("[infer] part 0\n[infer] error: no GPU; use device=cpu\n")
    old.write_text("[umap] error: of last week\n")
    os.utime(old, (1000, 1000))
    assert last_words.mistakes(tmp_path, since=2000) == "[infer] error: no GPU; use device=cpu"
