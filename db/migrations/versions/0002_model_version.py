"""What a job's model exactly is, and what the job lets a worker do with its files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column(
            "model_version", sa.Text(), comment="what ran: a commit, or sha256: of local files"
        ),
    )
    op.add_column(
        "jobs",
        sa.Column("permits", JSON, comment="pickle, remote_code: what it lets a worker do"),
    )
