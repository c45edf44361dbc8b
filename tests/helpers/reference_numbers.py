"""What ecg-transform and the real fairseq-signals make of the recordings and the checkpoint of selftest/fixtures.py.

    python tests/helpers/reference_numbers.py PYTHON

writes selftest/reference/outputs.npz, which `ecgpipe verify` compares with. PYTHON is the interpreter of an
environment that has fairseq-signals (workflow/envs/fairseq-signals.yaml). No code of ecgpipe computes any of it.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from ecg_transform.inp import ECGInput, ECGInputSchema, ECGMetadata
from ecg_transform.sample import ECGSample
from ecg_transform.t.common import HandleConstantLeads, LinearResample, ReorderLeads
from ecg_transform.t.cut import SegmentNonoverlapping
from ecg_transform.t.scale import Standardize

from ecgpipe.inference import fairseq_backend
from ecgpipe.selftest import fixtures, synthetic_checkpoint

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
OUTPUTS = Path(__file__).parents[2] / "ecgpipe" / "selftest" / "reference" / "outputs.npz"
KEPT = 10  # of the segments one sample in so many is shipped; the outputs speak for the others


def compute(python: Path, folder: Path) -> dict[str, np.ndarray]:
    """The content of outputs.npz.

    Args:
        python: An interpreter that has fairseq-signals.
        folder: For the checkpoint.

    Returns:
        `record_id` (4 segments,), `segment`, `sample` (the samples that are kept), `segments` (4, 12, kept),
        `logits` (5, labels), `embedding` (5, width), `attention` (5, tokens), `recordings` (recordings,), `labels`,
        `probabilities` (recordings, labels) and `about`, a JSON text of versions.
    """
    ids: list[str] = []
    numbers: list[int] = []
    segments: list[np.ndarray] = []
    for record_id, given in sorted(fixtures.make_signals().items()):
        millivolts = given.microvolts / 1000
        sample = ECGSample(
            ECGInput(
                millivolts,
                ECGMetadata(given.rate, millivolts.shape[1], list(given.leads), "mV", 0, millivolts.shape[1]),
            ),
            ECGInputSchema(sample_rate=500, expected_lead_order=LEADS, required_num_samples=2500),
            [
                ReorderLeads(LEADS, missing_lead_strategy="raise"),
                LinearResample(500),
                HandleConstantLeads(strategy="zero"),
                Standardize(),
                SegmentNonoverlapping(2500),
            ],
        )
        cut = np.asarray(sample.out, np.float32).reshape(-1, 12, 2500)
        ids += [record_id] * len(cut)
        numbers += range(len(cut))
        segments.append(cut)
    signal = np.concatenate(segments)  # (4, 12, 2500)
    torch.save(synthetic_checkpoint.reference(), folder / "recipe.pt")
    counts = np.full(len(signal), signal.shape[2])
    with fairseq_backend.open_fairseq(python, folder / "recipe.pt") as (about, answer):
        outputs = answer(signal, counts)
    probability = 1 / (1 + np.exp(-outputs["logits"].astype(np.float64)))  # (4, labels)
    recordings = sorted(set(ids))
    rows = {name: [i for i, record_id in enumerate(ids) if record_id == name] for name in recordings}
    columns = [
        [getattr(np, how)(probability[rows[name], i]) for name in recordings]
        for i, how in enumerate(synthetic_checkpoint.LABELS.values())
    ]
    about["ecg_transform"] = version("ecg-transform")
    return {
        "record_id": np.array(ids),
        "segment": np.array(numbers),
        "sample": np.arange(0, signal.shape[2], KEPT),
        "segments": signal[:, :, ::KEPT],
        **outputs,
        "recordings": np.array(recordings),
        "labels": np.array(list(synthetic_checkpoint.LABELS)),
        "probabilities": np.array(columns).T,
        "about": np.array(json.dumps(about)),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(OUTPUTS, **compute(Path(sys.argv[1]), Path(scratch)))  # type: ignore[arg-type]
