"""Running cells of a learner's notebook in a fresh kernel, whatever they do."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

STUCK_S = 10  # a cell that is interrupted has so long to end


class Job(NamedTuple):
    """What to run, and the seconds that it may take."""

    source: str
    limit_s: int


@dataclass
class Ran:
    """What a cell left behind; `end` says why it did not end by itself, if so."""

    outputs: list[NotebookNode] = field(default_factory=list)
    count: int | None = None
    end: str = ""


class ThisPython(AsyncKernelManager):
    """Starts kernels with the Python that runs this, whatever environment is registered as python3."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command that starts the kernel; its log would mix with what we print."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def execute(jobs: dict[int, Job], folder: Path) -> dict[int, Ran]:
    """Run cells in one kernel, offline and with an empty progress of its own.

    An endless cell is interrupted and the rest goes on. A cell that does not heed that, or that ends Python,
    is left out, and the others run anew without it.

    Args:
        jobs: by the number of the cell.
        folder: the working folder.
    """
    lost: dict[int, Ran] = {}
    ran: dict[int, Ran] = {}
    while rest := {number: job for number, job in jobs.items() if number not in lost}:
        ran, culprit, why = _execute_once(rest, folder)
        if culprit is None:
            break
        lost[culprit] = Ran(end=why)
    return dict(sorted({**ran, **lost}.items()))


def _execute_once(jobs: dict[int, Job], folder: Path) -> tuple[dict[int, Ran], int | None, str]:
    """Returns what ran, and if the kernel was lost: the cell to blame and why."""
    numbers, started, late = list(jobs), [], set()
    cells = [new_code_cell(job.source, metadata={"limit_s": job.limit_s}) for job in jobs.values()]

    def finished(cell, cell_index, execute_reply):
        if execute_reply["content"].get("ename") == "CellTimeout":
            late.add(numbers[cell_index])

    client = NotebookClient(
        new_notebook(cells=cells),
        kernel_manager_class=ThisPython,
        timeout_func=lambda cell: cell.metadata["limit_s"],
        interrupt_on_timeout=True,
        error_on_timeout={"ename": "CellTimeout", "evalue": "", "traceback": []},
        iopub_timeout=STUCK_S,
        raise_on_iopub_timeout=True,
        allow_errors=True,
        store_widget_state=False,
        shutdown_kernel="immediate",
        on_cell_start=lambda cell, cell_index: started.append(numbers[cell_index]),
        on_cell_executed=finished,
        resources={"metadata": {"path": str(folder)}},
    )
    client.log = _silent()
    try:
        _start(client)
    except CellTimeoutError:
        return {}, started[-1], _slow(jobs[started[-1]])
    except DeadKernelError:
        return {}, started[-1], "ended Python (perhaps the memory was full)"
    ran = {
        number: Ran(cell.outputs, cell.execution_count, _slow(jobs[number]) if number in late else "")
        for number, cell in zip(numbers, cells, strict=True)
    }
    return ran, None, ""


def _start(client: NotebookClient) -> None:
    with tempfile.TemporaryDirectory() as folder:
        progress = str(Path(folder, "progress.json"))
        environment = {**os.environ, "LESSONS_OFFLINE": "1", "LESSONS_PROGRESS": progress}
        # What a kernel writes past its own channels must not mix with what we print.
        client.execute(env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _slow(job: Job) -> str:
    return f"did not end within {job.limit_s} s and was stopped"


def _silent() -> logging.Logger:
    log = logging.Logger("check")  # outside the register, so nobody else's handlers hear it
    log.addHandler(logging.NullHandler())
    return log
