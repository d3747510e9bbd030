//! Reports for tests.

use super::Report;

/// A cache that has a bad day.
pub(crate) fn cache() -> Report {
    serde_json::from_str(CACHE).unwrap()
}

/// A master that has a good one.
pub(crate) fn master() -> Report {
    serde_json::from_str(MASTER).unwrap()
}

const CACHE: &str = r#"{
    "role": "cache",
    "name": "cache-204", "icbd": "0", "pid": 1, "uptime_seconds": 1036800,
    "repository": null, "listen": [], "fetched_bytes": 0, "reused_bytes": 0, "in_flight_bytes": 0,
    "sources": [{"url": "http://img:7070", "online": false, "since_seconds": 540, "error": "connection refused",
        "bytes_received": 0, "requests": 3, "in_flight": 0}],
    "store": {"path": "/s", "file_system": "btrfs", "used_bytes": 335007449088, "size_bytes": 429496729600,
        "state": "full", "reason": "no space left"},
    "mount": {"path": "/icbd", "mounted": true, "adopted": false, "passthrough": true,
        "waiting_requests": 0, "cached_handles": 2, "passthrough_handles": 0},
    "versions": [
        {"version": "debian-lab@3", "state": "deployed", "blocks": 100, "resident_blocks": 61, "durable_blocks": 60,
            "bytes": 6553600, "resident_bytes": 3997696, "durable_bytes": 3932160, "complete": false,
            "complete_since": null, "sealed_since": null, "filling": true, "fallback": false, "open_handles": 3,
            "fetched_today_bytes": 222298112},
        {"version": "debian-lab@2", "state": "ready", "blocks": 100, "resident_blocks": 100, "durable_blocks": 100,
            "bytes": 6553600, "resident_bytes": 6553600, "durable_bytes": 6553600, "complete": true,
            "complete_since": 1790000000, "sealed_since": null, "filling": false, "fallback": true, "open_handles": 0,
            "fetched_today_bytes": 0},
        {"version": "debian-lab@1", "state": "ready", "blocks": 100, "resident_blocks": 0, "durable_blocks": 0,
            "bytes": 6553600, "resident_bytes": 0, "durable_bytes": 0, "complete": false,
            "complete_since": null, "sealed_since": null, "filling": false, "fallback": false, "open_handles": 0,
            "fetched_today_bytes": 0}],
    "waiting": [{"version": "debian-lab@3", "file": "disk.raw", "block": 17, "seconds": 12,
        "reason": "connection refused"}],
    "warnings": ["debian-lab@1 is gone from the master; it is kept"]
}"#;

const MASTER: &str = r#"{
    "role": "master", "name": "img", "icbd": "0", "pid": 1, "uptime_seconds": 1036800,
    "repository": "00112233-4455-4677-8899-aabbccddeeff", "path": "/r", "listen": ["127.0.0.1:7070"],
    "images": 2, "versions": 5, "operations": [], "sent": {"requests": 3, "blocks": 1, "bytes": 7}, "warnings": []
}"#;
