-- Each of these finds the newest turns of one kind, so that a decision reads as much in a long log
-- as in a short one. The conditions are those of the statements that name the index; damaged JSON
-- must not end the migration.
CREATE INDEX turns_answered ON turns (model, model_sha256, created_at)
WHERE status IN ('complete', 'truncated') AND hops = '[]' AND tokens_output > 0;

CREATE INDEX turns_as_points ON turns (model, model_sha256, created_at)
WHERE speculation_method IS NULL AND reasoning <> 'vote' AND probes = '[]' AND hops = '[]'
    AND status IN ('complete', 'truncated') AND tokens_computed > 0 AND tokens_output > 0
    AND energy_phases_prefill IS NOT NULL AND energy_phases_decode IS NOT NULL
    AND instr(energy_flags, '"load"') = 0
    AND (
        length(cache) = 2 OR CASE WHEN json_valid(cache)
            THEN json_extract(cache, '$.restore_seconds') <= 0.02 * seconds_prefill END
    );

CREATE INDEX turns_speculated ON turns (model, model_sha256, created_at)
WHERE coalesce(
        CASE WHEN json_valid(settings) THEN json_extract(settings, '$.speculate') END, 'off'
    ) <> 'off'
    AND energy_phases_prefill IS NOT NULL AND energy_phases_decode IS NOT NULL;

CREATE INDEX turns_with_cost ON turns (model, model_sha256, created_at)
WHERE energy_phases_decode > 0 AND energy_phases_prefill IS NOT NULL AND tokens_output > 0
    AND hops = '[]' AND speculation_method IS NULL AND reasoning <> 'vote'
    AND (
        length(cache) = 2 OR CASE WHEN json_valid(cache)
            THEN json_extract(cache, '$.restore_seconds') <= 0.02 * seconds_prefill END
    );

CREATE INDEX turns_by_policy ON turns (policy, created_at, rule);

CREATE INDEX turns_of_chats ON turns (created_at, model, seconds_load, seconds_total)
WHERE chat_id IS NOT NULL;

CREATE INDEX loads_by_model ON loads (model, created_at, model_sha256) WHERE joules IS NOT NULL;

CREATE INDEX grades_by_time ON grades (created_at);

CREATE INDEX audits_by_model ON audits (model, created_at, model_sha256);

-- When a chat was last used, so that the newest are listed without a look at the turns of all.
ALTER TABLE chats ADD COLUMN last_at TEXT;

UPDATE chats SET last_at = (
    SELECT max(created_at) FROM turns WHERE turns.chat_id = chats.chat_id
);

CREATE INDEX chats_by_use ON chats (coalesce(last_at, created_at));

CREATE TRIGGER chats_used AFTER INSERT ON turns WHEN new.chat_id IS NOT NULL BEGIN
    UPDATE chats SET last_at = new.created_at
    WHERE chat_id = new.chat_id AND coalesce(last_at, '') < new.created_at;
END;

-- Curves that were fitted to the log follow from it, and only the newest are used.
DELETE FROM curves WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (
            PARTITION BY model, model_sha256 ORDER BY created_at DESC, id DESC
        ) AS place FROM curves WHERE source = 'log'
    ) WHERE place > 20
);
