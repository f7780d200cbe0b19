"""`shardkv version` and `shardkv help`."""

import click

from shardkv import __version__


@click.command(epilog="Example: shardkv version")
def version() -> None:
    """Print the version."""
    click.echo(f"shardkv {__version__}")


@click.command(
    "help",
    epilog="""\b
Examples:
  shardkv help
  shardkv help batch
""",
)
@click.argument("command", required=False)
@click.pass_context
def help_(context: click.Context, command: str | None) -> None:
    """Show the list of commands, or one command's help."""
    parent = context.parent
    assert parent is not None
    group = parent.command
    assert isinstance(group, click.Group)
    if command is None:
        click.echo(parent.get_help())
        return
    _, found, _ = group.resolve_command(parent, [command])
    assert found is not None
    click.echo(found.get_help(click.Context(found, info_name=command, parent=parent)))
