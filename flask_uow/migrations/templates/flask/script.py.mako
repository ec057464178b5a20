<%!
from flask_uow.migrations import docstring, part_names
%>\
<% parts = part_names(config) %>\
"""${message | docstring}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

"""
from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

# revision identifiers, used by Alembic.
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


% if not parts:
def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
% else:
def upgrade(engine_name: str) -> None:
    globals()[f"upgrade_{engine_name}"]()


def downgrade(engine_name: str) -> None:
    globals()[f"downgrade_{engine_name}"]()
% for part in parts:


def upgrade_${part}() -> None:
    ${context.get(f"{part}_upgrades", "pass")}


def downgrade_${part}() -> None:
    ${context.get(f"{part}_downgrades", "pass")}
% endfor
% endif
