-- A database as the first, Rust server made it with sqlx.
CREATE TABLE _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
INSERT INTO _sqlx_migrations VALUES
    (20240930000000, 'create account updates', '2024-09-30 12:00:00', 1, x'00ff', 1200000);

CREATE TABLE account_updates (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pubkey TEXT NOT NULL,
    slot INTEGER NOT NULL,
    account_type TEXT NOT NULL,
    owner TEXT NOT NULL,
    lamports INTEGER NOT NULL,
    data_json TEXT NOT NULL,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_account_updates_pubkey ON account_updates(pubkey);
CREATE INDEX idx_account_updates_slot ON account_updates(slot);
CREATE INDEX idx_account_updates_account_type ON account_updates(account_type);
CREATE INDEX idx_created_at ON account_updates(created_at DESC);

INSERT INTO account_updates (pubkey, slot, account_type, owner, lamports, data_json, created_at) VALUES
    ('HLnpSz9h2S4hiLQ43rnSD9XkcUThA7B8hQMKmDaiTLcC', 370000001, 'Pool', 'cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG',
     8630400, '{"Pool":{"liquidity":1}}', '2024-09-30 12:00:00'),
    ('HLnpSz9h2S4hiLQ43rnSD9XkcUThA7B8hQMKmDaiTLcC', 370000002, 'Pool', 'cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG',
     8630400, '{"Pool":{"liquidity":2}}', '2024-09-30 12:00:01'),
    ('4QhNxzg7bjqzSgkzMzGBvdZSvYpZZBpMKfYfSZJqWcBM', 370000003, 'Position', 'cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG',
     3730560, '{"Position":{}}', '2024-09-30 12:00:02');
DELETE FROM account_updates WHERE id = 3;
