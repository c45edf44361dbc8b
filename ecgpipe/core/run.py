"""A finished run's results: where each file lies, what run.json says, and the tables as Arrow datasets.

Whoever reads a run asks `Run`, and no other code builds the path of a result or indexes run.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ecgpipe.core import results
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config

if TYPE_CHECKING:
    import pyarrow.dataset as ds

# The folders of numbered files, `results.NUMBERED`.
Folder = Literal[
    "manifest", "segments", "records", "logits", "embeddings", "attention", "timing", "predictions", "places"
]


class _Part(BaseModel):
    """A part of run.json. What a later version adds is kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Counts(_Part):
    """How many recordings there are, what became of them, and in how many of those used something was noticed."""

    recordings: int
    ok: int
    skipped: int
    failed: int
    segments: int
    derived_leads: int = 0
    missing_leads: int = 0
    constant_leads: int = 0
    clipped_leads: int = 0
    flat_leads: int = 0
    lead_suspicion: int = 0
    hours: float  # of the signal that was used
    duplicates: int = 0
    files: dict[str, int] = {}  # by role: recording, part, ignored
    other_files: int = 0


class Reason(_Part):
    """Why some recordings were skipped or failed."""

    status: str
    reason: str
    count: int


class Code(_Part):
    """The code that finished the run."""

    version: str
    source_sha256: str
    commit: str | None


class Scan(_Part):
    """What one scan of the inputs found."""

    recordings: int
    added: int
    changed: int
    removed: int


class Inputs(_Part):
    """The recordings that went in."""

    sha256: str | None = None
    scans: tuple[Scan, ...] = ()


class Checkpoint(_Part):
    """The weights."""

    uri: str
    revision: str | None
    sha256: str
    random_weights: bool
    labels: tuple[str, ...]  # in the order of the outputs
    demo_model: bool = False  # trained on simulated hearts


class Throughput(_Part):
    """How fast inference was."""

    segments: int
    seconds: float
    segments_per_s: float | None


class Precision(_Part):
    """The precision of the inference."""

    used: str | tuple[str, ...]  # a list where parts differ
    parts: dict[str, int] = {}  # inferred in each precision; empty in an older run.json
    recomputed_segments: int = 0
    drift: dict[str, Any] | None = None  # what the precision stage found


class Hardware(_Part):
    """What inference ran on."""

    inference: tuple[str, ...]
    machines: tuple[dict[str, Any], ...] = ()


class RunInfo(_Part):
    """What run.json says, in its order. A key that an older version did not write has its default here."""

    ecgpipe: str
    finished: str  # ISO 8601
    code: Code | None = None
    made_by: dict[str, dict[str, int]] = {}  # by stage, how many files each version of ecgpipe wrote
    inputs: Inputs = Inputs()
    shards: int | None = None
    parts: int | None = None
    counts: Counts
    reasons: tuple[Reason, ...] = ()
    other_files: dict[str, int] = {}
    layouts: tuple[Any, ...] = ()
    checkpoint: Checkpoint
    throughput: Throughput
    calibration: dict[str, Any] | None = None
    precision: Precision
    hardware: Hardware
    versions: dict[str, str] = {}
    config: dict[str, Any]  # the settings as they were written; `Run.config` has them typed
    settings: dict[str, str] = {}  # by stage the SHA-256 of the settings that made its results
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A finished run, by the folder of its results.

    Example:
        >>> from ecgpipe import Run
        >>> run = Run("results")  # doctest: +SKIP
        >>> run.info.counts.ok  # doctest: +SKIP
        31
        >>> run.predictions.to_table().to_pandas()  # doctest: +SKIP

    Raises:
        EcgpipeError: There is no such folder; and from the properties, what they name is not there or not readable.
    """

    outdir: Path

    def __init__(self, outdir: str | Path) -> None:
        """Take the folder of a run's results. Nothing is read yet."""
        object.__setattr__(self, "outdir", Path(outdir))
        if not self.outdir.is_dir():
            raise EcgpipeError(f"outdir: there is no folder {outdir}; give the folder of a finished run's results")

    @property
    def run_json(self) -> Path:
        """What the run was: read by `info`."""
        return self.outdir / results.path_of("run")

    @property
    def report_html(self) -> Path:
        """The report."""
        return self.outdir / results.path_of("report")

    @property
    def model_json(self) -> Path:
        """The description of the checkpoint, read by `models.description.describe`."""
        return self.outdir / results.path_of("description")

    @property
    def weights(self) -> Path:
        """The weights of the checkpoint."""
        return self.outdir / results.path_of("weights")

    @property
    def umap_parquet(self) -> Path:
        """The map of the embeddings."""
        return self.outdir / results.path_of("umap")

    @property
    def attribution_parquet(self) -> Path | None:
        """The attributions by segment and label; None for a run without."""
        path = self.outdir / results.path_of("attribution")
        return path if self.config.attribution.recordings and path.is_file() else None

    def files(self, folder: Folder) -> list[Path]:
        """The files of a folder of numbered files, in order: as many as run.json counts.

        What an earlier run left beyond them, and a user's own files, do not belong to it. Without a run.json, or with
        one of an older ecgpipe, all that are there. The manifest of a run of a study lies beside the run's folder.

        Args:
            folder: Its name.

        Raises:
            EcgpipeError: One is not there.
        """
        kind, _, suffix = results.NUMBERED[folder]
        count = None
        if self.run_json.is_file():
            count = self.info.shards if kind == "shard" else self.info.parts
        place = self.outdir / folder
        if folder == "manifest" and not place.is_dir():
            # Not by the name of the run's folder, as that may be "." or a link.
            shared = self.outdir.resolve().parent / folder
            place = shared if shared.is_dir() else place
        from ecgpipe.core import parquet  # here, because Arrow takes as long to load as all the rest together

        return parquet.numbered(place, kind, count, suffix)

    @cached_property
    def info(self) -> RunInfo:
        """What run.json says."""
        if not self.run_json.is_file():
            raise EcgpipeError(f"outdir: there is no {self.run_json}; give the folder of a finished run's results")
        return read_info(self.run_json)

    @cached_property
    def config(self) -> Config:
        """The settings of the run. Keys that this version does not know are left out."""
        try:
            return Config.model_validate(_known(self.info.config, Config))
        except ValidationError as error:
            raise EcgpipeError(
                f"outdir: {self.run_json} has a setting that is not valid: {_describe_first(error)}; run the "
                "workflow again"
            ) from error

    @property
    def records(self) -> "ds.Dataset":
        """A row per recording: `record_id`, `status`, `reason`, quality, and columns of the inputs' tables."""
        return self._dataset("records")

    @property
    def logits(self) -> "ds.Dataset":
        """A row per segment: `record_id`, `segment`, `start_s`, and a logit per label."""
        return self._dataset("logits")

    @property
    def embeddings(self) -> "ds.Dataset":
        """A row per segment: `record_id`, `segment`, `embedding`."""
        return self._dataset("embeddings")

    @property
    def attention(self) -> "ds.Dataset":
        """A row per segment: `record_id`, `segment`, `attention`. A run with `inference.attention: false` has none."""
        return self._dataset("attention")

    @property
    def predictions(self) -> "ds.Dataset":
        """A row per recording: `record_id`, `n_segments`, and a probability per label."""
        return self._dataset("predictions")

    @property
    def umap(self) -> "ds.Dataset":
        """A row per segment: `record_id`, `segment`, `x`, `y`."""
        return self._single("umap")

    @property
    def examples(self) -> "ds.Dataset":
        """The recordings that the report shows, and why."""
        return self._single("examples")

    @property
    def duplicates(self) -> "ds.Dataset":
        """Recordings with the same signal as an earlier one."""
        return self._single("duplicates")

    @property
    def attribution(self) -> "ds.Dataset":
        """Attributions by segment and label. A run with `attribution.recordings: 0` has none."""
        return self._single("attribution")

    @property
    def metrics(self) -> "ds.Dataset":
        """The metrics of the evaluation. A run without true labels has none."""
        return self._single("metrics")

    def _dataset(self, folder: Folder) -> "ds.Dataset":
        import pyarrow as pa  # here, as whoever reads run.json alone needs none of it
        import pyarrow.dataset as ds
        import pyarrow.parquet as pq

        paths = self.files(folder)
        # The inputs' tables may give a column to some shards alone, or a type that holds nothing in others.
        schema = pa.unify_schemas([pq.read_schema(path) for path in paths], promote_options="permissive")
        return ds.dataset([str(path) for path in paths], schema=schema, format="parquet")

    def _single(self, name: str) -> "ds.Dataset":
        import pyarrow.dataset as ds

        path = self.outdir / results.path_of(name)
        if not path.is_file():
            raise EcgpipeError(f"outdir: there is no {path}; run the stage that writes it first")
        return ds.dataset(str(path), format="parquet")


def read_info(path: Path) -> RunInfo:
    """Read a run.json.

    Args:
        path: The file.

    Raises:
        EcgpipeError: It cannot be read, or is no such file.
    """
    try:
        return RunInfo.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise EcgpipeError(
            f"outdir: cannot read {path}: {error.strerror}; give the folder of a finished run's results"
        ) from error
    except ValidationError as error:
        raise EcgpipeError(
            f"outdir: {path} is not what ecgpipe writes: {_describe_first(error)}; run the workflow again"
        ) from error
    except ValueError as error:
        raise EcgpipeError(f"outdir: {path} is damaged: {error}; run the workflow again") from error


def _describe_first(error: ValidationError) -> str:
    """Where the first mistake is, and what it is, without the value: that may be a whole section."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _known(content: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """What of some settings a model knows, sections within included."""
    known = {}
    for name, field in model.model_fields.items():
        if name in content:
            value, kind = content[name], field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, Mapping):
                value = _known(value, kind)
            known[name] = value
    return known
