"""python -m ecgpipe."""

import importlib.abc
import sys

if sys.version_info < (3, 11):  # noqa: UP036, this runs before pip has had a say
    sys.exit(
        f"error: ecgpipe needs Python 3.11 or newer, and this is {sys.version.split()[0]} ({sys.executable}); "
        "make an environment of a newer one: python3.11 -m venv .venv"
    )

# The stages that hand no table to pandas.
WITHOUT_PANDAS = {
    *("preprocess", "infer", "aggregate", "umap", "umap_fit", "umap_place", "examples", "attribute"),
    *("evaluate", "summary", "figures", "report", "verdict"),
}


class WithoutPandas(importlib.abc.MetaPathFinder):
    """Finds no pandas, wherever it is installed."""

    def find_spec(self, name: str, *_: object) -> None:
        """Nothing for all other modules: whoever comes next looks for them."""
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


def leave_pandas_out() -> None:
    """Have pyarrow go without pandas, which it imports at its first array if it can: half a second of each job.

    Whoever imports pandas afterwards, as readers do, gets it.
    """
    without = WithoutPandas()
    sys.meta_path.insert(0, without)
    try:
        import pyarrow as pa

        pa.array([None])
    finally:
        sys.meta_path.remove(without)


if __name__ == "__main__":
    try:
        from ecgpipe.cli import main  # here, so that an interrupt during it leaves no traceback

        if len(sys.argv) > 1 and sys.argv[1] in WITHOUT_PANDAS:
            leave_pandas_out()
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # what a shell says of a command that an interrupt ended
