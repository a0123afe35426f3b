"""The numeric tests once more, with the kernels and the number of threads of other processors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
OLD = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait take the time of the other tests
}
NEW = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [OLD, NEW], ids=["SSE, 2 threads", "AVX2, 1 thread"])
def test_numbers_hold_with_other_kernels(settings):
    if settings is NEW and not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("this processor has no AVX2")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | settings
    words = ["-q", "-x", "-m", "numeric and not slow", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
