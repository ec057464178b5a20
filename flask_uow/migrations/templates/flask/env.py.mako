"""What Alembic runs when 'flask db' changes the databases or compares them with the models.

Options of Alembic's 'context.configure()' may be given to 'run()'.
% if app:
'app' says whose folder this is: the command of another app is refused.
% endif
"""

from flask_uow.migrations import run

run(${f"app={app}" if app else ""})
