"""What Alembic runs for every command of 'flask db' that asks the database.

Options of Alembic's 'context.configure()' may be given to 'run()'.
"""

from flask_uow.migrations import run

run()
