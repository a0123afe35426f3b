"""The program. A command is loaded when it runs (torch takes seconds), a user's error told in a sentence."""

import functools
import importlib
import os
import sys
from collections.abc import Callable

import typer
from typer.core import TyperCommand, TyperGroup

from lessons_lib.cli import processes
from lessons_lib.cli.options import PROGRAM, as_command
from lessons_lib.cli.output import printing
from lessons_lib.memory import keep_freed_memory
from lessons_lib.signals import Terminated, stops_raised

# The module; what it holds, a typer.Typer, or a function of one dataclass of options or of nothing; its help.
COMMANDS = {
    "train": ("train", "train", "Train the models of a data set."),
    "sample": ("sample", "sample", "Draw images and write them to a file."),
    "evaluate": ("evaluate", "app", "Measure drawn images, counterfactuals, or what judges them."),
    "sweep": ("evaluate", "sweep_app", "Measure every combination of lists into a table."),
    "counterfactual": ("counterfactual", "counterfactual", "Draw an image as if its label were another."),
    "export": ("to_onnx", "to_onnx", "Write a network as an ONNX file, for programs without torch."),
    "check-machine": ("check_machine", "check_machine", "Say what this machine has and lacks."),
}


class Commands(TyperGroup):
    """The commands, each known by its help alone until it runs."""

    def resolve_command(self, ctx, args):
        """As typer's, but the command itself in place of what stands for it in --help."""
        name, _, rest = super().resolve_command(ctx, args)
        module, attribute, _ = COMMANDS[name]
        command = getattr(importlib.import_module(f"lessons_lib.cli.{module}"), attribute)
        if not isinstance(command, typer.Typer):
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(name)(as_command(command))
            command = app
        return name, typer.main.get_command(command), rest

    def invoke(self, ctx):
        """As typer's, which would make an exit status without a word of Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Abort from error


program = Commands(
    help="Steering Diffusion: train a small diffusion model, draw with it, measure it.",
    commands={name: TyperCommand(name, help=help) for name, (_, _, help) in COMMANDS.items()},
    no_args_is_help=True,
    rich_markup_mode=None,
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status; a user's error is one sentence on stderr."""
    with printing() as failed, stops_raised():
        faults = [name for name in ("RANK", "WORLD_SIZE") if not (os.environ.get(name) or "0").isdecimal()]
        if faults:  # no launcher says that
            print(f"The environment's {faults[0]} must be a whole number, or not be set.", file=sys.stderr)
        try:
            status = 2 if faults else _run(arguments)
        except (
            KeyboardInterrupt
        ) as error:  # again, while it said why it ends: a launcher ends its processes so
            status = _status_of(error)
    if failed and status == 0:
        print(f"What was printed could not be written: {failed[0].strerror or failed[0]}.", file=sys.stderr)
        return 1
    return status


def _run(arguments: list[str] | None) -> int:
    keep_freed_memory()
    words = sys.argv[1:] if arguments is None else arguments
    command = functools.partial(program.main, words, standalone_mode=False, prog_name=PROGRAM)
    if processes.count() == 1 or words[:1] == ["train"]:  # which keeps its processes together itself
        return _guarded(command)
    if processes.rank():
        processes.leave(_guarded(processes.follow))
    status = 1
    try:
        status = _guarded(lambda: processes.join() or command())
    finally:
        processes.dismiss(status)
    processes.leave(status)


def _guarded(command: Callable[[], object]) -> int:
    try:
        status = command()
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort) as error:
        if not processes.rank():
            print("Stopped.", file=sys.stderr)
        return _status_of(error.__cause__ or error)
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        processes.say(sentence, is_echo=processes.is_lost_connection(error))
        return 2  # as for a wrong option


def _status_of(error: BaseException) -> int:
    return 143 if isinstance(error, Terminated) else 130


def explain(error: Exception) -> str | None:
    """What to tell the user about an error; None for one that is the library's own fault."""
    if hasattr(error, "format_message"):  # the parser's errors
        return error.format_message() or "A command is missing."
    if isinstance(error, ValueError) or type(error).__module__.startswith("lessons_lib."):
        return " ".join(str(error).split())
    if processes.is_lost_connection(error):
        return "The connection to another process broke: that process says above why it ended."
    is_full = any(words in str(error) for words in ("out of memory", "allocate memory"))  # of a GPU, a CPU
    if is_full or isinstance(error, MemoryError):
        return "The memory is full: use a smaller --batch-size, or ask for fewer images."
    if isinstance(error, OSError):
        return f"{error.filename or 'A file'}: {error.strerror or error}."
    return None
