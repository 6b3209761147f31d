-- Price and carbon of a kilowatt-hour as they were known while something was spent: a row for each
-- quarter hour (start in seconds since 1970, UTC). A tariff that changes later changes no row.
CREATE TABLE rates (
    start_s INTEGER PRIMARY KEY,
    price REAL,
    carbon REAL,
    currency TEXT NOT NULL
);
