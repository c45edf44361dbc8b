"""What a user wants to know before choosing a model: its training data, outputs, licences and address."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Weights:
    """One released checkpoint of a family."""

    address: str  # hf://OWNER/REPO[/FILE], or where the user gets the file
    outputs: str  # in words
    labels: int  # number of outputs; 0: embeddings only
    width: int  # of the embedding
    gated: bool = False  # the hub asks the user to accept conditions, and for a token


@dataclass(frozen=True)
class Facts:
    """One model family; its folder's `facts.py` has them."""

    title: str  # as its authors write it
    trained_on: str
    weights: tuple[Weights, ...]  # the default first
    parameters: int  # of the default
    code_licence: str
    weights_licence: str  # what is stated, or that nothing is
    citation: str
    unverified: str  # what could not be checked, in words for the user; "" if nothing
    sources: dict[str, str]  # the source of every fact above, by its name

    def __post_init__(self) -> None:
        """Refuse facts without a source.

        Raises:
            ValueError: A fact has no source, or a source belongs to no fact.
        """
        facts = {field.name for field in fields(self)} - {"title", "sources", "unverified"}
        if self.sources.keys() != facts:
            raise ValueError(f"{self.title}: sources of {', '.join(sorted(facts ^ self.sources.keys()))}")
