"""Several processes for one command, as `accelerate launch` starts them on one machine or many.

The first process runs the command: it alone measures, prints and writes. The others compute their share of
what it spreads, and end as it ends; so a user's error is said once. (In a training all run one loop.)
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NoReturn

# However long one measures, the others wait; one that ends closes its connections, and is noticed at once.
LONGEST_WAIT = timedelta(days=2)
PATIENCE = 5  # seconds in which the first process says an error that all have, and the others are ended

Advance = Callable[[float], Any]  # called with the number of images that were drawn, or a part of one


def count() -> int:
    """How many processes work together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1) if os.environ.get("RANK") else 1


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK") or 0)


def join() -> None:
    """Meet the others; on a machine with several GPUs, "cuda" is this process's own from now on."""
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    # What travels lies in the main memory (images that are drawn), so gloo serves GPUs as well.
    dist.init_process_group("gloo", timeout=LONGEST_WAIT)


def _ignore(progress: float) -> None:
    pass


def spread(function: Callable[[Any, Advance], Any], parts: Sequence, advance: Advance = _ignore) -> list:
    """function(part, advance) of every part, in order; part k is computed by process k % count().

    The function is sent, so it is a module's; what it returns is sent back, so it lies on the CPU.
    """
    if count() == 1:
        return [function(part, advance) for part in parts]
    import torch.distributed as dist

    try:
        dist.broadcast_object_list([(function, parts)])
        shares = [None] * count()
        dist.gather_object([function(part, advance) for part in parts[:: count()]], shares)
    except BaseException:
        # The others may be at another call than the next one here: a closed connection ends them at any.
        dist.destroy_process_group()
        raise
    return [shares[k % count()][k // count()] for k in range(len(parts))]


def follow() -> int:
    """Compute what the first process spreads until it ends; returns its exit status."""
    import torch.distributed as dist

    join()
    received = [None]
    while True:
        dist.broadcast_object_list(received)
        if isinstance(received[0], int):
            dist.destroy_process_group()  # its threads must end before Python does, or the process aborts
            return received[0]
        function, parts = received[0]
        dist.gather_object([function(part, _ignore) for part in parts[rank() :: count()]])


def dismiss(status: int) -> None:
    """End the others, from the first process, with its exit status."""
    import torch.distributed as dist

    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):  # they have ended already
            dist.broadcast_object_list([status])
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()  # as in `follow`


def leave(status: int) -> NoReturn:
    """End this process at once: a thread of a closed connection may outlive Python, which then aborts."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def say(sentence: str, is_echo: bool = False) -> None:
    """Say an error on stderr, on each machine once; an echo only tells that another process has ended."""
    if rank() or is_echo:  # in turn: what is said first makes the launcher end the others
        time.sleep(PATIENCE + int(os.environ["LOCAL_RANK"]))
    print(f"Process {rank()}: {sentence}" if rank() else sentence, file=sys.stderr, flush=True)


def is_lost_connection(error: Exception) -> bool:
    if count() == 1 or not isinstance(error, RuntimeError):
        return False
    import torch.distributed as dist

    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "connection closed" in text
