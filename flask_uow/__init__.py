"""Every Flask request is one SQLAlchemy unit of work."""

from . import errors as errors
from ._request.flask_class import Flask as Flask
from ._request.proxy import SessionProxy as SessionProxy
from ._request.view_options import CommitRule as CommitRule
from .database import Database as Database
from .errors import BlockRefused as BlockRefused
from .errors import CommitRefused as CommitRefused
from .errors import ConcurrentUse as ConcurrentUse
from .errors import ConfigError as ConfigError
from .errors import ConfigNotice as ConfigNotice
from .errors import DatabaseUnreachable as DatabaseUnreachable
from .errors import DiscardedWork as DiscardedWork
from .errors import ForkedUnit as ForkedUnit
from .errors import HookRefused as HookRefused
from .errors import MigrationError as MigrationError
from .errors import MigrationFailed as MigrationFailed
from .errors import MigrationLocked as MigrationLocked
from .errors import MigrationsPending as MigrationsPending
from .errors import OutsideContext as OutsideContext
from .errors import PartialCommit as PartialCommit
from .errors import PoolExhausted as PoolExhausted
from .errors import ReadOnly as ReadOnly
from .errors import Rollback as Rollback
from .errors import RollbackOnly as RollbackOnly
from .errors import SetupError as SetupError
from .errors import TransactionLost as TransactionLost
from .errors import UnitEnded as UnitEnded
from .errors import UnknownEngine as UnknownEngine
from .errors import UowError as UowError
from .errors import UowWarning as UowWarning

__version__ = "0.1.0.dev0"
