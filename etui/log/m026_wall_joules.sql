-- Joules at the wall that a calibration predicted when the turn ended, with its id; NULL without one.
ALTER TABLE turns ADD COLUMN energy_wall_joules REAL;
ALTER TABLE turns ADD COLUMN energy_wall_uncertainty REAL;
ALTER TABLE turns ADD COLUMN energy_wall_calibration TEXT;
ALTER TABLE turns ADD COLUMN energy_wall_extrapolated INTEGER;
CREATE INDEX turns_at_the_wall
    ON turns (created_at, energy_wall_joules, energy_wall_uncertainty)
    WHERE energy_wall_joules IS NOT NULL;
