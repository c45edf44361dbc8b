"""Where true labels come from: options, or else the settings of the run."""

from pathlib import Path

import pytest

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Evaluation
from ecgpipe.evaluation import truth_tables
from ecgpipe.evaluation.truth_tables import Source

AF = "Atrial fibrillation"


@pytest.mark.parametrize(
    ("table", "pairs", "expected"),
    [
        (None, [], Source(Path("t.csv"), {"AF": AF})),  # the run's settings
        (None, ["x=y"], Source(None, {"x": "y"})),  # not half of each
        (Path("u.csv"), [], Source(Path("u.csv"), {})),
    ],
)
def test_without_options_the_source_is_that_of_the_runs_evaluation(
    table: Path | None, pairs: list[str], expected: Source
) -> None:
    evaluation = Evaluation(truth="t.csv", mapping={"AF": AF})
    assert truth_tables.choose_source(table, pairs, evaluation) == expected


def test_the_mapping_on_the_command_line() -> None:
    pairs = ["1dAVb=1st degree", "codes:a=b=c"]
    assert truth_tables.parse_mapping(pairs) == {"1dAVb": "1st degree", "codes:a=b": "c"}
    with pytest.raises(EcgpipeError, match="'AF' is not COLUMN=LABEL"):
        truth_tables.parse_mapping(["AF"])
