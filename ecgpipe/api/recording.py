"""A recording in Python, and the function that reads one from a file; nothing here loads PyTorch."""

import html
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ecgpipe import readers
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.readers import Assumed, UnavailableError, UnreadableError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL_MATPLOTLIB = (
    "drawing needs the package matplotlib, which is not installed; install it with: pip install matplotlib"
)

# Of the picture in a notebook: the paper's millimetres are its true ones where the browser shows 96 pixels an inch.
DPI = 120
CSS_DPI = 96


@dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """One ECG.

    Attributes:
        signal: (leads, samples) float64; in mV where the unit is known.
        sample_rate: In Hz.
        leads: The names of the rows, as the file has them.
        unit: "mV"; "mixed" where the leads do not share a unit; None where the file states none.
        metadata: What else is known of it: `path`, `format`, `row`, `stripped_s` (filling at its ends that was left
            out), and what a table of recordings or the comments of a
            WFDB header say, such as age and sex.
        name: Its id.

    Example:
        >>> recording = Recording(signal, 500, LEADS, "mV")
        >>> recording
        Recording: 12 leads, 10 s at 500 Hz, mV
    """

    signal: np.ndarray
    sample_rate: float
    leads: tuple[str, ...]
    unit: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no recording.

        Raises:
            EcgpipeError: The signal is not (leads, samples), or the sampling rate is not positive.
        """
        shape = np.shape(self.signal)
        if len(shape) != 2 or shape[0] != len(self.leads):
            raise EcgpipeError(f"signal: its shape is {shape}, with {len(self.leads)} leads; give (leads, samples)")
        if not self.sample_rate > 0:
            raise EcgpipeError(f"sample_rate: {self.sample_rate!r} is out of range; give a number of Hz")

    @property
    def seconds(self) -> float:
        """Its length."""
        return float(self.signal.shape[1] / self.sample_rate)

    def __repr__(self) -> str:
        named = f"Recording {self.name}" if self.name else "Recording"
        count = "1 lead" if len(self.leads) == 1 else f"{len(self.leads)} leads"
        return f"{named}: {count}, {self.seconds:g} s at {self.sample_rate:g} Hz, {self.unit or 'unit not stated'}"

    def plot(self, layout: str = "standard", from_s: float = 0.0) -> "Figure":
        """Draw ten seconds on ECG paper: 25 mm/s, 10 mm/mV.

        Args:
            layout: "standard": four columns and a rhythm strip; "long": a row per lead.
            from_s: Where the drawing begins, in seconds.

        Returns:
            A matplotlib figure of the paper's true size. Leads that the file does not have, derived or flat, are marked
            with *.

        Raises:
            EcgpipeError: It cannot be drawn so, or matplotlib is not installed.
        """
        view = self._encode()
        try:
            import matplotlib as mpl  # here, as reading needs none of it

            from ecgpipe.report import ecg_paper
        except ModuleNotFoundError as error:
            if error.name != "matplotlib":
                raise
            raise EcgpipeError(INSTALL_MATPLOTLIB) from error
        if layout not in ecg_paper.LAYOUTS:
            raise EcgpipeError(f"layout: {layout!r} is not valid; give {' or '.join(ecg_paper.LAYOUTS)}")
        if not 0 <= from_s < view["seconds"]:
            raise EcgpipeError(f"from_s: {from_s:g} is not within the {view['seconds']:g} s that are drawn; give less")
        with mpl.rc_context(ecg_paper.STYLE):
            return ecg_paper.draw(view, self.name or "ECG", layout, "none", from_s)

    def _encode(self) -> dict[str, Any]:
        """What is drawn of it, as the report has it."""
        from ecgpipe.preprocessing.segments import Cut, UnusableError, Windows, choose_leads
        from ecgpipe.report import waveform

        recording = readers.Recording(np.asarray(self.signal, np.float64), self.sample_rate, self.leads, self.unit)
        try:
            twelve = choose_leads(recording, Windows(missing_leads="zero", min_leads=1))
        except UnusableError as error:
            raise EcgpipeError(f"the recording cannot be drawn: {error}") from error
        if not self.signal.shape[1]:
            raise EcgpipeError("the recording cannot be drawn: it has no samples")
        layout = waveform.Layout()
        whole = Cut(np.zeros(1, int), 0, 0, 0)  # the whole recording as one segment: no borders are drawn
        samples = int(np.ceil(self.seconds * layout.rate))
        leads = waveform.encode_leads(twelve, self.sample_rate, self.unit)
        return leads | waveform.encode_model(leads["seconds"], whole, samples, None, [], (1, 1), layout)

    def _repr_html_(self) -> str:
        """What a notebook shows: the paper, and one line of facts; the facts alone where it cannot be drawn."""
        said = f"<p>{html.escape(repr(self))}</p>"
        try:
            figure = self.plot()
        except EcgpipeError as error:
            return f"{said}<p>{html.escape(str(error))}</p>"
        import base64

        file = BytesIO()
        figure.savefig(file, format="png", dpi=DPI)
        width = round(float(figure.get_figwidth()) * CSS_DPI)
        picture = base64.b64encode(file.getvalue()).decode()
        alt = html.escape(repr(self), quote=True)
        return f'<img alt="{alt}" width="{width}" style="max-width: none" src="data:image/png;base64,{picture}">{said}'


def read(
    path: str | os.PathLike[str],
    sample_rate: float | None = None,
    leads: tuple[str, ...] | list[str] | None = None,
    unit: str | None = None,
    row: int | None = None,
) -> Recording:
    """Read one recording, of any format that a run takes.

    Args:
        path: The file.
        sample_rate: In Hz, if the file does not state it.
        leads: Their names in order, if the file does not name them.
        unit: mV, uV, V or nV, if the file does not state it.
        row: Which recording of a file that holds many.

    Returns:
        The recording, without filling at its ends.

    Raises:
        EcgpipeError: The file is not there, cannot be read, or holds several recordings and `row` is missing.

    Example:
        >>> from ecgpipe import read
        >>> read("ecg.npz")
        Recording ecg: 12 leads, 10 s at 500 Hz, unit not stated
    """
    from ecgpipe.api import arrays
    from ecgpipe.core import schemas
    from ecgpipe.inputs.scan import scan_inputs
    from ecgpipe.readers import wfdb

    text = os.path.expanduser(path)  # noqa: PTH111, as a text it may be one that no Path takes
    assumed = Assumed(
        None if sample_rate is None else arrays.check_rate(sample_rate),
        None if leads is None else arrays.check_names(leads),
        unit,
    )
    scanned = scan_inputs([text])
    rows = scanned.recordings.to_pylist()
    if row is not None:
        rows = [each for each in rows if each["row"] == row]
    if len(rows) > 1:
        many = "give row=, from 0" if all(each["row"] is not None for each in rows) else "give the path of one file"
        raise EcgpipeError(f"path: {text} holds {len(rows):,} recordings; {many}")
    if not rows:
        reasons = [file["reason"] for file in scanned.files.to_pylist() if file["reason"]]
        wanted = "" if row is None else f" of row {row}"
        raise EcgpipeError(f"path: {text}: {'; '.join(reasons[:3]) or f'there is no recording{wanted} in it'}")
    found = rows[0]
    try:
        recording = _read_apart(found, assumed)
    except UnreadableError as error:
        reason = str(error).replace("set preprocess.assume_sample_rate", "give sample_rate=")
        reason = reason.replace("set preprocess.assume_leads to", "give leads=,")
        raise EcgpipeError(f"path: {text}: {reason}") from error
    about = {"path": found["path"], "format": found["format"], "row": found["row"], "stripped_s": recording.stripped_s}
    about |= {name: value for name, value in found.items() if name not in schemas.MANIFEST.names}
    if found["format"] == "wfdb":
        about |= {key.lower(): value for key, value in wfdb.comments(Path(found["path"])).items()}
    return Recording(
        recording.signal, recording.sample_rate, recording.leads, recording.unit, about, found["record_id"]
    )


def _read_apart(row: dict[str, Any], assumed: Assumed) -> readers.Recording:
    """Read a recording in a process of its own, since a damaged file may crash the library that reads it.

    Raises:
        UnreadableError: It cannot be read, now or at all.
    """
    from ecgpipe.preprocessing import preprocess
    from ecgpipe.readers import isolation

    with TemporaryDirectory(prefix="ecgpipe-") as folder:
        values, about = Path(folder, "signal.npy"), Path(folder, "about.json")

        def work(crashed: dict[int, str], begin: Callable[[int], None]) -> None:
            begin(0)
            try:
                if crashed:
                    raise UnreadableError(crashed[0])
                recording = preprocess.read_recording(row, assumed)
            except (UnreadableError, UnavailableError) as error:
                about.write_text(json.dumps([str(error)]), encoding="utf-8")
            else:
                np.save(values, recording.signal)
                facts = [None, recording.sample_rate, recording.leads, recording.unit, recording.stripped_s]
                about.write_text(json.dumps(facts), encoding="utf-8")
            begin(-1)

        isolation.crashes(work, called=lambda _: str(row["path"]))
        problem, *facts = json.loads(about.read_text(encoding="utf-8"))
        if problem:
            raise UnreadableError(problem)
        rate, leads, unit, stripped_s = facts
        return readers.Recording(np.load(values), rate, tuple(leads), unit, stripped_s)
