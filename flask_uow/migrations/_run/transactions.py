"""What a revision does to its own transaction: it may commit, or roll back, by itself.

``op.get_bind().commit()`` ends what Alembic has begun. All that follows, and the note of the
revision, is in a new transaction that nobody would commit.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event

from ..._transaction.statements import StatementEffect, TransactionEnd, effect_of, transaction_end
from ...errors import MigrationError
from .._env import alembic_private


class Transactions:
    """Those of one connection, while revisions run on it.

    The listeners are on the ``Connection`` object, and go with it.

    :param is_new: the table for the note has just been made.
    :ivar commits: how often the running revision has committed by itself, ``autocommit_block()``
        included.
    """

    def __init__(self, context: Any, *, is_new: bool) -> None:
        self.commits = 0
        self._rolled_back = False
        self._is_running = False
        self._has_written = is_new
        self._context = context
        self._connection = connection = context.connection
        # In one transaction for all, it is there already, and somebody else commits it.
        self._outer = connection.get_transaction()
        self._is_foreign = alembic_private.is_in_foreign_transaction(context)
        event.listen(connection, "commit", self._on_commit)
        event.listen(connection, "rollback", self._on_rollback)
        event.listen(connection, "before_cursor_execute", self._on_statement)

    def begin(self) -> None:
        """A revision begins."""
        self.commits, self._rolled_back, self._is_running = 0, False, True

    def check(self) -> None:
        """It has run, and is noted.

        :raises MigrationError: what it did cannot be stored as a whole any more.
        """
        self._is_running = False
        if self._rolled_back:
            raise MigrationError(
                "It has rolled back its own transaction, and what it had done before that is lost."
                " To undo a part, use 'with op.get_bind().begin_nested():'"
            )
        if self._is_foreign and self._connection.get_transaction() is not self._outer:
            raise MigrationError(
                "It has committed by itself, and this 'env.py' has one transaction for all"
                " revisions. Take the commit out, or replace all of 'env.py' by 'from"
                " flask_uow.migrations import run' and 'run()', where each revision has its own"
            )

    def end(self) -> None:
        """Its transaction has ended, or was none of its own: commit what has begun behind it."""
        transaction = self._connection.get_transaction()
        known = self._outer, alembic_private.transaction_of(self._context)
        if transaction is not None and all(transaction is not one for one in known):
            transaction.commit()

    def _on_commit(self, _connection: object) -> None:
        self._has_written = False
        self.commits += self._is_running

    def _on_rollback(self, _connection: object) -> None:
        self._rolled_back |= self._has_written
        self._has_written = False

    def _on_statement(
        self, connection: object, _cursor: object, statement: str, *_: object
    ) -> None:
        if self._is_running and self._rolled_back and self._context.version_table in statement:
            self.check()  # that table may have gone with it, and nobody would understand the error
        end = transaction_end(statement)
        if end is None:
            self._has_written |= effect_of(statement) is not StatementEffect.READ
        elif end is TransactionEnd.COMMIT:
            self._on_commit(connection)
        else:
            self._on_rollback(connection)
