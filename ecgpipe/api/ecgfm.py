"""ECG-FM and the other models from Python, without Snakemake: recordings in, pandas tables out.

`from ecgpipe import ECGFM`. The results are those of the workflow: the same functions prepare the recordings, run the
network and aggregate the segments.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import torch

from ecgpipe.api import arrays, compute, loading, tables
from ecgpipe.api.compute import Given
from ecgpipe.api.sources import Entry, Signal
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import engine, non_finite_outputs
from ecgpipe.models import labels, networks
from ecgpipe.models.description import DEMO_MODEL, Description, describe
from ecgpipe.models.labels import Label
from ecgpipe.models.output import AnyNetwork
from ecgpipe.preprocessing.segments import Windows, windows_of

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class ECGFM:
    """A model of any family, ready to run.

    Make one with `from_checkpoint` or `from_run`. `predict`, `logits`, `embed`, `attention` and `attribute` take the
    same recordings, and the results of a recording do not depend on the recordings beside it:

    - `signal`: a path (a file of any format, a folder, a glob, a table of recordings) or a list of paths; a `Recording`
      as `ecgpipe.read` gives it; a DataFrame with a column per lead and a row per sample; an array, (leads, samples) or
      (recordings, leads, samples); or a list of recordings of one of these kinds and of any lengths. Any real numbers.
    - `sample_rate`: in Hz, of arrays and DataFrames: one number, or one for each recording of a list. They are
      resampled as the model needs it. Of files: what is assumed where a file does not state it.
    - `leads`: the names of an array's rows, in any order and in the spellings that files have ("aVR", "AVR",
      "MDC_ECG_LEAD_V1"). Leads are told by name alone. Two of I, II and III give the other limb leads.
    - `windows`: an `ecgpipe.preprocessing.segments.Windows`, which says of segments and leads what the settings
      `preprocess` say. None: as the model's authors do, or as the run did.
    - `unit`: of the signal: "mV", "uV", "V" or "nV". Most models see no unit, and the leads need only share one; those
      that need millivolts (`description.model_input.unit`) ask for it.
    - `ids`: names of the recordings in the results. None: numbers from 0; the ids of files.
    - `errors`: "raise" stops at the first recording that cannot be used; "skip" leaves such recordings out, and
      `skipped` says why.
    - `progress`: whether to show a progress bar. None: in a terminal or a notebook, when it takes longer than a second.

    Attributes:
        labels: What the outputs are, in the model's order, with aggregation and threshold; () for a model without a
            head.
        description: Of the checkpoint: the network's sizes, where it is from, its sha256.
        family: The model family.
        device: Where it runs.
        skipped: The recordings that the last call left out: a DataFrame with a row for each, and `path`, `status`
            ("skipped": it cannot be used; "failed": it cannot be read) and `reason`.

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
        load_for_gradients: Callable[[], AnyNetwork] | None = None,
        of_run: loading.OfRun | None = None,
    ) -> None:
        self.network = network
        self.family = networks.find_family_of(description, model)
        self._exact = exact  # the same in float32, where `network` is in half precision
        self._load_for_gradients = load_for_gradients
        self._with_gradients: AnyNetwork | None = None
        self._of_run = of_run or loading.OfRun()
        self.description = description
        self.labels = tuple(model_labels)
        self.device = device
        self.batch_size = batch_size
        self._skipped: list[Entry] = []

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
            device: "auto" (an NVIDIA GPU if PyTorch finds one), "cpu", "cuda", "cuda:N" or "mps", Apple's GPU.
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
        address = os.path.expanduser(source)  # noqa: PTH111, a Path would make one slash of two in hf://
        label_csv = None if labels is None else os.path.expanduser(labels)  # noqa: PTH111
        own_model = None if model is None else os.path.expanduser(model)  # noqa: PTH111
        _check_options(precision, batch_size, threads)

        def open_it() -> loading.Opened:
            return loading.open_checkpoint(address, label_csv, own_model, model_options)

        return cls._load(open_it, address, device, precision, batch_size, own_model)

    @classmethod
    def from_run(
        cls,
        outdir: str | Path,
        device: str = "auto",
        precision: str = "float32",
        batch_size: int | None = None,
        threads: int | None = None,
        model: str | Path | None = None,
    ) -> "ECGFM":
        """Load the checkpoint of a finished run, and do with recordings what the run did.

        That is: its labels with their aggregation and thresholds, how it cut recordings, what it assumed of files, and
        the calibration of its probabilities. Labels of heads that `probe` trained are left out, with a warning.

        Args:
            outdir: The folder of its results.
            device: As for `from_checkpoint`, as the others.
            precision: The run's own is in `Run(outdir).info.precision`.
            batch_size: Segments at a time.
            threads: Of the CPU.
            model: The path of your own .py file, if the run is of one.

        Returns:
            The model.

        Raises:
            EcgpipeError: It is no finished run, its checkpoint is gone or not that of its results, or its calibration
                has changed.
        """
        from ecgpipe.core.run import Run  # here, because pydantic takes a fifth of a second of `import ECGFM`

        finished = Run(os.path.expanduser(outdir))  # noqa: PTH111
        own_model = None if model is None else os.path.expanduser(model)  # noqa: PTH111
        _check_options(precision, batch_size, threads)
        run = loading.read_run(finished)

        def open_it() -> loading.Opened:
            return describe(finished.model_json), run.labels, loading.load_weights(finished.weights)

        ecgfm = cls._load(open_it, str(outdir), device, precision, batch_size, own_model)
        ecgfm._of_run = run
        return ecgfm

    @classmethod
    def _load(
        cls,
        open_it: Callable[[], loading.Opened],
        source: str,
        device: str,
        precision: str,
        batch_size: int | None,
        model: str | None,
    ) -> "ECGFM":
        """Put a checkpoint on a device."""
        description, named, tensors = open_it()
        if description.random_weights:
            logger.warning("%s has random weights: its predictions mean nothing", source)
        if description.demo_model:
            logger.warning("%s: %s", source, DEMO_MODEL)
        least = 2 * sum(tensor.nbytes for tensor in tensors.values())
        # Without holding its lock: a notebook keeps its model for hours, and others may use the GPU meanwhile.
        with loading.claim_device(device, least) as where:
            dtype = engine.DTYPES[engine.usable(precision, where)]
            network = networks.make_network(description, tensors, where, dtype, model=model)
        exact = None
        if dtype != torch.float32:
            exact = non_finite_outputs.InFloat32(
                lambda: networks.make_network(description, tensors, where, model=model), where
            )

        def load_for_gradients() -> AnyNetwork:  # from the file again, rather than in memory twice for all the others
            return networks.make_network(description, open_it()[2], where, packed=False, model=model)

        return cls(network, description, named, where, batch_size, exact, model, load_for_gradients)

    def __repr__(self) -> str:
        description, model_input = self.description, self.description.model_input
        size = self.batch_size or engine.default_batch_size(self.device, model_input.window_samples)
        lines = [
            f"ECGFM: {self.family.title}, {len(self.labels) or 'no'} labels",
            f"checkpoint: {description.uri}, sha256 {description.sha256[:12]}",
            f"input: {len(model_input.leads)} leads, {model_input.window_s:g} s at {model_input.rate:g} Hz",
            f"device: {self.device}, {'half precision' if self._exact else 'float32'}, {size} segments at a time",
        ]
        lines += ["random weights: its predictions mean nothing"] if description.random_weights else []
        lines += [DEMO_MODEL] if description.demo_model else []
        return "\n  ".join(lines)

    @property
    def thresholds(self) -> dict[str, float]:
        """The decision threshold of each label; 0.5 where none was chosen."""
        return labels.thresholds_by_name(self.labels)

    @property
    def skipped(self) -> "pd.DataFrame":
        """The recordings that the last call left out; see the class."""
        return tables.list_skipped(self._skipped)

    def predict(
        self,
        signal: Signal,
        sample_rate: float | Sequence[float] | None = None,
        leads: Sequence[str] | None = None,
        windows: Windows | None = None,
        unit: str | None = None,
        *,
        ids: Sequence[str] | None = None,
        errors: Literal["raise", "skip"] = "raise",
        progress: bool | None = None,
    ) -> "pd.DataFrame":
        """The probability of each label for each recording, put together from its segments as the label CSV says.

        The class describes the arguments.

        Returns:
            One row per recording, by its number or id; one float64 column per label in the model's order.

        Raises:
            EcgpipeError: The checkpoint has no head, or a recording cannot be used; it says which, and why.

        Example:
            >>> probabilities = ecgfm.predict(signal, 500, LEADS)
            >>> list(probabilities.columns)[:3]
            ['Poor data quality', 'Sinus rhythm', 'Premature ventricular contraction']
            >>> bool(probabilities.loc[0].between(0, 1).all())
            True
        """
        logits = self.logits(signal, sample_rate, leads, windows, unit, ids=ids, errors=errors, progress=progress)
        return tables.aggregate_logits(logits, self.labels, self._of_run.fit)

    def logits(
        self,
        signal: Signal,
        sample_rate: float | Sequence[float] | None = None,
        leads: Sequence[str] | None = None,
        windows: Windows | None = None,
        unit: str | None = None,
        *,
        ids: Sequence[str] | None = None,
        errors: Literal["raise", "skip"] = "raise",
        progress: bool | None = None,
    ) -> "pd.DataFrame":
        """The network's outputs for each segment, before any sigmoid. The class describes the arguments.

        Returns:
            One row per segment, indexed by recording, segment and its start in seconds; one float32 column per label.

        Raises:
            EcgpipeError: The checkpoint has no head, or a recording cannot be used; it says which, and why.
        """
        self.need_labels()
        index, results = self._run(Given(signal, sample_rate, leads, windows, unit, ids, errors, progress))
        return tables.make_frame(results.logits, index, [label.name for label in self.labels])

    def embed(
        self,
        signal: Signal,
        sample_rate: float | Sequence[float] | None = None,
        leads: Sequence[str] | None = None,
        windows: Windows | None = None,
        unit: str | None = None,
        *,
        ids: Sequence[str] | None = None,
        errors: Literal["raise", "skip"] = "raise",
        progress: bool | None = None,
    ) -> "pd.DataFrame":
        """The embedding of each segment: the mean over its tokens. The class describes the arguments.

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
        index, results = self._run(Given(signal, sample_rate, leads, windows, unit, ids, errors, progress))
        return tables.make_frame(results.embedding, index)

    def attention(
        self,
        signal: Signal,
        sample_rate: float | Sequence[float] | None = None,
        leads: Sequence[str] | None = None,
        windows: Windows | None = None,
        unit: str | None = None,
        *,
        ids: Sequence[str] | None = None,
        errors: Literal["raise", "skip"] = "raise",
        progress: bool | None = None,
    ) -> "pd.DataFrame":
        """The last layer's attention of each segment, mean over heads, max over keys; it is the same for all labels.

        The class describes the arguments.

        Returns:
            One row per segment, indexed by recording, segment and its start in seconds; one float32 column per token
            (156 in five seconds of ECG-FM, whose token t is at sample 16 t + 7.5 of the segment at 500 Hz).

        Raises:
            EcgpipeError: The model has no attention, or a recording cannot be used; it says which, and why.
        """
        if not self.description.tokens(self.description.model_input.window_samples):
            raise EcgpipeError(f"checkpoint: {self.description.uri} is of {self.description.family}: no attention")
        given = Given(signal, sample_rate, leads, windows, unit, ids, errors, progress)
        index, results = self._run(given, with_attention=True)
        assert results.attention is not None  # noqa: S101
        return tables.make_frame(results.attention, index)

    def attribute(
        self,
        signal: Signal,
        sample_rate: float | Sequence[float] | None = None,
        leads: Sequence[str] | None = None,
        windows: Windows | None = None,
        unit: str | None = None,
        *,
        label: str | Sequence[str],
        steps: int | None = None,
        ids: Sequence[str] | None = None,
        errors: Literal["raise", "skip"] = "raise",
        progress: bool | None = None,
    ) -> tables.Attributions:
        """Attribute labels to leads and times, by integrated gradients from a flat line.

        It takes as long as some tens of predictions. `label` is a label's name, or several. `steps` are those of the
        integral (None: as many as the completeness error takes); more are more exact. The class describes the others.

        Returns:
            `samples`: a row per segment, label and lead, a column per sample of the model's input, what each adds to
            the label's logit. `checks`: a row per segment and label, by which to judge it: `logit`, `baseline_logit`
            of the flat line, `error` (by how much the sum misses their difference), `drop` (of the logit without the
            tenth of largest attribution), `random_change` (without a random tenth) and `steps` (of the integral).

        Raises:
            EcgpipeError: A label is unknown, a recording cannot be used, or Captum is not installed.
        """
        self.need_labels()
        wanted = [label] if isinstance(label, str) else list(label)
        names = [each.name for each in self.labels]
        unknown = [name for name in wanted if name not in names]
        if unknown or not wanted:
            raise EcgpipeError(f"label: {', '.join(map(repr, unknown)) or 'none'} is no label; give {', '.join(names)}")
        if steps is not None and steps < 1:
            raise EcgpipeError(f"steps: {steps} is out of range; give 1 or more")
        if self._with_gradients is None:
            assert self._load_for_gradients is not None  # noqa: S101
            self._with_gradients = self._load_for_gradients()
        given = Given(signal, sample_rate, leads, windows, unit, ids, errors, progress)
        targets = {name: names.index(name) for name in wanted}
        entries = self._iterate(given, self._choose_windows(windows))
        size = self.batch_size if self.device.type == "cpu" else None
        return tables.attribute_entries(self._with_gradients, entries, targets, self.description.leads, steps, size)

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
        """The windows of the run or the model, with what the user chose of tails, short recordings, missing leads."""
        own = self._of_run.windows or windows_of(self.description.model_input)
        if windows is None:
            return own
        arrays.check_windows(windows)
        spell = "windows.{}".format
        window_s = self.family.choose_window_s(own.model_input, windows.segment_s, windows.short, spell)
        return windows._replace(segment_s=window_s, model_input=own.model_input)

    def _iterate(self, given: Given, windows: Windows) -> Iterator[Entry]:
        """The recordings that can be used; the others of this call are `skipped`."""
        self._skipped = []
        return compute.iterate_usable(given, windows, self._of_run.assumed, self._skipped)

    def _run(self, given: Given, with_attention: bool = False) -> "tuple[pd.MultiIndex, engine.Results]":
        """Prepare the recordings and run the network over their segments."""
        windows = self._choose_windows(given.windows)
        entries = self._iterate(given, windows)
        size = self.batch_size or engine.default_batch_size(self.device, windows.segment_samples)
        runner = compute.Runner(self.network, self._exact, self.description, self.device, size, with_attention)
        return compute.run_network(runner, entries, windows)


def _check_options(precision: str, batch_size: int | None, threads: int | None) -> None:
    """Refuse options that are not valid, and set the number of threads."""
    if precision not in engine.DTYPES:
        raise EcgpipeError(f"precision: {precision!r} is not valid; give {', '.join(engine.DTYPES)}")
    if batch_size is not None and batch_size < 1:
        raise EcgpipeError(f"batch_size: {batch_size} is out of range; give 1 or more")
    if threads is not None:
        torch.set_num_threads(threads)
