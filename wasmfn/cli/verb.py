"""Commands whose help is printed as it is written: examples keep their lines."""

import inspect

import click


class Verb(click.Command):
    """A command with its docstring as help, line by line."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the docstring without filling its lines anew."""
        _write(self, formatter)

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first line of the docstring, whole."""
        return (self.help or "").partition("\n")[0]


class VerbGroup(click.Group):
    """A group of verbs, with its docstring as help, line by line."""

    command_class = Verb

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the docstring without filling its lines anew."""
        _write(self, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which they were made."""
        return list(self.commands)


def _write(command: click.Command, formatter: click.HelpFormatter) -> None:
    formatter.write_paragraph()
    for line in inspect.cleandoc(command.help or "").splitlines():
        formatter.write(f"  {line}".rstrip() + "\n")
