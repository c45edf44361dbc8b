"""What the tests need of the processor."""

import pytest

from ecgpipe.inference import engine

needs_bfloat16 = pytest.mark.skipif(not engine.has_bfloat16(), reason="this CPU has no instructions for bfloat16")
