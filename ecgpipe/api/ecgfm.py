"""ECG-FM and the other models from Python, without Snakemake: numpy arrays in, pandas tables out.

`from ecgpipe import ECGFM`. The results are those of the workflow: the same functions prepare the recordings, run the
network and aggregate the segments.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor

from ecgpipe.api import arrays
from ecgpipe.api.arrays import Signal
from ecgpipe.core import schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import devices, engine, non_finite_outputs
from ecgpipe.inference.segment_files import Contents
from ecgpipe.models import labels, networks, registry
from ecgpipe.models.description import DEMO_MODEL, Description, describe
from ecgpipe.models.labels import Label
from ecgpipe.models.output import AnyNetwork
from ecgpipe.preprocessing.segments import Windows, windows_of

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class ECGFM:
    """A model of any family, ready to run.

    Make one with `from_checkpoint`. Every method takes the same three things:

    - `signal`: one recording, (leads, samples); several of one length, (recordings, leads, samples); or a list of
      recordings of any lengths. Any real numbers, in any unit that the leads share: most models see no unit. Those that
      need millivolts (`description.model_input.unit`) ask for `unit`.
    - `sample_rate`: in Hz, of all of them; they are resampled as the model needs it.
    - `leads`: the names of the rows, in any order and in the spellings that files have ("aVR", "AVR",
      "MDC_ECG_LEAD_V1"). Rows are told by name alone. Two of I, II and III give the other limb leads.

    and `windows`, an `ecgpipe.preprocessing.segments.Windows`, which says of segments and leads what the settings
    `preprocess` say (None: their defaults), and `unit`, that of the signal: "mV", "uV", "V" or "nV".
    The results of a recording do not depend on the recordings beside it.

    Attributes:
        labels: What the outputs are, in the model's order, with aggregation and threshold; () for a model without a
            head.
        description: Of the checkpoint: the network's sizes, where it is from, its sha256.
        family: The model family.
        device: Where it runs.

    Example:
        >>> from ecgpipe import ECGFM
        >>> from ecgpipe.readers import LEADS
        >>> ecgfm = ECGFM.from_checkpoint("checkpoint.pt")
        >>> ecgfm.predict(signal, 500, LEADS).shape  # signal is (12, 5000)
        (1, 17)
        >>> ecgfm.embed([signal, signal[:, :2500]], 500, LEADS).index.tolist()
        [(0, 0, 0.0), (0, 1, 5.0), (1, 0, 0.0)]
    """

    def __init__(
        self,
        network: AnyNetwork,
        description: Description,
        model_labels: Sequence[Label],
        device: torch.device,
        batch_size: int | None,
        exact: non_finite_outputs.InFloat32 | None = None,
        model: str | None = None,
    ) -> None:
        self.network = network
        self.family = networks.find_family_of(description, model)
        self._exact = exact  # the same in float32, where `network` is in half precision
        self.description = description
        self.labels = tuple(model_labels)
        self.device = device
        self.batch_size = batch_size

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path,
        labels: str | Path | None = None,
        device: str = "auto",
        precision: str = "float32",
        batch_size: int | None = None,
        threads: int | None = None,
        model: str | Path | None = None,
        model_options: Mapping[str, str] = MappingProxyType({}),
    ) -> "ECGFM":
        """Load a checkpoint, verified as the workflow does: its sha256 is the hub's, no code of it is run.

        Args:
            source: `hf://OWNER/REPO@REVISION/FILE`, which is downloaded once into the hub's own cache; a file or folder
                as the model's authors released it; or the folder `checkpoint/` of a run.
            labels: A label CSV, its path looked for here and then in ecgpipe's clone; or "index". None: what a run's
                folder says; else the model's own, for ECG-FM the 17 of MIMIC-IV-ECG if it has 17 outputs; else "index",
                which calls the outputs output_00, output_01, ..., with a warning.
            device: "auto" (a GPU if PyTorch finds one), "cpu", "cuda" or "cuda:N".
            precision: "float32", or "float16" or "bfloat16" if the device supports it.
            batch_size: Segments at a time. None: 16 on a CPU, 256 on a GPU, as the workflow. Fewer segments are filled
                up to so many, since a batch of another size rounds otherwise; for single recordings 2 is quicker.
            threads: Of the CPU, for this whole process. None: as PyTorch has it.
            model: The model family, or the path of your own .py file, whose code is run. None: what the checkpoint
                tells.
            model_options: Variants of the family, such as {"preprocessing": "plain"} of ecgfounder.

        Returns:
            The model.

        Raises:
            EcgpipeError: The checkpoint is not available or not valid, the labels do not fit it, or the device does
                not exist.
        """
        if precision not in engine.DTYPES:
            raise EcgpipeError(f"precision: {precision!r} is not valid; give {', '.join(engine.DTYPES)}")
        if threads is not None:
            torch.set_num_threads(threads)
        if batch_size is not None and batch_size < 1:
            raise EcgpipeError(f"batch_size: {batch_size} is out of range; give 1 or more")
        source = os.path.expanduser(source)  # noqa: PTH111, a Path would make one slash of two in hf://
        labels = None if labels is None else os.path.expanduser(labels)  # noqa: PTH111
        model = None if model is None else os.path.expanduser(model)  # noqa: PTH111
        is_release = model is not None or (Path(source) / "config.json").is_file()
        if Path(source).is_dir() and ((Path(source) / "model.json").is_file() or not is_release):
            description, named, tensors = _load_run(source, labels)
        else:
            description, named, tensors = _load_file(source, labels, model, model_options)
        if description.random_weights:
            logger.warning("%s has random weights: its predictions mean nothing", source)
        if description.demo_model:
            logger.warning("%s: %s", source, DEMO_MODEL)
        least = 2 * sum(tensor.nbytes for tensor in tensors.values())
        # Without holding its lock: a notebook keeps its model for hours, and others may use the GPU meanwhile.
        with devices.claim(device, least) as where:
            dtype = engine.DTYPES[engine.usable(precision, where)]
            network = networks.make_network(description, tensors, where, dtype, model=model)
        exact = None
        if dtype != torch.float32:
            exact = non_finite_outputs.InFloat32(
                lambda: networks.make_network(description, tensors, where, model=model), where
            )
        return cls(network, description, named, where, batch_size, exact, model)

    def predict(
        self,
        signal: Signal,
        sample_rate: float,
        leads: Sequence[str],
        windows: Windows | None = None,
        unit: str | None = None,
    ) -> "pd.DataFrame":
        """The probability of each label for each recording, put together from its segments as the label CSV says.

        Args:
            signal: (leads, samples), (recordings, leads, samples), or a list of the former.
            sample_rate: In Hz.
            leads: Names of the rows.
            windows: How recordings are cut; None: as the model's authors do.
            unit: Of the signal; models that need millivolts ask for it.

        Returns:
            One row per recording, numbered from 0, one float64 column per label in the model's order.

        Raises:
            EcgpipeError: The checkpoint has no head, or a recording cannot be used; it says which, and why.

        Example:
            >>> probabilities = ecgfm.predict(signal, 500, LEADS)
            >>> list(probabilities.columns)[:3]
            ['Poor data quality', 'Sinus rhythm', 'Premature ventricular contraction']
            >>> bool(probabilities.loc[0].between(0, 1).all())
            True
        """
        import pandas as pd  # here, because pandas takes half a second

        from ecgpipe.inference import aggregate

        logits = self.logits(signal, sample_rate, leads, windows, unit)
        recording, segment, start_s = (logits.index.get_level_values(level) for level in range(3))
        table = build_logits_table(recording.astype(str), segment, start_s, logits.to_numpy(), self.labels)
        frame: pd.DataFrame = aggregate.predict(table, self.labels).drop(["record_id", "n_segments"]).to_pandas()
        return frame.set_axis(pd.RangeIndex(len(frame), name="recording"))

    def logits(
        self,
        signal: Signal,
        sample_rate: float,
        leads: Sequence[str],
        windows: Windows | None = None,
        unit: str | None = None,
    ) -> "pd.DataFrame":
        """The network's outputs for each segment, before any sigmoid.

        Args:
            signal: (leads, samples), (recordings, leads, samples), or a list of the former.
            sample_rate: In Hz.
            leads: Names of the rows.
            windows: How recordings are cut; None: as the model's authors do.
            unit: Of the signal; models that need millivolts ask for it.

        Returns:
            One row per segment, indexed by recording, segment and its start in seconds; one float32 column per label.

        Raises:
            EcgpipeError: The checkpoint has no head, or a recording cannot be used; it says which, and why.
        """
        import pandas as pd  # here, because pandas takes half a second

        self.need_labels()
        index, results = self._run(signal, sample_rate, leads, windows, unit)
        return pd.DataFrame(results.logits, index, [label.name for label in self.labels])

    def embed(
        self,
        signal: Signal,
        sample_rate: float,
        leads: Sequence[str],
        windows: Windows | None = None,
        unit: str | None = None,
    ) -> "pd.DataFrame":
        """The embedding of each segment: the mean over its tokens.

        Args:
            signal: (leads, samples), (recordings, leads, samples), or a list of the former.
            sample_rate: In Hz.
            leads: Names of the rows.
            windows: How recordings are cut; None: as the model's authors do.
            unit: Of the signal; models that need millivolts ask for it.

        Returns:
            One row per segment, indexed by recording, segment and its start in seconds; one float32 column per
            dimension (768 for ECG-FM). `.to_numpy()` is (segments, width), and `.groupby("recording").mean()` has one
            row per recording.

        Raises:
            EcgpipeError: A recording cannot be used; it says which, and why.

        Example:
            >>> per_recording = ecgfm.embed(signal, 500, LEADS).groupby("recording").mean()
            >>> per_recording.shape == (1, ecgfm.description.architecture.width)
            True
        """
        import pandas as pd  # here, because pandas takes half a second

        index, results = self._run(signal, sample_rate, leads, windows, unit)
        return pd.DataFrame(results.embedding, index)

    def attention(
        self,
        signal: Signal,
        sample_rate: float,
        leads: Sequence[str],
        windows: Windows | None = None,
        unit: str | None = None,
    ) -> "pd.DataFrame":
        """The last layer's attention of each segment, mean over heads, max over keys; it is the same for all labels.

        Args:
            signal: (leads, samples), (recordings, leads, samples), or a list of the former.
            sample_rate: In Hz.
            leads: Names of the rows.
            windows: How recordings are cut; None: as the model's authors do.
            unit: Of the signal; models that need millivolts ask for it.

        Returns:
            One row per segment, indexed by recording, segment and its start in seconds; one float32 column per token
            (156 in five seconds of ECG-FM, whose token t is at sample 16 t + 7.5 of the segment at 500 Hz).

        Raises:
            EcgpipeError: The model has no attention, or a recording cannot be used; it says which, and why.
        """
        import pandas as pd  # here, because pandas takes half a second

        if not self.description.tokens(self.description.model_input.window_samples):
            raise EcgpipeError(f"checkpoint: {self.description.uri} is of {self.description.family}: no attention")
        index, results = self._run(signal, sample_rate, leads, windows, unit, with_attention=True)
        return pd.DataFrame(results.attention, index)

    def need_labels(self) -> None:
        """Refuse a model without labels.

        Raises:
            EcgpipeError: Its checkpoint has no head.
        """
        if not self.labels:
            raise EcgpipeError(
                f"checkpoint: {self.description.uri} has no head and so no labels, as pretrained models have none; "
                "give a classifier such as hf://wanglab/ecg-fm/mimic_iv_ecg_finetuned.pt, or take the embeddings"
            )

    def _choose_windows(self, windows: Windows | None) -> Windows:
        """The windows of the model, with what the user chose of tails, short recordings and missing leads."""
        own = windows_of(self.description.model_input)
        if windows is None or not isinstance(windows, Windows):  # `prepare_arrays` refuses the latter
            return own if windows is None else windows
        spell = "windows.{}".format
        window_s = self.family.choose_window_s(own.model_input, windows.segment_s, windows.short, spell)
        return windows._replace(segment_s=window_s, model_input=own.model_input)

    def _run(
        self,
        signal: Signal,
        sample_rate: float,
        leads: Sequence[str],
        windows: Windows | None,
        unit: str | None,
        with_attention: bool = False,
    ) -> "tuple[pd.MultiIndex, engine.Results]":
        """Prepare the recordings and run the network over their segments."""
        import pandas as pd  # here, because pandas takes half a second

        windows = self._choose_windows(windows)
        prepared = arrays.prepare_arrays(signal, sample_rate, leads, windows, unit)
        counts = [len(each.segments) for each in prepared]
        index = pd.MultiIndex.from_arrays(
            [
                np.repeat(np.arange(len(prepared)), counts),
                np.concatenate([np.arange(count) for count in counts]),
                np.concatenate([each.starts_s for each in prepared]),
            ],
            names=["recording", "segment", "start_s"],
        )
        segments = np.concatenate([one.segments for one in prepared])  # (segments, leads, samples)
        samples = np.repeat(np.array([each.samples for each in prepared], np.int32), counts)  # (segments,)
        engine.check(self.description, Contents({}, segments.shape[1], windows.segment_samples, len(segments), {}))
        size = self.batch_size or engine.default_batch_size(self.device, windows.segment_samples)
        results = engine.forward(self.network, segments, samples, self.device, size, with_attention)
        exact = self._exact

        def recompute(rows: np.ndarray) -> engine.Results:
            assert exact is not None  # noqa: S101
            return exact(segments[rows], samples[rows], size, with_attention)

        def name(row: int) -> str:
            return f"segment {index[row][1]} of recording {index[row][0]}"

        return index, non_finite_outputs.ensure_finite(
            results, recompute if exact else None, name, self.description.uri
        )


def build_logits_table(
    record_ids: npt.ArrayLike,
    segments: npt.ArrayLike,
    starts_s: npt.ArrayLike,
    logits: np.ndarray,
    model_labels: Sequence[Label],
) -> pa.Table:
    """Build the table of logits that `aggregate.predict` takes.

    Args:
        record_ids: (segments,) of the recording that each is of, those of one after another.
        segments: (segments,) its number.
        starts_s: (segments,) where it starts.
        logits: (segments, labels) float32.
        model_labels: The labels.

    Returns:
        A table of `schemas.logits_schema`.
    """
    columns = [np.asarray(record_ids, object), np.asarray(segments, np.int32), np.asarray(starts_s, np.float32)]
    return pa.table([*columns, *logits.T], schema=schemas.logits_schema([label.name for label in model_labels]))


def _load_file(
    source: str, label_csv: str | None, model: str | None, options: Mapping[str, str]
) -> tuple[Description, tuple[Label, ...], dict[str, Tensor]]:
    """Load a checkpoint as its authors released it, and convert it in memory."""
    from ecgpipe.core import user_settings
    from ecgpipe.models import checkpoint

    opened = checkpoint.open_source(source, model=model, options=options)
    family, outputs = opened.family, opened.architecture.labels
    if label_csv is None and family.name == registry.DEFAULT:
        default = labels.locate(user_settings.MIMIC_IV_ECG)
        fits = default.is_file() and len(labels.read(default)) == outputs
        label_csv = user_settings.MIMIC_IV_ECG if fits else labels.BY_INDEX
    elif label_csv is None:
        label_csv = str(family.find_labels(outputs, source) or labels.BY_INDEX)
    named = checkpoint.name_outputs(_locate(label_csv), opened.architecture, family)
    description = checkpoint.describe_opened(opened, [label.name for label in named], options)
    return description, named, dict(opened.tensors)


def _load_run(folder: str, label_csv: str | None) -> tuple[Description, tuple[Label, ...], dict[str, Tensor]]:
    """Load the files of the checkpoint stage. They name the labels; a label CSV, joined by name, has the rest."""
    from ecgpipe.models import checkpoint

    description = describe(Path(folder, "model.json"))
    weights = Path(folder, "model.safetensors")
    if not weights.is_file():
        raise EcgpipeError(f"checkpoint: {weights} is missing; give the folder checkpoint/ of a finished run")
    if label_csv is None:
        named = _find_labels(description.labels)
    elif label_csv == labels.BY_INDEX or labels.are_numbered(description.labels):  # no names to join by
        named = checkpoint.name_outputs(_locate(label_csv), description.architecture)
    else:
        named = tuple(labels.read_named(labels.locate(label_csv), description.labels, weights.with_name("model.json")))
    return description, named, safetensors.torch.load_file(weights)


def _locate(label_csv: str) -> str:
    """Locate a label CSV in this folder or ecgpipe's clone; "index" is returned unchanged."""
    return label_csv if label_csv == labels.BY_INDEX else str(labels.locate(label_csv))


def _find_labels(names: Sequence[str]) -> tuple[Label, ...]:
    """Find labels by their names: from ecgpipe's label CSV with exactly these names, else with the mean for each."""
    for path in labels.list_shipped():
        brought = labels.read(path)
        if [label.name for label in brought] == list(names):
            return brought
    if labels.are_numbered(names):
        logger.warning("%s", labels.explain_numbers(len(names)))
    elif names:
        logger.warning(
            "labels: none of ecgpipe's label CSVs has the names of this run, so the mean over the segments is used "
            "for each label; give the run's own label CSV as labels="
        )
    return tuple(Label(name, "mean", None) for name in names)
