"""The first tables, and triggers that let answers be added and nothing else."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TIME = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLES = ("answers", "assignments", "secrets", "people", "images", "project")


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "project",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("seed", _TIME, nullable=False),
        sa.Column("alone", sa.Boolean(), nullable=False),
        sa.Column("about", sa.JSON(), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_project_single")),
        sa.CheckConstraint("votes >= 1", name=op.f("ck_project_votes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project")),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("label", sa.String(1000), nullable=False),
        sa.Column("original", sa.String(64)),
        sa.Column("changed", sa.String(64), nullable=False),
        *[sa.Column(name, sa.String(1000), nullable=False) for name in ("source", "source_id", "model")],
        *[sa.Column(name, sa.String(1000), nullable=False) for name in ("search", "target")],
        sa.Column("rmse", sa.Float(53)),
        sa.Column("confidences", sa.JSON(none_as_null=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("key", name=op.f("uq_images_key")),
        sa.UniqueConstraint(
            "model", "source", "source_id", "changed", name=op.f("uq_images_model_source_source_id_changed")
        ),
    )
    op.create_table(
        "people",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.CheckConstraint("role in ('annotator', 'owner')", name=op.f("ck_people_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_people")),
        sa.UniqueConstraint("key", name=op.f("uq_people_key")),
        sa.UniqueConstraint("name", name=op.f("uq_people_name")),
    )
    op.create_table(
        "secrets",
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("person", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("expires", _TIME),
        sa.Column("revoked", _TIME),
        sa.CheckConstraint("kind in ('link', 'session')", name=op.f("ck_secrets_kind")),
        sa.ForeignKeyConstraint(["person"], ["people.id"], name=op.f("fk_secrets_person")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_secrets")),
    )
    op.create_index(op.f("ix_secrets_person"), "secrets", ["person"])
    _create_answers()
    _only_added()


def _create_answers() -> None:
    op.create_table(
        "assignments",
        sa.Column("image", sa.Integer(), nullable=False),
        sa.Column("person", sa.Integer(), nullable=False),
        sa.Column("time", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name=op.f("fk_assignments_image")),
        sa.ForeignKeyConstraint(["person"], ["people.id"], name=op.f("fk_assignments_person")),
        sa.PrimaryKeyConstraint("image", "person", name=op.f("pk_assignments")),
    )
    op.create_index(op.f("ix_assignments_person"), "assignments", ["person"])
    op.create_table(
        "answers",
        sa.Column("id", _TIME, nullable=False),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("image", sa.Integer(), nullable=False),
        sa.Column("person", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("answer", sa.String(16), nullable=False),
        sa.Column("time", _TIME, nullable=False),
        sa.Column("milliseconds", sa.Integer()),
        sa.CheckConstraint("round >= 1", name=op.f("ck_answers_round")),
        sa.CheckConstraint("answer in ('unchanged', 'unsure', 'changed', 'undone')", name=op.f("ck_answers_answer")),
        sa.CheckConstraint("(answer = 'undone') = (round % 2 = 0)", name=op.f("ck_answers_in_turn")),
        sa.ForeignKeyConstraint(
            ["image", "person"], ["assignments.image", "assignments.person"], name=op.f("fk_answers_image_person")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answers")),
        sa.UniqueConstraint("client", name=op.f("uq_answers_client")),
        sa.UniqueConstraint("image", "person", "round", name=op.f("uq_answers_image_person_round")),
    )
    op.create_index(op.f("ix_answers_person"), "answers", ["person"])


def _only_added() -> None:
    """No statement of anybody, this program included, alters or removes an answer."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER answers_no_{verb.lower()} BEFORE {verb} ON answers "
                "BEGIN SELECT RAISE(ABORT, 'answers are only ever added'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION answers_only_added() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'answers are only ever added'; END $$"
    )
    op.execute(
        "CREATE TRIGGER answers_only_added BEFORE UPDATE OR DELETE OR TRUNCATE ON answers "
        "FOR EACH STATEMENT EXECUTE FUNCTION answers_only_added()"
    )


def downgrade() -> None:
    """Back to nothing: every answer is lost."""
    for table in _TABLES:
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION answers_only_added()")
