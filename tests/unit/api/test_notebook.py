"""The example notebook of the docs: its cells run in order, and show what is stored."""

import json
from pathlib import Path

from benchmarks import notebook


def test_the_notebook_shows_what_its_cells_show_and_is_small() -> None:
    text = notebook.NOTEBOOK.read_text(encoding="utf-8")
    stored = json.loads(text)
    assert len(text) < 250_000
    assert 'src=\\"http' not in text  # loads nothing
    assert str(Path.home()) not in text
    executed = notebook.execute(stored)
    cells = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert notebook.list_outputs(executed) == notebook.list_outputs(stored), "make notebook stores the new ones"
    assert "ECG-FM, 11 labels" in text
