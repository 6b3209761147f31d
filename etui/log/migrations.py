"""The schema of the log, as the history of its migrations.

sqlite-utils takes 150 ms to import, so it is imported only to apply migrations: whether a database
is up to date follows from :data:`NAMES` alone (see :mod:`etui.log.database`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from etui.log.parent_backfill import set_parents

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

SET_NAME = "etui"
"""Name of the migration set in ``_sqlite_migrations``."""

_TABLES = (
    """CREATE TABLE chats (
        id INTEGER PRIMARY KEY,
        chat_id TEXT NOT NULL UNIQUE,
        created_at TEXT NOT NULL,
        name TEXT NOT NULL,
        system TEXT
    )""",
    # An explicit id: the full-text index refers to it, and VACUUM renumbers a hidden rowid.
    # The texts come last, so that a scan of the numbers never reads their overflow pages.
    """CREATE TABLE turns (
        id INTEGER PRIMARY KEY,
        turn_id TEXT NOT NULL UNIQUE,
        created_at TEXT NOT NULL,
        chat_id TEXT REFERENCES chats (chat_id) ON DELETE CASCADE,
        status TEXT NOT NULL,
        model TEXT NOT NULL,
        model_sha256 TEXT,
        arm TEXT NOT NULL,
        reasoning TEXT NOT NULL,
        policy TEXT,
        rule TEXT,
        tokens_prompt INTEGER NOT NULL,
        tokens_cached INTEGER NOT NULL,
        tokens_computed INTEGER NOT NULL,
        tokens_thinking INTEGER NOT NULL,
        tokens_output INTEGER NOT NULL,
        seconds_load REAL NOT NULL,
        seconds_prefill REAL NOT NULL,
        seconds_decode REAL NOT NULL,
        seconds_total REAL NOT NULL,
        seconds_ttft REAL,
        energy_joules REAL,
        energy_uncertainty REAL,
        energy_net_joules REAL,
        energy_idle_watts REAL,
        energy_kind TEXT,
        energy_coverage REAL NOT NULL,
        energy_mean_watts REAL,
        energy_peak_watts REAL,
        energy_joules_per_token REAL,
        energy_phases_load REAL,
        energy_phases_prefill REAL,
        energy_phases_decode REAL,
        energy_thinking_joules REAL,
        energy_start_ns INTEGER NOT NULL,
        energy_end_ns INTEGER NOT NULL,
        predicted_joules REAL,
        predicted_accuracy REAL,
        confidence REAL,
        energy_channels TEXT NOT NULL,
        energy_unmeasured TEXT NOT NULL,
        energy_flags TEXT NOT NULL,
        why TEXT NOT NULL,
        error TEXT,
        query TEXT NOT NULL,
        answer TEXT NOT NULL,
        thinking TEXT NOT NULL,
        system TEXT,
        votes TEXT NOT NULL,
        settings TEXT NOT NULL,
        trace TEXT NOT NULL
    )""",
    # No foreign key on turn_id: a load is logged before its turn, and its joules are kept when the
    # chat is deleted.
    """CREATE TABLE loads (
        id INTEGER PRIMARY KEY,
        load_id TEXT NOT NULL UNIQUE,
        created_at TEXT NOT NULL,
        model TEXT NOT NULL,
        model_sha256 TEXT,
        turn_id TEXT,
        seconds REAL NOT NULL,
        joules REAL,
        uncertainty REAL,
        kind TEXT,
        gpu_layers INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL
    )""",
    """CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL UNIQUE,
        created_at TEXT NOT NULL,
        finished_at TEXT,
        status TEXT NOT NULL,
        folder TEXT NOT NULL,
        suite TEXT NOT NULL,
        format TEXT NOT NULL,
        shots INTEGER NOT NULL,
        seed INTEGER NOT NULL,
        data_sha256 TEXT,
        config_sha256 TEXT,
        questions INTEGER NOT NULL,
        correct INTEGER NOT NULL,
        joules REAL,
        uncertainty REAL,
        kind TEXT,
        seconds REAL NOT NULL,
        arms TEXT NOT NULL,
        config TEXT NOT NULL,
        summary TEXT NOT NULL
    )""",
    """CREATE TABLE answers (
        id INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
        arm TEXT NOT NULL,
        subject TEXT NOT NULL,
        row INTEGER NOT NULL,
        answer TEXT NOT NULL,
        choice TEXT,
        correct INTEGER NOT NULL,
        letter_mass REAL,
        status TEXT NOT NULL,
        tokens_computed INTEGER NOT NULL,
        tokens_cached INTEGER NOT NULL,
        tokens_thinking INTEGER NOT NULL,
        tokens_output INTEGER NOT NULL,
        joules REAL,
        uncertainty REAL,
        kind TEXT,
        seconds REAL NOT NULL,
        logprobs TEXT,
        UNIQUE (run_id, arm, subject, row)
    )""",
    """CREATE TABLE curves (
        id INTEGER PRIMARY KEY,
        curve_id TEXT NOT NULL UNIQUE,
        created_at TEXT NOT NULL,
        model TEXT NOT NULL,
        model_sha256 TEXT,
        machine TEXT NOT NULL,
        build TEXT NOT NULL,
        power_limit_watts REAL,
        kind TEXT,
        source TEXT NOT NULL,
        n INTEGER NOT NULL,
        r2_prefill REAL,
        r2_decode REAL,
        coefficients TEXT NOT NULL,
        residuals TEXT NOT NULL
    )""",
)

_FULL_TEXT = (
    """CREATE VIRTUAL TABLE turns_fts USING fts5 (
        query, answer, content=turns, content_rowid=id,
        tokenize='unicode61 remove_diacritics 2', prefix='2 3'
    )""",
    """CREATE TRIGGER turns_fts_insert AFTER INSERT ON turns BEGIN
        INSERT INTO turns_fts (rowid, query, answer) VALUES (new.id, new.query, new.answer);
    END""",
    """CREATE TRIGGER turns_fts_delete AFTER DELETE ON turns BEGIN
        INSERT INTO turns_fts (turns_fts, rowid, query, answer)
        VALUES ('delete', old.id, old.query, old.answer);
    END""",
    """CREATE TRIGGER turns_fts_update AFTER UPDATE OF query, answer ON turns BEGIN
        INSERT INTO turns_fts (turns_fts, rowid, query, answer)
        VALUES ('delete', old.id, old.query, old.answer);
        INSERT INTO turns_fts (rowid, query, answer) VALUES (new.id, new.query, new.answer);
    END""",
)

_INDEXES = (
    "CREATE INDEX turns_by_time ON turns (created_at)",
    "CREATE INDEX turns_by_joules ON turns (energy_joules)",
    "CREATE INDEX turns_by_joules_per_token ON turns (energy_joules_per_token)",
    "CREATE INDEX turns_by_seconds ON turns (seconds_total)",
    "CREATE INDEX turns_by_tokens ON turns (tokens_output)",
    "CREATE INDEX turns_by_model ON turns (model, created_at)",
    "CREATE INDEX turns_by_rule ON turns (rule, created_at)",
    "CREATE INDEX turns_by_status ON turns (status, created_at)",
    "CREATE INDEX turns_by_chat ON turns (chat_id, created_at)",
    # Covers every filter, sort and total of the history, so that none reads the wide rows.
    """CREATE INDEX turns_history ON turns (
        created_at, model, rule, status, policy, chat_id, energy_joules, energy_uncertainty,
        energy_kind, energy_joules_per_token, seconds_total, tokens_output
    )""",
    "CREATE INDEX chats_by_time ON chats (created_at)",
    "CREATE INDEX loads_by_time ON loads (created_at)",
    "CREATE INDEX loads_by_turn ON loads (turn_id)",
    "CREATE INDEX runs_by_time ON runs (created_at)",
    "CREATE INDEX curves_by_model ON curves (model, created_at)",
)

_SHARED_GPU = (
    "ALTER TABLE turns ADD COLUMN energy_shared INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE turns ADD COLUMN energy_own_joules REAL",
    # Older turns have it only in their flags; their own share of the joules was not recorded.
    """UPDATE turns SET energy_shared = 1 WHERE energy_flags LIKE '%"shared"%'""",
)

_PROBES = ("ALTER TABLE turns ADD COLUMN probes TEXT NOT NULL DEFAULT '[]'",)

_CURVE_SETTINGS = ("ALTER TABLE curves ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'",)

_UNLOADS = (
    """CREATE TABLE unloads (
        id INTEGER PRIMARY KEY,
        unload_id TEXT NOT NULL UNIQUE,
        created_at TEXT NOT NULL,
        model TEXT NOT NULL,
        model_sha256 TEXT,
        turn_id TEXT,
        reason TEXT NOT NULL,
        seconds REAL NOT NULL,
        joules REAL,
        uncertainty REAL,
        kind TEXT,
        freed_bytes INTEGER NOT NULL
    )""",
    "CREATE INDEX unloads_by_time ON unloads (created_at)",
    "CREATE INDEX unloads_by_turn ON unloads (turn_id)",
)

_HOPS = ("ALTER TABLE turns ADD COLUMN hops TEXT NOT NULL DEFAULT '[]'",)

_POWER_CURVE = ("ALTER TABLE turns ADD COLUMN power_watts TEXT NOT NULL DEFAULT '[]'",)

_HOPS_INDEX = (
    # Finds the few turns with hops without reading the wide rows, to charge each hop to its model.
    "CREATE INDEX turns_with_hops ON turns (created_at) WHERE hops <> '[]'",
)

_SPECULATION = (
    # NULL in a turn that drafted nothing.
    "ALTER TABLE turns ADD COLUMN speculation_method TEXT",
    *(
        f"ALTER TABLE turns ADD COLUMN speculation_{name} INTEGER"
        for name in ("batches", "rows", "drafted", "accepted")
    ),
    *(
        f"ALTER TABLE turns ADD COLUMN speculation_{name} REAL"
        for name in (
            *("verify_seconds", "draft_seconds"),
            *("verify_joules", "verify_uncertainty", "draft_joules", "draft_uncertainty"),
            *("accepted_joules", "accepted_uncertainty", "waste_joules", "waste_uncertainty"),
            *("joules_per_accepted_token", "joules_per_accepted_token_uncertainty"),
        )
    ),
)

_KEEP_WARM = tuple(
    f"ALTER TABLE unloads ADD COLUMN idle_{when}_{what} REAL"
    for when in ("before", "after", "cold")
    for what in ("watts", "uncertainty")
)

_LOOPS = (
    "ALTER TABLE turns ADD COLUMN ended TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE turns ADD COLUMN loop TEXT NOT NULL DEFAULT '{}'",
)

_SWEEPS = (
    """CREATE TABLE sweeps (
        id INTEGER PRIMARY KEY,
        sweep_id TEXT NOT NULL UNIQUE,
        created_at TEXT NOT NULL,
        folder TEXT NOT NULL,
        model TEXT NOT NULL,
        model_sha256 TEXT,
        machine TEXT NOT NULL,
        goal TEXT NOT NULL,
        within_percent REAL,
        baseline TEXT NOT NULL,
        best TEXT,
        verdict TEXT NOT NULL,
        floor_joules_percent REAL,
        floor_seconds_percent REAL,
        blocks INTEGER NOT NULL,
        visits INTEGER NOT NULL,
        joules REAL,
        kind TEXT,
        seconds REAL NOT NULL,
        complete INTEGER NOT NULL
    )""",
    """CREATE TABLE sweep_settings (
        id INTEGER PRIMARY KEY,
        sweep_id TEXT NOT NULL REFERENCES sweeps (sweep_id) ON DELETE CASCADE,
        setting TEXT NOT NULL,
        axes TEXT NOT NULL,
        stage TEXT NOT NULL,
        blocks INTEGER NOT NULL,
        joules REAL,
        joules_low REAL,
        joules_high REAL,
        seconds REAL,
        seconds_low REAL,
        seconds_high REAL,
        joules_percent REAL,
        joules_percent_low REAL,
        joules_percent_high REAL,
        joules_claimed INTEGER NOT NULL,
        seconds_percent REAL,
        seconds_percent_low REAL,
        seconds_percent_high REAL,
        seconds_claimed INTEGER NOT NULL,
        accuracy REAL,
        accuracy_low REAL,
        accuracy_high REAL,
        accuracy_points REAL,
        accuracy_points_low REAL,
        accuracy_points_high REAL,
        dropped_after INTEGER,
        reason TEXT NOT NULL,
        frontier INTEGER NOT NULL,
        UNIQUE (sweep_id, setting)
    )""",
    "CREATE INDEX sweeps_by_model ON sweeps (model, created_at)",
)

_SERVING = (
    # NULL in a turn that no client of `etui serve` asked for.
    "ALTER TABLE turns ADD COLUMN client_endpoint TEXT",
    "ALTER TABLE turns ADD COLUMN client_key TEXT",
    "ALTER TABLE turns ADD COLUMN client_request_id TEXT",
    "ALTER TABLE turns ADD COLUMN client_queue_seconds REAL",
    "ALTER TABLE turns ADD COLUMN tool_calls TEXT NOT NULL DEFAULT ''",
    # NULL in a turn of before; it ran alone.
    "ALTER TABLE turns ADD COLUMN energy_attribution_method TEXT",
    *(
        f"ALTER TABLE turns ADD COLUMN energy_attribution_{name} REAL"
        for name in ("share", "batch_joules", "spread")
    ),
    "ALTER TABLE turns ADD COLUMN energy_attribution_batches INTEGER",
    "ALTER TABLE turns ADD COLUMN energy_attribution_mean_requests REAL",
    # What a key has spent in the last hour, without reading the wide rows of other turns.
    "CREATE INDEX turns_by_key ON turns (client_key, created_at) WHERE client_key IS NOT NULL",
)

_ENERGY_INDEX = (
    # Covers the sums and peaks of days, so that none reads the wide rows; by day, a year of turns.
    """CREATE INDEX turns_energy ON turns (
        created_at, model, energy_joules, energy_kind, energy_peak_watts
    )""",
)

_BRANCHES: tuple[str | Callable[[Database], None], ...] = (
    # NULL for the first turn of a chat, or of a branch that begins there.
    "ALTER TABLE turns ADD COLUMN parent_id TEXT",
    # The turn that the user went back to last; NULL shows the newest branch.
    "ALTER TABLE chats ADD COLUMN head TEXT",
    set_parents,
    # Counts the branches of a chat without reading the wide rows, in which it comes last.
    "CREATE INDEX turns_by_parent ON turns (chat_id, parent_id, turn_id)",
)

_GRADES = (
    # What the user says of an answer. A turn has one grade, or none.
    """CREATE TABLE grades (
        id INTEGER PRIMARY KEY,
        turn_id TEXT NOT NULL UNIQUE REFERENCES turns (turn_id) ON DELETE CASCADE,
        created_at TEXT NOT NULL,
        good INTEGER NOT NULL
    )""",
    # Answers of a larger arm to questions that were answered already; their joules are no turn's.
    """CREATE TABLE audits (
        id INTEGER PRIMARY KEY,
        audit_id TEXT NOT NULL UNIQUE,
        turn_id TEXT NOT NULL REFERENCES turns (turn_id) ON DELETE CASCADE,
        created_at TEXT NOT NULL,
        policy TEXT NOT NULL,
        arm TEXT NOT NULL,
        model TEXT NOT NULL,
        model_sha256 TEXT,
        audited_arm TEXT NOT NULL,
        audited_model TEXT NOT NULL,
        status TEXT NOT NULL,
        answer TEXT NOT NULL,
        agrees INTEGER,
        why TEXT NOT NULL,
        tokens_output INTEGER NOT NULL,
        seconds REAL NOT NULL,
        joules REAL,
        uncertainty REAL,
        kind TEXT,
        load_joules REAL
    )""",
    "CREATE INDEX audits_by_turn ON audits (turn_id)",
    "CREATE INDEX audits_by_time ON audits (created_at, joules, load_joules, kind)",
)

_STEPS: dict[str, tuple[str | Callable[[Database], None], ...]] = {
    "m001_create_log": _TABLES,
    "m002_full_text_search": _FULL_TEXT,
    "m003_indexes": _INDEXES,
    "m004_shared_gpu": _SHARED_GPU,
    "m005_probes": _PROBES,
    "m006_curve_settings": _CURVE_SETTINGS,
    "m007_unloads": _UNLOADS,
    "m008_hops": _HOPS,
    "m009_power_curve": _POWER_CURVE,
    "m010_hops_index": _HOPS_INDEX,
    "m011_speculation": _SPECULATION,
    "m012_keep_warm": _KEEP_WARM,
    "m013_loops": _LOOPS,
    "m014_sweeps": _SWEEPS,
    "m015_serving": _SERVING,
    "m016_branches": _BRANCHES,
    "m017_energy_index": _ENERGY_INDEX,
    "m018_grades_and_audits": _GRADES,
}

NAMES = tuple(_STEPS)
"""Every migration of this version, in order. A released migration never changes."""


def migrations() -> Migrations:
    """Build the migrations of :data:`NAMES` for sqlite-utils."""
    from sqlite_utils import Migrations

    history = Migrations(SET_NAME)
    for name, statements in _STEPS.items():
        history(name=name)(partial(_run, statements))
    return history


def _run(steps: tuple[str | Callable[[Database], None], ...], db: Database) -> None:
    for step in steps:
        if isinstance(step, str):
            db.execute(step)
        else:
            step(db)
