"""The commands of ``flask db``: the one place that prints and chooses exit codes.

====  =========================================================================================
0     done; up to date; models and databases match
1     refused, or failed; ``status``, ``check``, ``wait``: revisions are pending, or unknown
2     a database cannot be reached; or the command line is wrong
3     ``check``: the databases are up to date, and the models differ from them
====  =========================================================================================

An error is one sentence; in debug mode its traceback comes before it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from flask import current_app
from flask.cli import with_appcontext

from ..errors import DatabaseUnreachable, MigrationError, UowError, escaped
from .api import Migrations
from .group import OPTIONS
from .results import Created, EngineStatus, Step

if TYPE_CHECKING:
    from alembic.script import Script

F = TypeVar("F", bound=Callable[..., object])

BEHIND, UNREACHABLE, DIFFERENT = 1, 2, 3

commands: dict[str, click.Command] = {}


class _Command(click.Command):
    """A command that takes ``-1`` as a revision."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        relative = [arg for arg in args if re.fullmatch(r"-\d+", arg)]
        if relative and "--" not in args:
            args = [*(arg for arg in args if arg not in relative), "--", *relative]
        return super().parse_args(ctx, args)


def _command(name: str) -> Callable[[Callable[..., object]], click.Command]:
    """A command of the group; its function is given a :class:`Migrations` first."""

    def decorate(function: Callable[..., object]) -> click.Command:
        @click.pass_context
        @functools.wraps(function)
        def called(ctx: click.Context, /, directory: str | None, **options: Any) -> None:
            group: Mapping[str, Any] = ctx.meta.get(OPTIONS, {})
            x_arg = options.pop("x_arg", ()) or group.get("x_arg", ())
            try:
                migrations = Migrations(directory or group.get("directory"), x_arg=x_arg)
                function(migrations, **options)
            except UowError as error:
                if options.get("as_json"):
                    click.echo(json.dumps({"error": str(error)}, indent=2))
                _fail(error)

        directory = click.option("-d", "--directory", help="The folder of the migrations.")
        made = click.command(name, cls=_Command)(directory(with_appcontext(called)))
        commands[name] = made
        return made

    return decorate


def _fail(error: UowError) -> NoReturn:
    if current_app.debug:
        traceback.print_exception(error)
    click.echo(f"Error: {error}", err=True)
    sys.exit(UNREACHABLE if isinstance(error, DatabaseUnreachable) else 1)


# Options that several commands share -----------------------------------------------------------

_message = click.option("-m", "--message", help="What the revision is for.")
_sql = click.option(
    "--sql",
    is_flag=True,
    help="Print the SQL, and send nothing. With several engines each gets a file, ENGINE.sql.",
)
_tag = click.option("--tag", help="Any text, for 'env.py'.")
_x_arg = click.option("-x", "--x-arg", multiple=True, help="For 'env.py'; may be repeated.")
_verbose = click.option("-v", "--verbose", is_flag=True, help="Say more.")
_branch_label = click.option("--branch-label", help="A label for the branch of the revision.")
_rev_id = click.option("--rev-id", help="The identifier of the revision, instead of a random one.")
_lock_timeout = click.option(
    "--lock-timeout",
    type=float,
    metavar="SECONDS",
    help="How long to wait for another process that migrates (600), and for locks of tables.",
)
_statement_timeout = click.option(
    "--statement-timeout",
    type=float,
    metavar="SECONDS",
    help="How long a statement may take (PostgreSQL, MariaDB).",
)


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Combine several options into one decorator."""
    return lambda function: functools.reduce(lambda done, option: option(done), options, function)


_place = _together(  # of a new revision
    _rev_id,
    click.option("--version-path", help="The folder for the file, if there are several."),
    _branch_label,
    click.option("--splice", is_flag=True, help="Allow a '--head' that other revisions follow."),
    click.option("--head", default="head", help="The revision that the new one follows."),
)
_changes_databases = _together(_lock_timeout, _tag, _sql)


# Files -----------------------------------------------------------------------------------------


@_command("list-templates")
def list_templates(migrations: Migrations) -> None:
    """List the templates of 'init'."""
    click.echo("Available templates:\n")
    for name, synopsis in migrations.list_templates().items():
        click.echo(f"{name} - {synopsis}")


@_command("init")
@click.option("--multidb", is_flag=True, help="Not needed: the template is for several engines.")
@click.option("-t", "--template", help="One of 'list-templates', or the path of a folder.")
@click.option("--package", is_flag=True, help="Write empty '__init__.py' files.")
def init(migrations: Migrations, multidb: bool, template: str | None, package: bool) -> None:
    """Make the folder of the migrations."""
    created = migrations.init(template=template, package=package)
    for path in created.files:
        click.echo(f"Created {_short(path)}")
    if not created.convention:
        click.echo(f"\n{_how_to_name(created, migrations.group)}", nl=False)
    click.echo(f"\nNext: flask {migrations.group} migrate -m MESSAGE")


def _how_to_name(created: Created, group: str) -> str:
    """How constraints get names."""
    how = (
        "    class Base(DeclarativeBase):\n"
        "        metadata = MetaData(naming_convention=NAMING_CONVENTION)\n"
        if created.has_base
        else "    db = Database(metadata=MetaData(naming_convention=NAMING_CONVENTION))\n"
    )
    return (
        "Constraints of your models have no names, and one without a name cannot be dropped"
        f" later, not even by 'flask {group} downgrade'. Give them names before the first"
        " revision:\n\n"
        "    from flask_uow.migrations import NAMING_CONVENTION\n"
        "    from sqlalchemy import MetaData\n\n"
        f"{how}"
    )


@_command("revision")
@_message
@click.option("--autogenerate", is_flag=True, help="As 'migrate'.")
@_sql
@_place
def revision(migrations: Migrations, autogenerate: bool, **options: Any) -> None:
    """Write an empty revision."""
    if autogenerate:
        _migrate(migrations, **options)
    else:
        _say_written(migrations.revision(options.pop("message"), **options))


@_command("migrate")
@_message
@_sql
@_place
@_x_arg
@click.option("--drop-unknown", is_flag=True, help="Drop tables that the models do not know.")
def migrate(migrations: Migrations, **options: Any) -> None:
    """Write a revision of what has changed in the models."""
    _migrate(migrations, **options)


def _migrate(migrations: Migrations, *, message: str | None, sql: bool, **options: Any) -> None:
    if sql:
        raise click.UsageError(
            "'--sql' does not go with a comparison, which asks the database. Write the revision,"
            f" then 'flask {migrations.group} upgrade --sql'."
        )
    generated = migrations.migrate(message, **options)
    for engine, number in generated.tables.items():
        dialect = migrations.engines[engine].dialect.name
        click.echo(f"Models: {_count(number, 'table')} for the engine {engine!r} ({dialect})")
    if generated.modules:
        click.echo(f"        from {', '.join(generated.modules)}")
    _say_unknown(generated.unknown, migrations.group)
    for drop in generated.drops:
        click.secho(f"Attention: {drop}", fg="yellow")
    if generated.script is None:
        same = "" if generated.drops else "No changes: the databases match the models. "
        click.echo(f"{same}No file was written.")
        if not migrations.heads():
            click.echo(
                "The folder has no revision, so 'db.create_all()' has created the tables. Remove"
                " the call from the app, set SQLALCHEMY_DATABASE_URI to an empty database, and"
                " repeat this command."
                f" Then run 'flask {migrations.group} stamp' for this database."
            )
    else:
        _say_written(generated.script)
        click.echo(f"Read it, then: flask {migrations.group} upgrade")


def _say_unknown(tables: Mapping[str, Sequence[str]], group: str) -> None:
    for engine, names in tables.items():
        click.echo(
            f"Left alone, because the models do not know them ({_count(len(names), 'table')}"
            f"{f' of the engine {engine!r}' if engine else ''},"
            f" 'flask {group} migrate --drop-unknown' drops them): {', '.join(names)}"
        )


def _say_written(script: Script) -> None:
    click.echo(f"Written: {_short(Path(script.path))}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _short(path: Path) -> str:
    """*path* as a user would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@_command("edit")
@click.argument("revision", default="head")
def edit(migrations: Migrations, revision: str) -> None:
    """Open a revision in your editor."""
    for script in migrations.show(revision):
        click.edit(filename=script.path)


@_command("merge")
@_message
@_branch_label
@_rev_id
@click.argument("revisions", nargs=-1)
def merge(migrations: Migrations, revisions: Sequence[str], **options: Any) -> None:
    """Join several heads with a revision that follows all of them."""
    _say_written(migrations.merge(revisions, **options))


@_command("show")
@click.argument("revision", default="head")
def show(migrations: Migrations, revision: str) -> None:
    """Show a revision."""
    for script in migrations.show(revision):
        click.echo(script.log_entry)


@_command("history")
@click.option("-r", "--rev-range", help="[start]:[end]")
@_verbose
@click.option("-i", "--indicate-current", is_flag=True, help="Mark where the databases are.")
def history(
    migrations: Migrations, rev_range: str | None, verbose: bool, indicate_current: bool
) -> None:
    """List the revisions, the newest first."""
    for script in migrations.history(rev_range, current=indicate_current):
        click.echo(
            script.cmd_format(
                verbose=verbose, include_branches=True, include_doc=True, include_parents=True
            )
        )


@_command("heads")
@_verbose
@click.option(
    "--resolve-dependencies", is_flag=True, help="Treat dependencies as revisions before."
)
def heads(migrations: Migrations, verbose: bool, resolve_dependencies: bool) -> None:
    """List the newest revision of each branch."""
    for script in migrations.heads(resolve_dependencies=resolve_dependencies):
        click.echo(script.cmd_format(verbose, include_branches=True, tree_indicators=False))


@_command("branches")
@_verbose
def branches(migrations: Migrations, verbose: bool) -> None:
    """List the revisions that several others follow."""
    for script, following in migrations.branches().items():
        click.echo(script.cmd_format(verbose, include_branches=True))
        for child in following:
            text = child.cmd_format(False, include_branches=True, include_doc=verbose)
            click.echo(f"{' ' * len(script.revision)} -> {text}")


# Databases -------------------------------------------------------------------------------------


@_command("current")
@_verbose
def current(migrations: Migrations, verbose: bool) -> None:
    """Say at which revision each database is."""
    found = migrations.current()
    for engine, scripts in found.items():
        if verbose or len(found) > 1:
            click.echo(f"{engine}:")
        for script in scripts:
            click.echo(script.cmd_format(verbose))


@_command("upgrade")
@_changes_databases
@_x_arg
@_statement_timeout
@click.argument("revision", default="head")
def upgrade(migrations: Migrations, **options: Any) -> None:
    """Run the revisions that are missing."""
    if _has_nothing_to_do(migrations, "upgrade", **options):
        click.echo(_nothing_to_run(migrations, options["revision"]))


@_command("downgrade")
@_changes_databases
@_x_arg
@_statement_timeout
@click.argument("revision", default="-1")
def downgrade(migrations: Migrations, **options: Any) -> None:
    """Undo revisions, by default the last one."""
    if options["sql"] and options["revision"] == "-1":
        options["revision"] = "head:-1"
    if _has_nothing_to_do(migrations, "downgrade", **options):
        click.echo(f"Nothing to do: no database is beyond {options['revision']!r}.")


@_command("stamp")
@_changes_databases
@click.option("--purge", is_flag=True, help="Erase every recorded revision first.")
@click.argument("revision", default="head")
def stamp(migrations: Migrations, **options: Any) -> None:
    """Note a revision as the current one, and run nothing."""
    if _has_nothing_to_do(migrations, "stamp", **options):
        click.echo(f"Nothing to do: {options['revision']!r} is recorded in every database already.")


def _has_nothing_to_do(
    migrations: Migrations, command: str, *, revision: str, sql: bool, **options: Any
) -> bool:
    """Run a method of *migrations*, or print its SQL; tell whether it has run no step."""
    if sql:
        _print_sql(migrations.as_sql(command, revision, tag=options["tag"]))
        return False
    run = getattr(migrations, command)
    with _Progress(migrations) as report:
        return not run(revision, report=report, tell=_tell, **options)


def _nothing_to_run(migrations: Migrations, revision: str) -> str:
    if not migrations.heads():
        return (
            f"There is no revision yet. Write one: 'flask {migrations.group} migrate -m MESSAGE'."
        )
    if any(status.pending for status in migrations.status()):
        return f"Nothing to do: every database has {revision!r} already."
    return "Nothing to do: the databases are up to date."


def _print_sql(scripts: Mapping[str, str]) -> None:
    if len(scripts) == 1:
        click.echo(next(iter(scripts.values())), nl=False)
        return
    for path in _write_sql(scripts):
        click.echo(f"Written: {path}", err=True)


_MARK = "-- SQL of 'flask db', for the engine"  # the first line says whose file it is


def _write_sql(scripts: Mapping[str, str]) -> Iterator[Path]:
    """Write a file for each engine: one text cannot be piped into two databases.

    :raises MigrationError: a file is there and has other content, or cannot be written.
    """
    for engine, script in scripts.items():
        path = Path(re.sub(r"[^\w.-]", "_", engine) + ".sql")
        mark, why = f"{_MARK} {engine!r}\n", "it has other content"
        try:
            is_ours = not path.exists() or path.read_bytes().startswith(mark.encode())
            if is_ours:
                path.write_text(mark + script, encoding="utf-8")
        except OSError as error:
            is_ours, why = False, str(error.strerror or error)
        if not is_ours:
            raise MigrationError(
                f"The SQL of the engine {engine!r} cannot be written to {str(path.absolute())!r}:"
                f" {why}. Write the command in another folder."
            )
        yield path


def _tell(sentence: str) -> None:
    click.echo(sentence, err=True)


class _Progress:
    """A line for each revision, begun when it starts."""

    def __init__(self, migrations: Migrations) -> None:
        self._several = len(migrations.engines) > 1
        self._begun = False

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun:  # and it has failed
            click.echo()

    def __call__(self, step: Step) -> None:
        self._begun = step.seconds is None
        if step.seconds is not None:
            nothing = " (nothing for this engine)" if step.empty else ""
            click.echo(f" {step.seconds:.2f} s{nothing}")
            return
        engine = f"{step.engine}: " if self._several else ""
        message = f" {step.message}" if step.message else ""
        click.echo(f"{engine}{step.direction} {step.revision}{message} ...", nl=False)


@_command("check")
def check(migrations: Migrations) -> None:
    """Check that the databases are up to date and match the models.

    Exit code 1: revisions are pending; 3: the models differ.
    """
    checked = migrations.check()
    _say_unknown(checked.unknown, migrations.group)
    if checked.behind:
        for status in checked.behind:
            click.echo(_line(status))
        click.echo(f"Write '{migrations.upgrade_command}'.")
        sys.exit(BEHIND)
    if checked.differences:
        click.echo(
            f"The models differ from the databases. 'flask {migrations.group} migrate' would:"
        )
        for line in checked.differences:
            click.echo(f"  {line}")
        sys.exit(DIFFERENT)
    click.echo("The databases are up to date and match the models.")


@_command("status")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(migrations: Migrations, as_json: bool) -> None:
    """Say where every database is, and what is pending.

    Exit code 0: up to date; 1: pending, or at a revision that the folder does not have; 2: one
    cannot be reached.
    """
    if as_json:
        with contextlib.redirect_stdout(sys.stderr):  # an 'env.py' may print
            statuses = migrations.status()
        click.echo(json.dumps({"engines": list(map(_as_dict, statuses))}, indent=2))
        _exit_with(statuses)
    _say_status(migrations.status())


def _say_status(statuses: Sequence[EngineStatus]) -> NoReturn:
    for status in statuses:
        click.echo(_line(status))
    _exit_with(statuses)


def _line(status: EngineStatus) -> str:
    """Where one database is, and below it what is pending."""
    text = f"{status.name} ({status.url}): {status.state}"
    if status.error is not None:
        return f"{text}: {status.error}"
    text += f", at {', '.join(status.current) or 'no revision'}"
    if status.unknown:
        text += f" (the folder does not have {', '.join(status.unknown)})"
    for script in status.pending:
        text += f"\n  pending: {script.revision} {escaped(script.doc or '')}".rstrip()
    return text


def _as_dict(status: EngineStatus) -> dict[str, object]:
    """The same, for programs."""
    return {
        "name": status.name,
        "url": status.url,
        "state": status.state,
        "reachable": status.error is None,
        "error": status.error,
        "current": list(status.current),
        "unknown": list(status.unknown),
        "pending": [{"revision": item.revision, "message": item.doc} for item in status.pending],
    }


def _exit_with(statuses: Sequence[EngineStatus]) -> NoReturn:
    states = {status.state for status in statuses}
    if "unreachable" in states:
        sys.exit(UNREACHABLE)
    sys.exit(0 if states == {"up to date"} else BEHIND)


@_command("wait")
@click.option("--timeout", type=float, default=60.0, metavar="SECONDS", show_default=True)
@click.option("--upgraded", is_flag=True, help="Wait until another process has upgraded them.")
def wait(migrations: Migrations, timeout: float, upgraded: bool) -> None:
    """Wait until every database responds.

    Exit code 2 if one does not in time; 1 if revisions are still pending. Standard error says
    what is waited for.
    """
    if upgraded:
        _say_status(migrations.wait_for_upgrade(timeout, tell=_tell))
    else:
        errors = migrations.wait(timeout, tell=_tell)
        for name, error in errors.items():
            click.echo(f"{name}: {'reachable' if error is None else f'unreachable: {error}'}")
        if any(errors.values()):
            sys.exit(UNREACHABLE)
