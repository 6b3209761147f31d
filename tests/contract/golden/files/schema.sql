-- migration etui m018_grades_and_audits
-- migration etui m019_kv_caches
-- migration etui m020_turns_by_file
-- migration etui m021_tool_loops
-- migration etui m022_pictures
-- migration etui m023_newest_turns
-- migration etui m024_chat_routes
-- migration etui m025_rates
-- migration etui m026_wall_joules
CREATE INDEX audits_by_model ON audits (model, created_at, model_sha256);
CREATE INDEX audits_by_time ON audits (created_at, joules, load_joules, kind);
CREATE INDEX audits_by_turn ON audits (turn_id);
CREATE INDEX chats_by_time ON chats (created_at);
CREATE INDEX chats_by_use ON chats (coalesce(last_at, created_at));
CREATE INDEX curves_by_model ON curves (model, created_at);
CREATE INDEX grades_by_time ON grades (created_at);
-- idx__sqlite_migrations_migration_set_name
CREATE INDEX loads_by_model ON loads (model, created_at, model_sha256) WHERE joules IS NOT NULL;
CREATE INDEX loads_by_time ON loads (created_at);
CREATE INDEX loads_by_turn ON loads (turn_id);
CREATE INDEX runs_by_time ON runs (created_at);
-- sqlite_autoindex_answers_1
-- sqlite_autoindex_audits_1
-- sqlite_autoindex_chats_1
-- sqlite_autoindex_curves_1
-- sqlite_autoindex_grades_1
-- sqlite_autoindex_loads_1
-- sqlite_autoindex_runs_1
-- sqlite_autoindex_sweep_settings_1
-- sqlite_autoindex_sweeps_1
-- sqlite_autoindex_turns_1
-- sqlite_autoindex_unloads_1
CREATE INDEX sweeps_by_model ON sweeps (model, created_at);
CREATE INDEX turns_answered ON turns (model, model_sha256, created_at) WHERE status IN ('complete', 'truncated') AND hops = '[]' AND tokens_output > 0;
CREATE INDEX turns_as_points ON turns (model, model_sha256, created_at) WHERE speculation_method IS NULL AND reasoning <> 'vote' AND probes = '[]' AND hops = '[]' AND status IN ('complete', 'truncated') AND tokens_computed > 0 AND tokens_output > 0 AND energy_phases_prefill IS NOT NULL AND energy_phases_decode IS NOT NULL AND instr(energy_flags, '"load"') = 0 AND ( length(cache) = 2 OR CASE WHEN json_valid(cache) THEN json_extract(cache, '$.restore_seconds') <= 0.02 * seconds_prefill END);
CREATE INDEX turns_at_the_wall ON turns (created_at, energy_wall_joules, energy_wall_uncertainty) WHERE energy_wall_joules IS NOT NULL;
CREATE INDEX turns_by_chat ON turns (chat_id, created_at);
CREATE INDEX turns_by_file ON turns ( model, model_sha256, created_at, energy_joules, energy_uncertainty, energy_kind, tokens_output);
CREATE INDEX turns_by_joules ON turns (energy_joules);
CREATE INDEX turns_by_joules_per_token ON turns (energy_joules_per_token);
CREATE INDEX turns_by_key ON turns (client_key, created_at) WHERE client_key IS NOT NULL;
CREATE INDEX turns_by_parent ON turns (chat_id, parent_id, turn_id);
CREATE INDEX turns_by_policy ON turns (policy, created_at, rule);
CREATE INDEX turns_by_rule ON turns (rule, created_at);
CREATE INDEX turns_by_seconds ON turns (seconds_total);
CREATE INDEX turns_by_status ON turns (status, created_at);
CREATE INDEX turns_by_time ON turns (created_at);
CREATE INDEX turns_by_tokens ON turns (tokens_output);
CREATE INDEX turns_energy ON turns ( created_at, model, energy_joules, energy_kind, energy_peak_watts);
CREATE INDEX turns_history ON turns ( created_at, model, rule, status, policy, chat_id, energy_joules, energy_uncertainty, energy_kind, energy_joules_per_token, seconds_total, tokens_output);
CREATE INDEX turns_of_chats ON turns (created_at, model, seconds_load, seconds_total) WHERE chat_id IS NOT NULL;
CREATE INDEX turns_speculated ON turns (model, model_sha256, created_at) WHERE coalesce( CASE WHEN json_valid(settings) THEN json_extract(settings, '$.speculate') END, 'off') <> 'off' AND energy_phases_prefill IS NOT NULL AND energy_phases_decode IS NOT NULL;
CREATE INDEX turns_with_cache ON turns (created_at) WHERE cache <> '{}';
CREATE INDEX turns_with_cost ON turns (model, model_sha256, created_at) WHERE energy_phases_decode > 0 AND energy_phases_prefill IS NOT NULL AND tokens_output > 0 AND hops = '[]' AND speculation_method IS NULL AND reasoning <> 'vote' AND ( length(cache) = 2 OR CASE WHEN json_valid(cache) THEN json_extract(cache, '$.restore_seconds') <= 0.02 * seconds_prefill END);
CREATE INDEX turns_with_hops ON turns (created_at) WHERE hops <> '[]';
CREATE INDEX unloads_by_time ON unloads (created_at);
CREATE INDEX unloads_by_turn ON unloads (turn_id);
-- _sqlite_migrations
CREATE TABLE answers ( id INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE, arm TEXT NOT NULL, subject TEXT NOT NULL, row INTEGER NOT NULL, answer TEXT NOT NULL, choice TEXT, correct INTEGER NOT NULL, letter_mass REAL, status TEXT NOT NULL, tokens_computed INTEGER NOT NULL, tokens_cached INTEGER NOT NULL, tokens_thinking INTEGER NOT NULL, tokens_output INTEGER NOT NULL, joules REAL, uncertainty REAL, kind TEXT, seconds REAL NOT NULL, logprobs TEXT, UNIQUE (run_id, arm, subject, row));
CREATE TABLE audits ( id INTEGER PRIMARY KEY, audit_id TEXT NOT NULL UNIQUE, turn_id TEXT NOT NULL REFERENCES turns (turn_id) ON DELETE CASCADE, created_at TEXT NOT NULL, policy TEXT NOT NULL, arm TEXT NOT NULL, model TEXT NOT NULL, model_sha256 TEXT, audited_arm TEXT NOT NULL, audited_model TEXT NOT NULL, status TEXT NOT NULL, answer TEXT NOT NULL, agrees INTEGER, why TEXT NOT NULL, tokens_output INTEGER NOT NULL, seconds REAL NOT NULL, joules REAL, uncertainty REAL, kind TEXT, load_joules REAL);
CREATE TABLE chats ( id INTEGER PRIMARY KEY, chat_id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL, name TEXT NOT NULL, system TEXT, head TEXT, last_at TEXT, route_policy TEXT, route_model TEXT, route_arm TEXT);
CREATE TABLE curves ( id INTEGER PRIMARY KEY, curve_id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL, model TEXT NOT NULL, model_sha256 TEXT, machine TEXT NOT NULL, build TEXT NOT NULL, power_limit_watts REAL, kind TEXT, source TEXT NOT NULL, n INTEGER NOT NULL, r2_prefill REAL, r2_decode REAL, coefficients TEXT NOT NULL, residuals TEXT NOT NULL, settings TEXT NOT NULL DEFAULT '{}');
CREATE TABLE grades ( id INTEGER PRIMARY KEY, turn_id TEXT NOT NULL UNIQUE REFERENCES turns (turn_id) ON DELETE CASCADE, created_at TEXT NOT NULL, good INTEGER NOT NULL);
CREATE TABLE loads ( id INTEGER PRIMARY KEY, load_id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL, model TEXT NOT NULL, model_sha256 TEXT, turn_id TEXT, seconds REAL NOT NULL, joules REAL, uncertainty REAL, kind TEXT, gpu_layers INTEGER NOT NULL, size_bytes INTEGER NOT NULL);
CREATE TABLE rates ( start_s INTEGER PRIMARY KEY, price REAL, carbon REAL, currency TEXT NOT NULL);
CREATE TABLE runs ( id INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL, finished_at TEXT, status TEXT NOT NULL, folder TEXT NOT NULL, suite TEXT NOT NULL, format TEXT NOT NULL, shots INTEGER NOT NULL, seed INTEGER NOT NULL, data_sha256 TEXT, config_sha256 TEXT, questions INTEGER NOT NULL, correct INTEGER NOT NULL, joules REAL, uncertainty REAL, kind TEXT, seconds REAL NOT NULL, arms TEXT NOT NULL, config TEXT NOT NULL, summary TEXT NOT NULL);
CREATE TABLE sweep_settings ( id INTEGER PRIMARY KEY, sweep_id TEXT NOT NULL REFERENCES sweeps (sweep_id) ON DELETE CASCADE, setting TEXT NOT NULL, axes TEXT NOT NULL, stage TEXT NOT NULL, blocks INTEGER NOT NULL, joules REAL, joules_low REAL, joules_high REAL, seconds REAL, seconds_low REAL, seconds_high REAL, joules_percent REAL, joules_percent_low REAL, joules_percent_high REAL, joules_claimed INTEGER NOT NULL, seconds_percent REAL, seconds_percent_low REAL, seconds_percent_high REAL, seconds_claimed INTEGER NOT NULL, accuracy REAL, accuracy_low REAL, accuracy_high REAL, accuracy_points REAL, accuracy_points_low REAL, accuracy_points_high REAL, dropped_after INTEGER, reason TEXT NOT NULL, frontier INTEGER NOT NULL, UNIQUE (sweep_id, setting));
CREATE TABLE sweeps ( id INTEGER PRIMARY KEY, sweep_id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL, folder TEXT NOT NULL, model TEXT NOT NULL, model_sha256 TEXT, machine TEXT NOT NULL, goal TEXT NOT NULL, within_percent REAL, baseline TEXT NOT NULL, best TEXT, verdict TEXT NOT NULL, floor_joules_percent REAL, floor_seconds_percent REAL, blocks INTEGER NOT NULL, visits INTEGER NOT NULL, joules REAL, kind TEXT, seconds REAL NOT NULL, complete INTEGER NOT NULL);
CREATE TABLE turns ( id INTEGER PRIMARY KEY, turn_id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL, chat_id TEXT REFERENCES chats (chat_id) ON DELETE CASCADE, status TEXT NOT NULL, model TEXT NOT NULL, model_sha256 TEXT, arm TEXT NOT NULL, reasoning TEXT NOT NULL, policy TEXT, rule TEXT, tokens_prompt INTEGER NOT NULL, tokens_cached INTEGER NOT NULL, tokens_computed INTEGER NOT NULL, tokens_thinking INTEGER NOT NULL, tokens_output INTEGER NOT NULL, seconds_load REAL NOT NULL, seconds_prefill REAL NOT NULL, seconds_decode REAL NOT NULL, seconds_total REAL NOT NULL, seconds_ttft REAL, energy_joules REAL, energy_uncertainty REAL, energy_net_joules REAL, energy_idle_watts REAL, energy_kind TEXT, energy_coverage REAL NOT NULL, energy_mean_watts REAL, energy_peak_watts REAL, energy_joules_per_token REAL, energy_phases_load REAL, energy_phases_prefill REAL, energy_phases_decode REAL, energy_thinking_joules REAL, energy_start_ns INTEGER NOT NULL, energy_end_ns INTEGER NOT NULL, predicted_joules REAL, predicted_accuracy REAL, confidence REAL, energy_channels TEXT NOT NULL, energy_unmeasured TEXT NOT NULL, energy_flags TEXT NOT NULL, why TEXT NOT NULL, error TEXT, query TEXT NOT NULL, answer TEXT NOT NULL, thinking TEXT NOT NULL, system TEXT, votes TEXT NOT NULL, settings TEXT NOT NULL, trace TEXT NOT NULL, energy_shared INTEGER NOT NULL DEFAULT 0, energy_own_joules REAL, probes TEXT NOT NULL DEFAULT '[]', hops TEXT NOT NULL DEFAULT '[]', power_watts TEXT NOT NULL DEFAULT '[]', speculation_method TEXT, speculation_batches INTEGER, speculation_rows INTEGER, speculation_drafted INTEGER, speculation_accepted INTEGER, speculation_verify_seconds REAL, speculation_draft_seconds REAL, speculation_verify_joules REAL, speculation_verify_uncertainty REAL, speculation_draft_joules REAL, speculation_draft_uncertainty REAL, speculation_accepted_joules REAL, speculation_accepted_uncertainty REAL, speculation_waste_joules REAL, speculation_waste_uncertainty REAL, speculation_joules_per_accepted_token REAL, speculation_joules_per_accepted_token_uncertainty REAL, ended TEXT NOT NULL DEFAULT '', loop TEXT NOT NULL DEFAULT '{}', client_endpoint TEXT, client_key TEXT, client_request_id TEXT, client_queue_seconds REAL, tool_calls TEXT NOT NULL DEFAULT '', energy_attribution_method TEXT, energy_attribution_share REAL, energy_attribution_batch_joules REAL, energy_attribution_spread REAL, energy_attribution_batches INTEGER, energy_attribution_mean_requests REAL, parent_id TEXT, cache TEXT NOT NULL DEFAULT '{}', tools TEXT NOT NULL DEFAULT '{}', pictures TEXT NOT NULL DEFAULT '{}', energy_wall_joules REAL, energy_wall_uncertainty REAL, energy_wall_calibration TEXT, energy_wall_extrapolated INTEGER);
CREATE VIRTUAL TABLE turns_fts USING fts5 ( query, answer, content=turns, content_rowid=id, tokenize='unicode61 remove_diacritics 2', prefix='2 3');
-- turns_fts_config
-- turns_fts_data
-- turns_fts_docsize
-- turns_fts_idx
CREATE TABLE unloads ( id INTEGER PRIMARY KEY, unload_id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL, model TEXT NOT NULL, model_sha256 TEXT, turn_id TEXT, reason TEXT NOT NULL, seconds REAL NOT NULL, joules REAL, uncertainty REAL, kind TEXT, freed_bytes INTEGER NOT NULL, idle_before_watts REAL, idle_before_uncertainty REAL, idle_after_watts REAL, idle_after_uncertainty REAL, idle_cold_watts REAL, idle_cold_uncertainty REAL);
CREATE TRIGGER chats_used AFTER INSERT ON turns WHEN new.chat_id IS NOT NULL BEGIN UPDATE chats SET last_at = new.created_at WHERE chat_id = new.chat_id AND coalesce(last_at, '') < new.created_at; END;
CREATE TRIGGER turns_fts_delete AFTER DELETE ON turns BEGIN INSERT INTO turns_fts (turns_fts, rowid, query, answer) VALUES ('delete', old.id, old.query, old.answer); END;
CREATE TRIGGER turns_fts_insert AFTER INSERT ON turns BEGIN INSERT INTO turns_fts (rowid, query, answer) VALUES (new.id, new.query, new.answer); END;
CREATE TRIGGER turns_fts_update AFTER UPDATE OF query, answer ON turns BEGIN INSERT INTO turns_fts (turns_fts, rowid, query, answer) VALUES ('delete', old.id, old.query, old.answer); INSERT INTO turns_fts (rowid, query, answer) VALUES (new.id, new.query, new.answer); END;
