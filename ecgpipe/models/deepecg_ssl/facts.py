"""DeepECG-SSL: what a user wants to know before choosing it."""

from ecgpipe.core.model_facts import Facts, Weights

_CONTAINER = "https://github.com/HeartWise-AI/DeepECG_Docker at commit 2a9680e"
_FORK = "https://github.com/HeartWise-AI/fairseq-signals at commit c02a9f6"

FACTS = Facts(
    title="DeepECG-SSL (WCR)",
    trained_on="over one million ECGs of the Montreal Heart Institute",
    weights=(
        Weights("hf://heartwise/WCR_77_Classes", "77 labels", 77, 768, gated=True),
        Weights("hf://heartwise/WCR_LVEF_equal_under_40", "LVEF <= 40 %", 1, 768, gated=True),
        Weights("hf://heartwise/WCR_LVEF_under_50", "LVEF < 50 %", 1, 768, gated=True),
        Weights("hf://heartwise/WCR_AFIB_5Y", "atrial fibrillation within 5 years", 1, 768, gated=True),
        Weights("hf://heartwise/SSL_Pretrained_model/SSL_pretrained.pt", "embeddings only", 0, 768, gated=True),
    ),
    parameters=90_400_000,
    code_licence="MIT (network); the container, DeepECG_Docker, has no licence file",
    weights_licence="apache-2.0 on the page of WCR_77_Classes; read the page of each of the others",
    citation="Nolin-Lapalme et al., European Heart Journal 2026, ehaf1119; medRxiv 2025.03.02.25322575",
    unverified="The files are gated, and were not tried. Their tensors cannot be told from ECG-FM's: name the family.",
    sources={
        "trained_on": "https://www.heartwise.ai/featured-publications/deepecg-ai",
        "weights": f"models_setup.py and README.md of {_CONTAINER}; the pages of the repositories on the hub",
        "parameters": f"counted in the network of {_FORK}",
        "code_licence": f"LICENSE of {_FORK}; {_CONTAINER} has none",
        "weights_licence": "https://huggingface.co/heartwise/WCR_77_Classes",
        "citation": f"README.md of {_CONTAINER}",
    },
)
