"""How commands are declared and found, and what becomes of their errors.

A command's module is imported when the command is used: `tolsey attenuate` starts without the gateway's imports.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from importlib import import_module
from typing import ParamSpec, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from tolsey.cli.output import BROKEN_PIPE, USAGE, UsageError, report
from tolsey.errors import TolseyError

_P = ParamSpec("_P")
_R = TypeVar("_R")


def new_app(help: str | None = None) -> typer.Typer:  # noqa: A002 - Typer's own word
    """A Typer for the commands of one module. Help is plain text, which a pipe can take."""
    return typer.Typer(help=help, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str], options_first: bool = False
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Declare a command of `app`. Its help ends with the examples, one command line each.

    With `options_first`, all that follows the first argument is arguments.
    """
    lines = "\n".join(f"  {example}" for example in examples)
    settings = {"allow_interspersed_args": not options_first}
    return app.command(name, cls=Command, epilog=f"\b\nExamples:\n{lines}", context_settings=settings)


class Command(TyperCommand):
    """A command that refuses an option given twice, unless it takes several: nothing is ever last wins."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # its only kind
        """Parse, after looking for repetitions."""
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            for param in set(given):
                single = param.param_type_name == "option" and not getattr(param, "multiple", False)
                if single and not getattr(param, "is_flag", False) and given.count(param) > 1:
                    raise _usage(f"{param.opts[0]} is given twice", ctx)
        return super().parse_args(ctx, args)


def _usage(text: str, ctx: typer.Context) -> UsageError:
    error = UsageError(text)
    error.__dict__["ctx"] = ctx
    return error


class LazyCommands(MutableMapping[str, object]):
    """Commands by name, each imported when it is asked for. `modules` says in which module it is declared as `app`."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)
        self._loaded: dict[str, object] = {}

    def __getitem__(self, name: str) -> object:
        if name not in self._loaded:
            found = get_command(import_module(self._modules[name]).app)
            if isinstance(found, TyperGroup) and name in found.commands:
                found = found.commands[name]
            self._loaded[name] = found
        return self._loaded[name]

    def __setitem__(self, name: str, value: object) -> None:
        self._modules.setdefault(name, "")
        self._loaded[name] = value

    def __delitem__(self, name: str) -> None:
        del self._modules[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


class Program(TyperGroup):
    """The command `tolsey`: turns errors into one message, or one JSON document, and an exit status."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: object,
    ) -> int:
        """Run one command line."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            result = super().main(words, prog_name, complete_var, False, windows_expand_args, **extra)
            status = result if isinstance(result, int) else 0
        except (TolseyError, typer.TyperException, OSError, UnicodeEncodeError) as error:
            status = report(error, words)
        if standalone_mode:
            sys.exit(status)
        return status

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # its only kind
        """Run a command. A reader that went away is no error to speak of."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        return result


def show_help(ctx: typer.Context) -> None:
    """Where a command is missing: say on standard error which there are, and end with status 2."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help(), file=sys.stderr)
        raise typer.Exit(USAGE)
