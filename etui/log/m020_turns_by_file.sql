-- Covers the sums of each file of a model, so that none reads the wide rows. It finds the turns of
-- a model and of its file in the order of time, as the index before it did those of a model.
CREATE INDEX turns_by_file ON turns (
    model, model_sha256, created_at, energy_joules, energy_uncertainty, energy_kind, tokens_output
);

DROP INDEX turns_by_model;
