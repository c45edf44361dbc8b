"""The numbers that fairseq-signals computes from ecgpipe/selftest/fixtures.py, shipped with ecgpipe."""

from pathlib import Path

OUTPUTS = Path(__file__).parent / "outputs.npz"  # tests/helpers/reference_numbers.py wrote it
