"""What fairseq-signals says: its numbers for ecgpipe/selftest/fixtures.py, and the script that asks it for others."""

from pathlib import Path

OUTPUTS = Path(__file__).parent / "outputs.npz"  # tests/helpers/reference_numbers.py wrote it
