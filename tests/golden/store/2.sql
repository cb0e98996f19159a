PRAGMA user_version=2;
BEGIN TRANSACTION;
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO "kept" VALUES('intent','{"target": "protected", "manual": {"choice": "protected", "network": "wlan0 x"}, "kill_switch": false, "lockdown": true, "profile": "office", "answers": []}');
INSERT INTO "kept" VALUES('settings','[["/etc/tunwarden/tunwarden.toml", "version = 1\n[wifi]\nsecured = \"prompt\"\n"]]');
CREATE TABLE known (ssid TEXT PRIMARY KEY, network TEXT NOT NULL) STRICT;
INSERT INTO "known" VALUES('486f6d65','{"ssid_hex": "486f6d65", "security": "wpa2", "action": "ignore"}');
COMMIT;
