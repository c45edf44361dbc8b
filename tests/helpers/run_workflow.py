"""Running the real Snakemake on small data, for the end-to-end tests."""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import forked_python
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import scipy.io

ROOT = Path(__file__).parents[2]


class Ran(NamedTuple):
    """What a run of Snakemake said and did."""

    status: int
    output: str

    @property
    def jobs(self) -> Counter[str]:
        """How many jobs of each rule ran, or would run in a dry run."""
        return Counter(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$", self.output, re.MULTILINE))


def snakemake(folder: Path, *options: str, **settings: object) -> Ran:
    """Run the workflow in `folder`, which keeps Snakemake's own state, with `settings` as --config."""
    return snakemake_of(ROOT, folder, *options, **settings)


def snakemake_of(root: Path, folder: Path, *options: str, **settings: object) -> Ran:
    """The same with the workflow of another copy of the project."""
    arguments = ["--snakefile", str(root / "Snakefile"), "--cores", "2"]
    arguments += ["--logger-ecgpipe-all", *options]  # Snakemake's own words for each job, which `Ran.jobs` counts
    arguments += ["--config", *(f"{key}={value}" for key, value in settings.items())]
    return Ran(*forked_python.run(["-m", "snakemake", *arguments], folder, timeout_s=1800))


def table(folder: Path) -> pd.DataFrame:
    """All parts of a result, in order."""
    frame: pd.DataFrame = pd.concat(
        [pq.read_table(path).to_pandas() for path in sorted(folder.glob("*.parquet"))], ignore_index=True
    )
    return frame


def sha256s(outdir: Path) -> dict[str, str]:
    """Of each result that is the same in every run over the same inputs with the same settings."""
    found = [path for kind in ("parquet", "arrow", "safetensors") for path in outdir.rglob(f"*.{kind}")]
    found += outdir.glob("*/m*.json")  # of the manifest and of the model
    return {
        path.relative_to(outdir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)
    }


def write_recordings(folder: Path, count: int, seconds: float = 10) -> None:
    """Write recordings of noise as fairseq-signals' MAT files, 500 Hz, but for those that are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(len(list(folder.glob("recording*.mat"))), count):
        signal = np.random.default_rng(i).standard_normal((12, int(500 * seconds))).astype(np.float32)
        scipy.io.savemat(folder / f"recording{i:03d}.mat", {"feats": signal, "curr_sample_rate": np.array([[500]])})
