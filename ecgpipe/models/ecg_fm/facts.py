"""ECG-FM: what a user wants to know before choosing it."""

from ecgpipe.core.model_facts import Facts, Weights

_README = "README.md of https://github.com/bowang-lab/ECG-FM"
_LABELS = "data/{mimic_iv_ecg,physionet2021}/labels/label_def.csv of https://github.com/bowang-lab/ECG-FM"
_PAPER = "arXiv 2408.05178"

FACTS = Facts(
    title="ECG-FM",
    trained_on="MIMIC-IV-ECG 1.0 and PhysioNet 2021 1.0.3 (pretraining); one of them (classifiers)",
    weights=(
        Weights("hf://wanglab/ecg-fm/mimic_iv_ecg_finetuned.pt", "17 labels of MIMIC-IV-ECG", 17, 768),
        Weights("hf://wanglab/ecg-fm-preprint/physionet_finetuned.pt", "26 labels of PhysioNet 2021", 26, 768),
        Weights("hf://wanglab/ecg-fm/mimic_iv_ecg_physionet_pretrained.pt", "embeddings only", 0, 768),
    ),
    parameters=90_900_000,
    code_licence="MIT",
    weights_licence="not checked: see the model card, https://huggingface.co/wanglab/ecg-fm",
    citation="McKeen, Masood, Toma, Rubin, Wang: ECG-FM: An Open Electrocardiogram Foundation Model. arXiv 2408.05178",
    unverified="",
    sources={
        "trained_on": _README,
        "weights": f"{_README}; {_LABELS}",
        "parameters": _README,
        "code_licence": "LICENSE of https://github.com/bowang-lab/ECG-FM",
        "weights_licence": "none",
        "citation": _PAPER,
    },
)
