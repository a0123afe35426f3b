"""For tests of numbers that another processor, batch size or memory layout rounds otherwise."""

import os

import torch

# Added to the seeds of the numeric tests, to repeat them with other numbers.
SEED = int(os.environ.get("LESSONS_TEST_SEED", "0"))
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def seeded(seed: int = 0) -> torch.Generator:
    """A generator with this seed, moved by LESSONS_TEST_SEED."""
    return torch.Generator().manual_seed(seed + SEED)


def assert_close_by_scale(found: torch.Tensor, expected: torch.Tensor, tolerance: float | None = None):
    """Equal up to `tolerance` times the largest number in `expected`: sums round in proportion to it.

    The defaults leave a margin of about ten or more. In float32 one pass of a toy network was at most 1.2e-6
    from its float64 answer. In float64 whole walks of a sampler, which enlarge rounding, were
    at most 2e-12 apart in batches of different sizes.
    """
    if tolerance is None:
        tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.detach().abs().max()))
