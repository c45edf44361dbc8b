"""HuBERT-ECG: what a user wants to know before choosing it."""

from ecgpipe.core.model_facts import Facts, Weights

_REPOSITORY = "https://github.com/Edoar-do/HuBERT-ECG at commit affe1f9"
_HUB = "https://huggingface.co/Edoardo-BS"
_CLASSIFIERS = "hf://Edoardo-BS/HuBERT-ECG-SFT-CardioLearning"
_SIZES = (("base", 768), ("small", 512), ("large", 960))

FACTS = Facts(
    title="HuBERT-ECG",
    trained_on="9.1 million ECGs of several countries (pretraining); Cardio-Learning, 2.4 million ECGs (classifiers)",
    weights=(
        *(Weights(f"{_CLASSIFIERS}-{size}", "164 labels of Cardio-Learning", 164, width) for size, width in _SIZES),
        *(Weights(f"hf://Edoardo-BS/hubert-ecg-{size}", "embeddings only", 0, width) for size, width in _SIZES),
    ),
    parameters=92_900_000,
    code_licence="CC BY-NC 4.0 (no commercial use)",
    weights_licence="CC BY-NC 4.0 (no commercial use)",
    citation="Coppola et al.: HuBERT-ECG: a self-supervised foundation model for broad and scalable cardiac "
    "applications. medRxiv 2024.11.14.24317328",
    unverified="The released files themselves were not tried; those of the classifiers could not be looked at.",
    sources={
        "trained_on": f"medRxiv 2024.11.14.24317328; model card of {_HUB}/HuBERT-ECG",
        "weights": f"{_REPOSITORY}; {_HUB}",
        "parameters": f"model card of {_HUB}/HuBERT-ECG-SFT-CardioLearning-base",
        "code_licence": _REPOSITORY,
        "weights_licence": f"model cards of {_HUB}",
        "citation": "medRxiv 2024.11.14.24317328",
    },
)
