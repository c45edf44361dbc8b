"""Where messages go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecgpipe.core import logs

SAYS = """
import os, sys, warnings
from pathlib import Path
from ecgpipe.core import logs
logs.start("infer", Path(sys.argv[1]))
logs.logger.info("begun")
logs.logger.warning("3 of 12 failed")
warnings.warn("of a library")
print("printed", flush=True)
os.system("echo of a child")
raise ValueError("a fault of ours")
"""


@pytest.mark.parametrize("only", [True, False])
def test_in_a_run_that_shows_its_progress_all_that_a_job_writes_is_in_its_log_file_alone(
    tmp_path: Path, only: bool
) -> None:
    log = tmp_path / "logs" / "infer.log"
    environment = {**os.environ, logs.TO_LOG_ONLY: "1" * only}
    done = subprocess.run(
        [sys.executable, "-c", SAYS, log], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    if only:
        assert done.stdout + done.stderr == ""
        text = log.read_text()
        assert text.startswith("[infer] begun\n[infer] warning: 3 of 12 failed\n")
        for words in ("of a library", "printed", "of a child", "ValueError: a fault of ours"):
            assert words in text
    else:
        assert log.read_text() == "[infer] begun\n[infer] 3 of 12 failed\n"
        assert "[infer] 3 of 12 failed" in done.stderr
