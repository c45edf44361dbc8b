"""Every model family through the real workflow: its authors' numbers from ten real recordings, and all that follows."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import golden_models
import numpy as np
import pandas as pd
import pytest
from run_workflow import snakemake, table
from scipy.special import expit

from ecgpipe import Run
from ecgpipe.models.description import describe

pytestmark = pytest.mark.slow

PAD = {"preprocess": "{short: pad, assume_unit: mV}"}


class Case(NamedTuple):
    """A family's small checkpoint, the settings of its run, and the names of its golden numbers."""

    folder: str  # of shared/reference/models
    variant: str
    name: str  # as the setting `model` has it
    golden: str
    settings: dict[str, str]
    labels: int
    says: str  # of the model when the run begins
    has_attention: bool = True


CASES = {
    "ecgfounder": Case(
        "ecgfounder", "tiny", "ecgfounder", "tiny_plain",
        {"model": "ecgfounder", "model_options": "{preprocessing: plain}", "labels": "index", **PAD},
        7, "model: ECGFounder (preprocessing: plain)", has_attention=False,
    ),
    "deepecg-ssl": Case(
        "deepecg_ssl", "tiny77", "deepecg-ssl", "tiny77_mv", PAD,
        77, "model: DeepECG-SSL (WCR) (padding: masked), as its checkpoint tells",
    ),
    "hubert-ecg": Case(
        "hubert_ecg", "tiny_sft", "hubert-ecg", "tiny_sft", {},
        164, "licence of these weights: CC BY-NC 4.0 (no commercial use)",
    ),
    "ecg-jepa": Case("ecg_jepa", "tiny", "ecg-jepa", "tiny", PAD, 0, "model: ECG-JEPA, as its checkpoint tells"),
}  # fmt: skip


class Finished(NamedTuple):
    """A finished run of a family."""

    case: Case
    run: Run
    golden: Any  # numpy's NpzFile
    output: str


@pytest.fixture(scope="module", params=CASES)
def finished(request: pytest.FixtureRequest, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    checkpoint = golden_models.make_checkpoint(reference, case.folder, case.variant, folder)
    ran = snakemake(
        folder, input=reference / "code15", checkpoint=checkpoint, outdir="out",
        attribution="{recordings: 1, steps: 4}", manifest="{shard_size: 4}", inference="{device: cpu}",
        report="{recordings: 3}", **case.settings,
    )  # fmt: skip
    assert ran.status == 0, ran.output
    golden = np.load(reference / "models" / case.folder / "golden.npz")
    return Finished(case, Run(folder / "out"), golden, ran.output)


def results(finished: Finished, kind: str) -> pd.DataFrame:
    return table(finished.run.outdir / kind)


def test_the_run_says_which_model_it_is_and_model_json_names_it(finished: Finished) -> None:
    case = finished.case
    assert case.says in finished.output
    description = describe(finished.run.model_json)
    assert description.family == case.name
    assert len(description.labels) == case.labels
    content = json.loads(finished.run.model_json.read_text())
    assert content["input"]["leads"] == list(description.leads)
    if "model_options" in case.settings:
        assert content["options"] == {"preprocessing": "plain"}
    assert finished.run.config.model == case.name


def test_logits_and_embeddings_are_the_authors_own(finished: Finished) -> None:
    case, golden = finished.case, finished.golden
    embeddings = results(finished, "embeddings")
    assert list(embeddings["record_id"]) == [str(name) for name in golden["record"]]
    vectors = np.stack(list(embeddings["embedding"]))
    name = f"{case.golden}_embedding"
    if name in golden:
        np.testing.assert_allclose(vectors, golden[name], rtol=0, atol=1e-4)
    logits = results(finished, "logits")
    assert list(logits["record_id"]) == list(embeddings["record_id"])
    labels = list(describe(finished.run.model_json).labels)
    assert list(logits.columns) == ["record_id", "segment", "start_s", *labels]
    window_s = finished.run.config.preprocess.segment_s
    assert list(logits["start_s"]) == [window_s * segment for segment in logits["segment"]]
    if labels:
        np.testing.assert_allclose(logits[labels], golden[f"{case.golden}_logits"], rtol=0, atol=1e-4)


def test_predictions_have_the_familys_labels(finished: Finished) -> None:
    predictions = results(finished, "predictions")
    labels = list(describe(finished.run.model_json).labels)
    assert list(predictions.columns) == ["record_id", "n_segments", *labels]
    assert len(predictions) == 10
    if labels:
        logits = results(finished, "logits").set_index("record_id")[labels].astype(float)
        probabilities = pd.DataFrame(expit(logits.to_numpy()), logits.index, labels)
        expected = probabilities.groupby(level=0).mean().loc[predictions["record_id"]]
        np.testing.assert_allclose(predictions[labels], expected, rtol=0, atol=1e-6)


def test_records_say_what_was_done(finished: Finished) -> None:
    records = results(finished, "records").set_index("record_id")
    assert set(records["status"]) == {"ok"}
    declared = describe(finished.run.model_json).model_input
    assert set(records["resampled_from"]) == {400.0}
    short = records["duration_s"] < declared.window_s
    assert (records["padded_s"] > 0).tolist() == short.tolist()
    np.testing.assert_allclose(records["padded_s"][short], declared.window_s - records["duration_s"][short], atol=0.002)
    assert records["missing_leads"].map(len).sum() == records["derived_leads"].map(len).sum() == 0


def test_attention_is_there_where_the_family_has_it(finished: Finished) -> None:
    outdir = finished.run.outdir
    assert (outdir / "attention").exists() == finished.case.has_attention
    assert finished.run.config.inference.attention == finished.case.has_attention
    page = (outdir / "report.html").read_text()
    assert ("This run kept no attention" in page) != finished.case.has_attention
    if finished.case.has_attention:
        attention = np.stack(list(results(finished, "attention")["attention"]))
        description = describe(finished.run.model_json)
        assert attention.shape[1] == description.tokens(description.model_input.window_samples)
        assert (attention >= 0).all()
        assert (attention.max(axis=1) > 0).all()


def test_the_strongest_label_is_attributed_to_the_leads_that_the_model_takes(finished: Finished) -> None:
    leads = pd.read_parquet(finished.run.outdir / "attribution" / "leads.parquet")
    declared = describe(finished.run.model_json).model_input
    if not finished.case.labels:
        assert len(leads) == 0
        return
    assert list(leads["lead"]) == list(declared.leads)
    assert leads["share"].sum() == pytest.approx(1)
    attribution = pd.read_parquet(finished.run.outdir / "attribution" / "attribution.parquet")
    assert len(attribution["attribution"][0]) == len(declared.leads) * declared.window_samples


def test_the_page_shows_the_recordings_and_names_the_model(finished: Finished) -> None:
    page = (finished.run.outdir / "report.html").read_text()
    assert f"<title>{finished.run.config.report.title}" in page
    assert finished.run.config.report.title.endswith(" results")
    assert not finished.run.config.report.title.startswith("ECG-FM")
