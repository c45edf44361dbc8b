"""Every model family through the real workflow: its authors' numbers from ten real recordings, and all that follows."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import golden_models
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from run_workflow import snakemake, table
from scipy.special import expit

from ecgpipe import ECGFM, Run
from ecgpipe.cli import main
from ecgpipe.models import registry
from ecgpipe.models.description import describe
from ecgpipe.models.labels import read as read_labels
from ecgpipe.preprocessing.transform import transform
from ecgpipe.readers import LEADS

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "models.md"

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
    # The file of docs/models.md, character by character.
    "own": Case("own", "own", "own:my_family.py", "own", PAD, 2, "model: my_family.py", has_attention=False),
}  # fmt: skip


class Finished(NamedTuple):
    """A finished run of a family."""

    case: Case
    run: Run
    golden: dict[str, np.ndarray]
    output: str


def write_own_model(reference: Path, folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Write the example of the docs and weights for it; what it gives for the ten recordings."""
    code = re.search(r"^## Your own model\n.*?```python\n(.*?)```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    assert code
    (folder / "my_family.py").write_text(code[1])
    family = registry.find_family(str(folder / "my_family.py"))
    torch.manual_seed(4)
    network = family.declaration.Network().eval()
    torch.save(network.state_dict(), folder / "my_weights.pt")
    declared, files = replace(family.declaration.INPUT, short="pad"), sorted((reference / "code15").glob("*.mat"))
    windows = [transform(scipy.io.loadmat(file)["feats"].astype(float), 400, declared).windows for file in files]
    with torch.inference_mode():
        logits, embedding = network(torch.from_numpy(np.concatenate(windows)))
    golden = {"record": np.array([file.stem for file in files])}
    return folder / "my_weights.pt", {**golden, "own_logits": logits.numpy(), "own_embedding": embedding.numpy()}


@pytest.fixture(scope="module", params=CASES)
def finished(request: pytest.FixtureRequest, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    settings: dict[str, Any] = dict(case.settings)
    if case.folder == "own":
        checkpoint, golden = write_own_model(reference, folder)
        settings["model"] = folder / "my_family.py"
    else:
        checkpoint = golden_models.make_checkpoint(reference, case.folder, case.variant, folder)
        golden = dict(np.load(reference / "models" / case.folder / "golden.npz"))
    ran = snakemake(
        folder, input=reference / "code15", checkpoint=checkpoint, outdir="out",
        attribution="{recordings: 1, steps: 4}", manifest="{shard_size: 4}", inference="{device: cpu}",
        report="{recordings: 3}", **settings,
    )  # fmt: skip
    assert ran.status == 0, ran.output
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
    assert registry.find_family(str(finished.run.config.model)).name == case.name


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
        family = registry.find_family(str(finished.run.config.model))
        csv = family.find_labels(len(labels)) if "labels" not in finished.case.settings else None
        how = {label.name: label.aggregation for label in read_labels(csv)} if csv else dict.fromkeys(labels, "mean")
        expected = probabilities.groupby(level=0).agg(how).loc[predictions["record_id"], labels]
        np.testing.assert_allclose(predictions[labels], expected, rtol=0, atol=1e-6)


def test_records_say_what_was_done(finished: Finished) -> None:
    records = results(finished, "records").set_index("record_id")
    assert set(records["status"]) == {"ok"}
    declared = describe(finished.run.model_json).model_input
    assert set(records["resampled_from"]) == {400.0}
    short = records["duration_s"] < declared.window_s
    assert (records["padded_s"] > 0).tolist() == short.tolist()
    lacking = declared.window_s - records["duration_s"][short]
    np.testing.assert_allclose(records["padded_s"][short], lacking, atol=0.51 / min(declared.rate, 400))
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


def own(finished: Finished) -> list[str]:
    """The option that names the user's own file, where the run is of one."""
    return ["--model", str(finished.run.config.model)] if finished.case.folder == "own" else []


def write_truth(finished: Finished, folder: Path) -> list[str]:
    """A table of true values for two labels; the options that name it."""
    labels = describe(finished.run.model_json).labels[:2] or ("one", "two")
    ids = [str(name) for name in dict.fromkeys(finished.golden["record"])]
    truth = pd.DataFrame({"record_id": ids, **{label: np.arange(10) // (n + 1) % 2 for n, label in enumerate(labels)}})
    truth["split"] = ["train"] * 5 + ["valid"] * 2 + ["test"] * 3
    truth.to_csv(folder / "truth.csv", index=False)
    return ["--truth", str(folder / "truth.csv")]


def test_the_commands_on_a_finished_run_take_any_model(finished: Finished, tmp_path: Path) -> None:
    outdir, case = str(finished.run.outdir), finished.case
    record = str(finished.golden["record"][0])
    assert main(["neighbors", outdir, "--count", "3", "--output", str(tmp_path / "n.parquet")]) == 0
    assert len(pd.read_parquet(tmp_path / "n.parquet")) == 30
    assert main(["show", outdir, record, "--output", str(tmp_path / "page.html")]) == 0
    assert main(["show", outdir, record, "--output", str(tmp_path / "page.png")]) == 0
    truth = write_truth(finished, tmp_path)
    probed = ["probe", outdir, *truth, "--split", "split", "--output", str(tmp_path / "head"), "--resamples", "0"]
    assert main(probed) == 0
    if not case.labels:
        return
    label = describe(finished.run.model_json).labels[1]
    given = ["show", outdir, record, "--label", label, "--output", str(tmp_path / "label.html"), *own(finished)]
    assert main(given) == 0
    fitted = ["calibrate", outdir, *truth, "--method", "platt", "--output", str(tmp_path / "calibration.json")]
    assert main(fitted) == 0
    chosen = ["thresholds", outdir, *truth, "--method", "youden", "--output", str(tmp_path / "labels.csv")]
    if (finished.run.outdir / "checkpoint" / "labels.csv").exists():  # its path is relative to the folder of the run
        chosen += ["--labels", str(finished.run.outdir / "checkpoint" / "labels.csv")]
    assert main(chosen) == 0
    assert (tmp_path / "labels.csv").read_text().count("\n") == case.labels + 1
    labels = chosen[chosen.index("--labels") :] if "--labels" in chosen else []
    assert main(["compare", outdir, outdir, *labels, "--output", str(tmp_path / "compared")]) == 0


def test_the_folder_of_the_checkpoint_is_a_model_in_python(finished: Finished, reference: Path) -> None:
    case = finished.case
    model = ECGFM.from_checkpoint(
        finished.run.outdir / "checkpoint", model=own(finished)[1] if own(finished) else None, batch_size=4
    )
    name = str(finished.golden["record"][-1])
    signal = scipy.io.loadmat(reference / "code15" / f"{name}.mat")["feats"].astype(float)
    vectors = model.embed([signal], 400, LEADS, unit="mV").to_numpy()
    embeddings = results(finished, "embeddings")
    expected = np.stack(list(embeddings["embedding"][embeddings["record_id"] == name]))
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)
    assert len(model.labels) == case.labels
