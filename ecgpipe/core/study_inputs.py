"""What a study was made from: by this its page is known to be up to date, whatever the times of files are."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ecgpipe.core import results, settings
from ecgpipe.core.study_settings import Study

# The results of a model that a study reads.
_READ = ("description", "records", "predictions", "embeddings", "umap", "run")


def find_inputs(outdir: Path) -> Iterator[Path]:
    """Yield the results of a model that a study reads, in order.

    Args:
        outdir: The folder of the model's run.
    """
    for name in _READ:
        yield from sorted(outdir.glob(results.FILES[name].path.replace("{shard}", "*").replace("{part}", "*")))


def hash_inputs(by_model: Mapping[str, Path]) -> str:
    """Hash what a study reads: of a table its size and what it says of its origin, of other files their content.

    Args:
        by_model: The folder of each model's run, by its name.

    Returns:
        SHA-256; the same for a copy of the folders.
    """
    import pyarrow.parquet as pq  # here, because it takes half a second, of every job that reads the Snakefile

    digest = hashlib.sha256()
    for model, outdir in by_model.items():
        for path in find_inputs(outdir):
            if path.suffix == ".parquet":
                content = repr(sorted((pq.read_schema(path).metadata or {}).items())).encode()
            else:
                content = path.read_bytes()
            named = f"{model}/{path.relative_to(outdir).as_posix()} {path.stat().st_size}"
            digest.update(hashlib.sha256(named.encode() + b"\0" + content).digest())
    return digest.hexdigest()


def name_makers(study: Study, by_model: Mapping[str, Path]) -> dict[str, str]:
    """What a study's files name as that which made them, in place of the settings of earlier stages.

    Args:
        study: Its settings.
        by_model: The folder of each model's run, by its name.

    Returns:
        SHA-256 of its settings ("study") and of what it reads ("inputs").
    """
    return {"study": settings.hash_section("study", study), "inputs": hash_inputs(by_model)}
