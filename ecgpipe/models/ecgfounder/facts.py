"""ECGFounder: what a user wants to know before choosing it."""

from ecgpipe.core.model_facts import Facts, Weights

_REPOSITORY = "https://github.com/PKUDigitalHealth/ECGFounder at commit 04edac7"
_CARD = "https://huggingface.co/PKUDigitalHealth/ECGFounder, copies of 2025"

FACTS = Facts(
    title="ECGFounder",
    trained_on="Harvard-Emory ECG Database, over 10 million ECGs",
    weights=(
        Weights("hf://PKUDigitalHealth/ECGFounder/12_lead_ECGFounder.pth", "150 labels, 12 leads", 150, 1024),
        Weights("hf://PKUDigitalHealth/ECGFounder/1_lead_ECGFounder.pth", "150 labels, lead I", 150, 1024),
    ),
    parameters=30_800_000,
    code_licence="MIT",
    weights_licence="none stated on the model card; the code's repository has MIT",
    citation="Li et al.: An Electrocardiogram Foundation Model Built on over 10 Million Recordings. NEJM AI 2(7), "
    "AIoa2401033; arXiv 2410.04133",
    unverified="The released files themselves were not tried.",
    sources={
        "trained_on": "arXiv 2410.04133",
        "weights": f"{_CARD}; tasks.txt of {_REPOSITORY}",
        "parameters": f"counted in net1d.py of {_REPOSITORY}",
        "code_licence": _REPOSITORY,
        "weights_licence": _CARD,
        "citation": "arXiv 2410.04133",
    },
)
