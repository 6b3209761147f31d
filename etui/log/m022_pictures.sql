-- The encoding of a turn's pictures; an empty object where none was encoded.
ALTER TABLE turns ADD COLUMN pictures TEXT NOT NULL DEFAULT '{}';
