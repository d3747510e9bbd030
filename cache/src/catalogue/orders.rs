//! Prefetch orders and measured rates as rows.

use std::num::NonZeroU64;

use icbd_image::{ImageRef, Serial, VersionNumber};
use jiff::Timestamp;
use rusqlite::{Row, Transaction, params};

use super::Catalogue;
use crate::CacheError;
use crate::prefetch::{Order, OrderId, OrderState, Priority, Promise, What, Zone};
use crate::version::Residency;

/// The tables, since format 2.
pub(super) const SCHEMA: &str = "
    CREATE TABLE orders (
        id INTEGER PRIMARY KEY AUTOINCREMENT, image TEXT NOT NULL, number INTEGER, what TEXT NOT NULL, path TEXT,
        deadline TEXT, zone TEXT NOT NULL, bytes_per_second INTEGER, priority TEXT NOT NULL, state TEXT NOT NULL,
        settled INTEGER NOT NULL, missed INTEGER, since INTEGER, newest INTEGER,
        total INTEGER NOT NULL DEFAULT 0, durable INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE rates (source TEXT PRIMARY KEY, bytes_per_second INTEGER NOT NULL);
";
/// From format 1: its jobs were for whole versions, at once.
pub(super) const FROM_JOBS: &str = "
    INSERT INTO orders (id, image, number, what, zone, priority, state, settled)
        SELECT jobs.id, versions.image, versions.number, 'all', 'UTC', 'normal',
            CASE WHEN jobs.state IN ('done', 'cancelled') THEN jobs.state ELSE 'active' END, unixepoch()
        FROM jobs JOIN versions ON versions.serial = jobs.serial;
    DROP TABLE jobs;
";
/// Orders that ended are listed until so many others were added.
const ENDED_KEPT: u32 = 100;

/// An order as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct OrderRow {
    pub(crate) id: OrderId,
    pub(crate) order: Order,
    pub(crate) state: OrderState,
    pub(crate) promise: Promise,
    /// What was here when it ended.
    pub(crate) last: Residency,
}

impl Catalogue {
    /// All orders; a row that makes no sense is left out.
    pub(crate) fn orders(&self) -> Result<Vec<OrderRow>, CacheError> {
        let db = self.lock();
        let mut query = db.prepare("SELECT * FROM orders ORDER BY id")?;
        let mut rows = query.query([])?;
        let mut orders = Vec::new();
        while let Some(row) = rows.next()? {
            match read(row)? {
                Some(order) => orders.push(order),
                None => {
                    tracing::warn!(id = row.get::<_, i64>("id")?, "a prefetch order in the catalogue makes no sense")
                }
            }
        }
        Ok(orders)
    }

    pub(crate) fn add_order(&self, order: &Order, promise: &Promise) -> Result<OrderId, CacheError> {
        let mut db = self.lock();
        let change = db.transaction()?;
        let ended = "state IN ('done', 'cancelled')";
        let kept = format!("SELECT id FROM orders WHERE {ended} ORDER BY id DESC LIMIT {ENDED_KEPT}");
        change.execute(&format!("DELETE FROM orders WHERE {ended} AND id NOT IN ({kept})"), [])?;
        change.execute(
            "INSERT INTO orders (image, what, zone, priority, state, settled) VALUES (?1, '', '', '', '', 0)",
            [order.of.image.as_str()],
        )?;
        let id = change.last_insert_rowid();
        let (order, promise) = (order.clone(), *promise);
        write(&change, &OrderRow { id, order, state: OrderState::Active, promise, last: Residency::default() })?;
        change.commit()?;
        Ok(id)
    }

    pub(crate) fn set_orders(&self, rows: &[OrderRow]) -> Result<(), CacheError> {
        let mut db = self.lock();
        let change = db.transaction()?;
        rows.iter().try_for_each(|row| write(&change, row))?;
        Ok(change.commit()?)
    }

    /// What the line to each source gave, in bytes of blocks a second.
    pub(crate) fn rates(&self) -> Result<Vec<(String, u64)>, CacheError> {
        let db = self.lock();
        let mut query = db.prepare("SELECT source, bytes_per_second FROM rates")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn set_rates(&self, rates: &[(String, u64)]) -> Result<(), CacheError> {
        let db = self.lock();
        let mut put = db.prepare("INSERT OR REPLACE INTO rates (source, bytes_per_second) VALUES (?1, ?2)")?;
        for (source, rate) in rates {
            put.execute(params![source, *rate as i64])?;
        }
        Ok(())
    }
}

fn write(change: &Transaction<'_>, row: &OrderRow) -> Result<(), CacheError> {
    let OrderRow { id, order, state, promise, last } = row;
    let (what, path) = match &order.what {
        What::Boot => ("boot", None),
        What::All => ("all", None),
        What::File(path) => ("file", Some(path)),
    };
    change.execute(
        "UPDATE orders SET image = ?2, number = ?3, what = ?4, path = ?5, deadline = ?6, zone = ?7, bytes_per_second = ?8,
            priority = ?9, state = ?10, settled = ?11, missed = ?12, since = ?13, newest = ?14, total = ?15, durable = ?16
         WHERE id = ?1",
        params![
            id,
            order.of.image.as_str(),
            order.of.number.map(VersionNumber::get),
            what,
            path,
            order.deadline.map(|deadline| deadline.to_string()),
            order.zone.name(),
            order.limit.map(|limit| limit.get() as i64),
            order.priority.as_text(),
            state.as_text(),
            promise.settled.as_second(),
            promise.missed.map(Timestamp::as_second),
            promise.since.map(Timestamp::as_second),
            promise.newest.map(|serial| serial.get() as i64),
            last.total_bytes as i64,
            last.durable_bytes as i64,
        ],
    )?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<Option<OrderRow>, rusqlite::Error> {
    let text = |name: &str| row.get::<_, String>(name);
    let time = |name: &str| {
        Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(name)?.and_then(|s| Timestamp::from_second(s).ok()))
    };
    let what = match (text("what")?.as_str(), row.get::<_, Option<String>>("path")?) {
        ("boot", _) => What::Boot,
        ("all", _) => What::All,
        ("file", Some(path)) => What::File(path),
        _ => return Ok(None),
    };
    let deadline = row.get::<_, Option<String>>("deadline")?.map(|deadline| deadline.parse()).transpose();
    let parsed = (text("image")?.parse(), deadline, Zone::named(&text("zone")?));
    let (Ok(image), Ok(deadline), Ok(zone)) = parsed else { return Ok(None) };
    let (priority, state) = (Priority::from_text(&text("priority")?), OrderState::from_text(&text("state")?));
    let (Some(priority), Some(state), Some(settled)) = (priority, state, time("settled")?) else { return Ok(None) };
    let number = row.get::<_, Option<u32>>("number")?.and_then(VersionNumber::new);
    let limit = row.get::<_, Option<i64>>("bytes_per_second")?.and_then(|limit| NonZeroU64::new(limit as u64));
    let newest = row.get::<_, Option<i64>>("newest")?.and_then(|serial| Serial::new(serial as u64));
    let (total, durable): (i64, i64) = (row.get("total")?, row.get("durable")?);
    let (total_bytes, durable_bytes) = (total as u64, durable as u64);
    Ok(Some(OrderRow {
        id: row.get("id")?,
        order: Order { of: ImageRef { image, number }, what, deadline, zone, limit, priority },
        state,
        promise: Promise { settled, missed: time("missed")?, since: time("since")?, newest },
        last: Residency { total_bytes, resident_bytes: durable_bytes, durable_bytes },
    }))
}
