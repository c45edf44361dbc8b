"""Run the example notebook of the docs without Jupyter, and store what its cells show: `make notebook`.

The code cells run in order in one namespace and in an empty folder, as a reader's would. Of a cell that ends with an
expression its value is stored, as text and as HTML where it has one.
"""

import ast
import contextlib
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from ecgpipe.core.atomic import whole

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"

# What differs between machines and versions of libraries: a checkpoint's hash, as its file names PyTorch's version, and
# the bytes of a picture.
VARIABLE = [(re.compile(r"sha256 [0-9a-f]+"), "sha256"), (re.compile(r"base64,[A-Za-z0-9+/=]+"), "base64,")]


def execute(notebook: dict[str, Any]) -> dict[str, Any]:
    """Run a notebook.

    Args:
        notebook: As its file has it.

    Returns:
        The same with what its cells show now.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                outputs = _run_cell("".join(cell["source"]), namespace, count)
                cell = {**cell, "execution_count": count, "outputs": outputs}
            cells.append(cell)
    return {**notebook, "cells": cells}


def list_outputs(notebook: dict[str, Any]) -> list[str]:
    """What the cells of a notebook show, as texts in order, without what differs between machines."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    texts = ["".join(text) for output in outputs for text in (output.get("data") or {"": output.get("text")}).values()]
    for pattern, by in VARIABLE:
        texts = [pattern.sub(by, text) for text in texts]
    return texts


def _run_cell(source: str, namespace: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Run one cell; its outputs in the form of nbformat 4."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {count}", "exec"), namespace)  # noqa: S102, our own notebook
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), namespace)  # noqa: S307
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/html": _lines(value._repr_html_())} if hasattr(value, "_repr_html_") else {}
        data["text/plain"] = _lines(repr(value))
        outputs.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    return outputs


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    """Store what the notebook shows."""
    notebook = execute(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    with whole(NOTEBOOK) as temporary:
        temporary.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1000:.0f} kB in {os.path.relpath(NOTEBOOK)}")


if __name__ == "__main__":
    main()
