"""The testing kit: isolation, query counts and failures on demand, without any test framework.

The fixtures for pytest are in ``flask_uow.pytest_plugin``.
"""

from .._unit.commit_hooks import Hook as Hook
from .failures import Failure as Failure
from .failures import deadlock_once as deadlock_once
from .failures import fail_commit as fail_commit
from .failures import lose_connection as lose_connection
from .failures import slow as slow
from .hooks import capture_on_commit as capture_on_commit
from .isolation import isolated as isolated
from .leaks import no_leaks as no_leaks
from .queries import CountedQueries as CountedQueries
from .queries import Repetition as Repetition
from .queries import count_queries as count_queries
from .sharing import commit_before_requests as commit_before_requests
from .truncation import truncated as truncated
from .worker_database import worker_database as worker_database
