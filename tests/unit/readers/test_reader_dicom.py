"""DICOM: the rhythm by name and in millivolts, from pydicom's own ECG and from files that pydicom writes."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from ecgpipe import readers
from ecgpipe.readers import LEADS, Assumed, Recording, UnreadableError, spell_leads
from ecgpipe.readers.device_report import DeviceReport

SAMPLES = np.random.default_rng(0).integers(-2000, 2000, (12, 500)).astype("<i2")
CODES = ("1", "2", "61", "62", "63", "64", "3", "4", "5", "6", "7", "8")  # in the order of LEADS


def item(**values: object) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def channel(meaning: str = "", code: str = "", scheme: str = "SCPECG", unit: str = "uV", **values: object) -> Dataset:
    source = item(CodeValue=code, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
    units = item(CodeValue=unit, CodingSchemeDesignator="UCUM", CodeMeaning=unit)
    scale: dict[str, object] = {"ChannelSensitivity": "2.5", "ChannelSensitivityUnitsSequence": [units]}
    return item(**{"ChannelSourceSequence": [source], **scale, **values})


def group(samples: np.ndarray = SAMPLES, channels: list[Dataset] | None = None, **values: object) -> Dataset:
    kinds = {"i1": "SB", "u1": "UB", "i2": "SS", "u2": "US", "i4": "SL", "u4": "UL"}
    stated = {
        "NumberOfWaveformChannels": samples.shape[0],
        "NumberOfWaveformSamples": samples.shape[1],
        "SamplingFrequency": "500",
        "WaveformOriginality": "ORIGINAL",
        "MultiplexGroupLabel": "RHYTHM",
        "WaveformBitsAllocated": samples.dtype.itemsize * 8,
        "WaveformSampleInterpretation": kinds[samples.dtype.str[1:]],
        "WaveformData": samples.T.tobytes(),
        "ChannelDefinitionSequence": channels or [channel(f"Lead {lead}") for lead in LEADS],
    }
    return item(**{**stated, **values})


def write(
    folder: Path, *groups: Dataset, sop: str = uid.TwelveLeadECGWaveformStorage, big: bool = False, **values: object
) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.UID(sop), uid.generate_uid()
    meta.TransferSyntaxUID = uid.ExplicitVRBigEndian if big else uid.ExplicitVRLittleEndian
    content = item(SOPClassUID=sop, **values)
    dataset = FileDataset("x", content, bytes(128), meta, is_implicit_VR=False, is_little_endian=not big)
    if groups:
        dataset.WaveformSequence = list(groups)
    dataset.save_as(folder / "x.dcm", enforce_file_format=True)
    return folder / "x.dcm"


def read(path: Path, assumed: Assumed = Assumed()) -> Recording:  # noqa: B008
    return readers.read(path, "dicom", assumed)


def says(path: Path) -> str:
    """Why the file cannot be read."""
    with pytest.raises(UnreadableError) as caught:
        read(path)
    return str(caught.value)


def real() -> Path:
    """A 12-lead ECG of a real device, which pydicom carries: a rhythm and a median beat."""
    path = get_testdata_file("waveform_ecg.dcm", download=False)
    assert isinstance(path, str)
    return Path(path)


# What a file says


def test_a_real_ecg_gives_its_rhythm_in_millivolts() -> None:
    recording = read(real())
    assert recording.signal.shape == (12, 10_000)
    assert (recording.sample_rate, recording.unit, recording.stripped_s) == (1000, "mV", 0)
    assert recording.leads[0] == "Lead I (Einthoven)"
    assert tuple(spell_leads(recording.leads)) == LEADS
    lead_i, lead_ii, lead_iii = recording.signal[:3]
    np.testing.assert_allclose(lead_iii, lead_ii - lead_i, atol=0.002)  # Einthoven: so the scale and names are right
    # The first sample is 80 in the file, at 1.25 uV: https://pydicom.github.io/pydicom/stable/tutorials/waveforms.html
    assert lead_i[0] == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["code_15_1238362", "code_15_270272"])
def test_a_real_recording_comes_back_by_name_within_half_a_step(name: str, reference: Path, tmp_path: Path) -> None:
    feats = scipy.io.loadmat(reference / "code15" / f"{name}.mat")["feats"].astype(float)
    order = np.random.default_rng(1).permutation(12)
    channels = [channel(f"Lead {LEADS[n]}", ChannelSensitivity="0.5") for n in order]
    stored = np.round(feats[order] * 2000).astype("<i2")
    recording = read(write(tmp_path, group(stored, channels, SamplingFrequency="400")))
    assert spell_leads(recording.leads) == [LEADS[n] for n in order]
    assert (recording.sample_rate, recording.unit) == (400, "mV")
    np.testing.assert_allclose(recording.signal, feats[order], rtol=0, atol=0.000251)


@pytest.mark.parametrize("kind", ["<i1", "<u1", "<i2", "<u2", "<i4", "<u4"])
def test_samples_may_be_of_any_whole_kind(kind: str, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 100, (12, 500)).astype(kind)
    recording = read(write(tmp_path, group(samples), sop=uid.General32bitECGWaveformStorage))
    np.testing.assert_allclose(recording.signal, samples * 0.0025)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    swapped = group(SAMPLES, WaveformData=SAMPLES.astype(">i2").T.tobytes())
    np.testing.assert_allclose(read(write(tmp_path, swapped, big=True)).signal, SAMPLES * 0.0025)


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1e-3), ("mV", 1), ("V", 1e3), ("nV", 1e-6)])
def test_sensitivity_correction_and_baseline_count_in_the_stated_unit(unit: str, factor: float, tmp_path: Path) -> None:
    scale = {"ChannelSensitivity": "2", "ChannelSensitivityCorrectionFactor": "1.5", "ChannelBaseline": "-7"}
    channels = [channel(lead, unit=unit, **scale) for lead in LEADS]
    recording = read(write(tmp_path, group(channels=channels)))
    assert recording.unit == "mV"
    np.testing.assert_allclose(recording.signal, (SAMPLES * 3.0 - 7) * factor)


def test_without_a_sensitivity_the_unit_is_not_known_unless_assumed(tmp_path: Path) -> None:
    channels = [channel(lead, ChannelSensitivity=None) for lead in LEADS]
    path = write(tmp_path, group(channels=channels))
    assert read(path).unit is None
    np.testing.assert_allclose(read(path, Assumed(unit="uV")).signal, SAMPLES / 1e3)


@pytest.mark.parametrize(("scheme", "prefix"), [("SCPECG", "5.6.3-9-"), ("MDC", "2:")])
def test_leads_are_known_by_their_code_where_words_are_absent_or_the_standards_own(
    scheme: str, prefix: str, tmp_path: Path
) -> None:
    for meaning in ("", "augmented voltage, right"):
        channels = [channel(meaning, prefix + code, scheme) for code in CODES]
        assert read(write(tmp_path, group(channels=channels))).leads == LEADS


def test_leads_are_known_by_their_label_where_there_is_no_source(tmp_path: Path) -> None:
    channels = [channel(ChannelLabel=f"ECG {lead}", ChannelSourceSequence=None) for lead in LEADS]
    assert spell_leads(read(write(tmp_path, group(channels=channels))).leads) == list(LEADS)


def test_inverted_avr_is_not_avr(tmp_path: Path) -> None:
    channels = [channel(f"Lead {lead}") for lead in LEADS]
    channels[3] = channel("-aVR", "2:65", "MDC")
    assert read(write(tmp_path, group(channels=channels))).leads[3] == "-aVR"


def test_a_channel_whose_code_and_words_differ_is_refused(tmp_path: Path) -> None:
    channels = [channel(f"Lead {lead}", "5.6.3-9-1") for lead in LEADS]
    reason = "a channel of the DICOM file is two leads at once (Lead II, code 5.6.3-9-1)"
    assert says(write(tmp_path, group(channels=channels))) == reason


# Which of several groups


def test_the_rhythm_is_read_wherever_it_stands(tmp_path: Path) -> None:
    long = np.tile(SAMPLES, 4)
    for beat, rhythm in (
        ({"MultiplexGroupLabel": "MEDIAN BEAT"}, {"WaveformOriginality": "DERIVED"}),
        ({"MultiplexGroupLabel": "Average complex"}, {"MultiplexGroupLabel": "ECG"}),
        ({"MultiplexGroupLabel": "1"}, {"MultiplexGroupLabel": "Rhythm Data", "WaveformOriginality": "DERIVED"}),
        ({"MultiplexGroupLabel": "", "WaveformOriginality": "DERIVED"}, {"MultiplexGroupLabel": ""}),
    ):
        groups = [group(long, **beat), group(SAMPLES, **rhythm)]  # type: ignore[arg-type]
        for ordered in (groups, groups[::-1]):
            assert read(write(tmp_path, *ordered)).signal.shape == (12, 500)
    assert read(write(tmp_path, group(), group(long))).signal.shape == (12, 2000)


def test_a_median_beat_alone_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, group(MultiplexGroupLabel="MEDIAN BEAT"))
    assert says(path) == "the DICOM file holds median beats alone, no rhythm"


def test_leads_that_were_recorded_after_each_other_are_refused(tmp_path: Path) -> None:
    groups = [group(SAMPLES[n : n + 3], [channel(lead) for lead in LEADS[n : n + 3]]) for n in (0, 3, 6, 9)]
    assert says(write(tmp_path, *groups)) == "the DICOM file's leads were not recorded together (4 groups of channels)"


def test_padding_at_the_ends_is_left_out_and_within_is_no_number(tmp_path: Path) -> None:
    samples = SAMPLES.copy()
    samples[:, :50] = samples[:, -100:] = samples[3, 200] = -32768
    recording = read(write(tmp_path, group(samples, WaveformPaddingValue=b"\x00\x80")))
    assert recording.signal.shape == (12, 350)
    assert recording.stripped_s == 150 / 500
    assert np.argwhere(np.isnan(recording.signal)).tolist() == [[3, 150]]


@pytest.mark.parametrize("value", [0, 100, -32768])
def test_a_padding_value_that_leads_have_otherwise_too_is_a_sample(value: int, tmp_path: Path) -> None:
    samples = SAMPLES.copy()
    samples[3, 50], samples[:, -400:] = value, value
    recording = read(write(tmp_path, group(samples, WaveformPaddingValue=np.int16(value).tobytes())))
    assert recording.stripped_s == 400 / 500
    assert np.isnan(recording.signal).sum() == (value == -32768)


def test_samples_at_the_limit_of_16_bits_are_padding_where_none_is_stated(tmp_path: Path) -> None:
    samples = SAMPLES.copy()
    samples[:, -9:] = -32768
    assert read(write(tmp_path, group(samples))).stripped_s == 9 / 500


@pytest.mark.parametrize(
    "sop", [uid.HemodynamicWaveformStorage, uid.CardiacElectrophysiologyWaveformStorage, "1.2.826.0.1.3680043.8.498.9"]
)
def test_the_channels_decide_what_is_an_ecg(sop: str, tmp_path: Path) -> None:
    whole = read(write(tmp_path, group()))
    np.testing.assert_array_equal(read(write(tmp_path, group(), sop=sop)).signal, whole.signal)
    pressure = [channel(f"Pressure {number}", unit="mm[Hg]") for number in range(12)]
    assert says(write(tmp_path, group(channels=pressure), sop=sop)).startswith(
        "a DICOM file of another kind than ECG ("
    )
    mixed = group(np.vstack([SAMPLES, SAMPLES[:1]]), [*(channel(f"Lead {lead}") for lead in LEADS), pressure[0]])
    found = read(write(tmp_path, mixed, sop=sop))
    assert (found.unit, len(found.leads)) == ("mV", 12)


# What it must not get away with


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"NumberOfWaveformSamples": 501}, "the DICOM file has fewer samples than it states"),
        ({"NumberOfWaveformSamples": 2**32 - 1}, "too long to read at once"),
        ({"NumberOfWaveformSamples": 0}, "the DICOM file's waveform is empty"),
        ({"NumberOfWaveformChannels": 11}, "the DICOM file does not describe each channel"),
        ({"WaveformBitsAllocated": 24}, "the DICOM file's samples are of a kind that is not read"),
        ({"WaveformBitsAllocated": 8, "WaveformSampleInterpretation": "MB"}, "the DICOM file's samples are of a kind"),
        ({"SamplingFrequency": None}, "not a readable DICOM file"),
        ({"ChannelDefinitionSequence": None}, "the DICOM file does not describe each channel"),
        ({"WaveformData": None}, "the DICOM file has fewer samples than it states"),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(values: dict[str, object], reason: str, tmp_path: Path) -> None:
    assert says(write(tmp_path, group(**values))).startswith(reason)  # type: ignore[arg-type]


@pytest.mark.parametrize("sensitivity", ["0", "nan", "inf"])
def test_a_lead_without_a_gain_is_refused(sensitivity: str, tmp_path: Path) -> None:
    channels = [channel(lead) for lead in LEADS]
    path = write(tmp_path, group(channels=[*channels[:4], channel("aVL", ChannelSensitivity="9.5"), *channels[5:]]))
    path.write_bytes(path.read_bytes().replace(b"9.5 ", sensitivity.ljust(4).encode()))
    assert says(path).startswith("a channel's sensitivity in the DICOM file is not valid (aVL")


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "reportsi.dcm"])
def test_other_kinds_of_dicom_are_refused_by_their_name(name: str) -> None:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    assert says(Path(path)).startswith("a DICOM file of another kind than ECG (")


def test_an_ecg_without_waveforms_is_refused(tmp_path: Path) -> None:
    assert says(write(tmp_path)) == "the DICOM file has no waveforms"


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    plain = write(tmp_path, group()).read_bytes()
    old, new = uid.ExplicitVRLittleEndian.encode() + b"\0", b"1.2.840.10008.1.2.1.99"
    start = plain.index(old)
    head = plain[: start - 2] + len(new).to_bytes(2, "little") + new
    length = int.from_bytes(plain[140:144], "little") + len(new) - len(old)
    head = head[:140] + length.to_bytes(4, "little") + head[144:]
    deflate = zlib.compressobj(9, wbits=-15)
    rest = deflate.compress(plain[start + len(old) :]) + deflate.compress(bytes(2**26)) + deflate.flush()
    (tmp_path / "x.dcm").write_bytes(head + rest)
    assert says(tmp_path / "x.dcm") == "a deflated DICOM file, which is not read"


def test_a_sparse_terabyte_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, group())
    with path.open("r+b") as file:
        file.truncate(2**40)
    assert says(path).startswith("too long to read at once")


@pytest.mark.parametrize("data", [b"", bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\xff" * 500, b"Dear all," * 99])
def test_what_is_no_dicom_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(data)
    assert "DICOM" in says(tmp_path / "x.dcm")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 9_000),
    flips=st.lists(st.tuples(st.integers(128, 9_000), st.integers(0, 255)), max_size=3),
    whole=st.booleans(),
)
def test_a_damaged_file_is_a_recording_or_a_reason(
    cut: int, flips: list[tuple[int, int]], whole: bool, tmp_path: Path
) -> None:
    path = write(tmp_path, group(SAMPLES[:, :50]))
    damaged = bytearray(path.read_bytes())
    for at, value in flips:
        damaged[at % len(damaged)] = value
    path.write_bytes(damaged if whole else damaged[:cut])
    try:
        recording = read(path)
    except UnreadableError:
        return
    assert recording.signal.shape[0] == len(recording.leads)


def test_what_a_real_device_measured_is_read() -> None:
    assert read(real()).device == DeviceReport(None, 161, 75, 368, 370, 74, 52, 57, ("RITMO SINUSALE", "ECG NORMALE"))


def measured(value: str, meaning: str, number: str, unit: str, channels: list[int] | None = None) -> Dataset:
    concept = item(CodeValue=value, CodingSchemeDesignator="MDC", CodeMeaning=meaning)
    units = item(CodeValue=unit, CodingSchemeDesignator="UCUM", CodeMeaning=unit)
    return item(
        ConceptNameCodeSequence=[concept], MeasurementUnitsCodeSequence=[units], NumericValue=number,
        ReferencedWaveformChannels=channels or [1, 0],
    )  # fmt: skip


def test_it_takes_measurements_of_all_leads_in_known_units_that_agree(tmp_path: Path) -> None:
    def of_dicom(*annotations: Dataset) -> DeviceReport:
        path = write(tmp_path, group(), WaveformAnnotationSequence=list(annotations))
        return read(path).device

    pr = measured("2:15872", "PR interval global", "162", "ms")
    assert of_dicom(pr) == DeviceReport(pr_ms=162)
    assert of_dicom(pr, measured("2:15872", "PR interval global", "170", "ms")) == DeviceReport()
    assert of_dicom(measured("2:15872", "PR interval global", "162", "mm")) == DeviceReport()
    assert of_dicom(measured("2:15872", "PR interval global", "162", "ms", [1, 3])) == DeviceReport()  # of one lead
    assert of_dicom(measured("2:16128", "QRS axis", "10", "deg")) == DeviceReport()  # the code is that of the P axis
    signed = [item(UnformattedTextValue=text) for text in ("Sinus rhythm", "Confirmed by: Dr. X")]
    assert of_dicom(*signed) == DeviceReport()
