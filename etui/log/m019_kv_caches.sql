-- What a turn reused of earlier prompts; an empty object where all of the prompt was computed.
ALTER TABLE turns ADD COLUMN cache TEXT NOT NULL DEFAULT '{}';

-- For the sums of `etui stats`, without reading every turn.
CREATE INDEX turns_with_cache ON turns (created_at) WHERE cache <> '{}';
