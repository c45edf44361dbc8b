"""ECG-JEPA: what a user wants to know before choosing it."""

from ecgpipe.core.model_facts import Facts, Weights

_REPOSITORY = "https://github.com/sehunfromdaegu/ECG_JEPA at commit d937ad2"

FACTS = Facts(
    title="ECG-JEPA",
    trained_on="several open datasets, CODE-15 % and Shaoxing among them, about 180,000 ECGs",
    weights=(
        Weights("https://drive.google.com/file/d/1gMOT4xjQQg0GZkY1iE6NuDzua4ALw00l", "embeddings only", 0, 768),
        Weights("https://drive.google.com/file/d/1mh-XL0XOvvhFbhvuZ9c2KnTHa9B4F3Wx", "embeddings only", 0, 768),
    ),
    parameters=85_374_720,
    code_licence="MIT",
    weights_licence="none stated",
    citation="Kim: Learning General Representation of 12-Lead Electrocardiogram With a Joint-Embedding Predictive "
    "Architecture. arXiv 2410.08559",
    unverified="The files are on Google Drive, without a checksum, and were not tried: download one and give its path.",
    sources={
        "trained_on": f"arXiv 2410.08559v4; ecg_data.py of {_REPOSITORY}",
        "weights": f"README.md of {_REPOSITORY}",
        "parameters": f"counted in the encoder of {_REPOSITORY}",
        "code_licence": f"license of {_REPOSITORY}",
        "weights_licence": f"README.md of {_REPOSITORY}",
        "citation": "arXiv 2410.08559",
    },
)
