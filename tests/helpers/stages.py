"""Checkpoint, preprocessing and inference of any model, stage by stage in this process, without Snakemake."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from ecgpipe.core import parquet, schemas, settings
from ecgpipe.core.model_input import dump_input
from ecgpipe.inference import infer
from ecgpipe.models import checkpoint
from ecgpipe.models.description import Description, describe
from ecgpipe.preprocessing import preprocess


def convert(
    folder: Path,
    source: Path,
    model: str | None = None,
    options: Mapping[str, str] = MappingProxyType({}),
    labels: str = "index",
) -> Description:
    """Run the checkpoint stage; what it wrote is in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    given = settings.Checkpoint(source=str(source), labels=labels, model=model, model_options=dict(options))
    checkpoint.convert_checkpoint(folder / "model.safetensors", folder / "model.json", given)
    return describe(folder / "model.json")


def preprocess_shards(
    folder: Path, description: Description, shards: Sequence[Sequence[Path]], **given: object
) -> list[Path]:
    """Run the preprocess stage on shards of .mat files, in mV if their files do not say it; the files of segments."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = description.model_input
    preprocess_settings = settings.Preprocess.model_validate(
        {"segment_s": declared.window_s, "model_input": dump_input(declared), "assume_unit": "mV", **given}
    )
    files = []
    for number, paths in enumerate(shards):
        rows = [
            dict.fromkeys(schemas.MANIFEST.names) | {"record_id": path.stem, "path": str(path), "format": "mat"}
            for path in paths
        ]
        shard = folder / f"manifest-{number:05d}.parquet"
        parquet.write(shard, pa.Table.from_pylist(rows, schema=schemas.MANIFEST))
        files.append(folder / f"shard-{number:05d}.arrow")
        preprocess.preprocess_shard(shard, files[-1], folder / f"records-{number:05d}.parquet", preprocess_settings)
    return files


class Outputs(NamedTuple):
    """What the infer stage wrote."""

    logits: pd.DataFrame
    embeddings: pd.DataFrame
    attention: pd.DataFrame | None

    def numbers(self) -> list[np.ndarray]:
        """Logits, embeddings and attention, a row per segment."""
        lists = [np.stack(list(self.embeddings["embedding"]))]
        if self.attention is not None:
            lists.append(np.stack(list(self.attention["attention"])))
        return [self.logits.iloc[:, 3:].to_numpy(), *lists]


def infer_segments(
    folder: Path, segments: Sequence[Path], out: Path, batch_size: int = 4, model: str | None = None
) -> Outputs:
    """Run the infer stage over one part, with the checkpoint in `folder`."""
    description = describe(folder / "model.json")
    has_attention = description.tokens(description.model_input.window_samples) > 0
    out.mkdir(parents=True, exist_ok=True)
    names = ("logits", "embeddings", "attention")
    paths = [out / f"{name}.parquet" for name in names]
    files = infer.Files(
        folder / "model.safetensors",
        folder / "model.json",
        segments,
        paths[0],
        paths[1],
        paths[2] if has_attention else None,
        out / "timing.json",
    )
    infer.infer_part(files, settings.Infer(device="cpu", batch_size=batch_size, model=model), "float32")
    tables = [pd.read_parquet(path) if path.exists() else None for path in paths]
    return Outputs(*tables)  # type: ignore[arg-type]
