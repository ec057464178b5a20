"""What a revision does to its own transaction: it may commit, or roll back, by itself.

``op.get_bind().commit()`` ends what Alembic has begun. All that follows, and the note of the
revision, is in a new transaction that Alembic would not commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sqlalchemy import Connection, event

from ..._transaction.statements import StatementEffect, TransactionEnd, effect_of, transaction_end
from ...errors import MigrationError
from .._env import alembic_private

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext


class Transactions:
    """Those of one connection, while revisions run on it.

    The listeners are on the ``Connection`` object, and end with it.

    :param is_new: the table for the note has just been made.
    :ivar commits: how often the running revision has committed by itself, ``autocommit_block()``
        included.
    """

    def __init__(self, context: MigrationContext, *, is_new: bool) -> None:
        self.commits = 0
        self._rolled_back = False
        self._is_running = False
        self._has_written = is_new
        self._context = context
        self._connection = connection = cast(Connection, context.connection)
        # With one transaction for all revisions, it has begun already, and 'env.py' commits it.
        self._outer = connection.get_transaction()
        self._is_foreign = alembic_private.is_in_foreign_transaction(context)
        event.listen(connection, "commit", self._on_commit)
        event.listen(connection, "rollback", self._on_rollback)
        event.listen(connection, "before_cursor_execute", self._on_statement)

    def begin(self) -> None:
        """Begin to watch a revision."""
        self.commits, self._rolled_back, self._is_running = 0, False, True

    def check(self) -> None:
        """Look at what a revision did, when it has run and is noted.

        :raises MigrationError: its work cannot be stored as a whole any more.
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
        """Commit what has begun after the transaction of the revision."""
        transaction = self._connection.get_transaction()
        known = self._outer, alembic_private.transaction_of(self._context)
        if transaction is not None and transaction not in known:
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
            self.check()  # that table may have gone with it, and the error would be a riddle
        end = transaction_end(statement)
        if end is None:
            self._has_written |= effect_of(statement) is not StatementEffect.READ
        elif end is TransactionEnd.COMMIT:
            self._on_commit(connection)
        else:
            self._on_rollback(connection)
