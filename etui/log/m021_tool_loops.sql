-- The tools that a turn called, and its tree of joules; an empty object where it called none.
ALTER TABLE turns ADD COLUMN tools TEXT NOT NULL DEFAULT '{}';
