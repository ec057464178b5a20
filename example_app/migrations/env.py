"""What Alembic runs when 'flask db' changes the databases or compares them with the models.

Options of Alembic's 'context.configure()' may be given to 'run()'.
"""

from flask_uow.migrations import run

run()
