//! Nodes and the versions they use, as rows.

use std::collections::BTreeMap;

use icbd_image::{NodeUuid, Serial, Timestamp};
use rusqlite::params;

use super::{Catalogue, invalid};
use crate::MasterError;
use crate::users::NodeRecord;

impl Catalogue {
    pub(crate) fn nodes(&self) -> Result<BTreeMap<NodeUuid, NodeRecord>, MasterError> {
        let read = || {
            let mut nodes = BTreeMap::new();
            let mut query = self.db.prepare_cached("SELECT id, name, address, seen_seconds FROM nodes")?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let id = NodeUuid::from_bytes(row.get(0)?);
                let seen = Timestamp { seconds: row.get(3)?, nanoseconds: 0 };
                let (name, address) = (row.get(1)?, row.get(2)?);
                nodes.insert(id, NodeRecord { id, name, address, seen, uses: BTreeMap::new() });
            }
            let mut query = self.db.prepare_cached("SELECT node, serial, clients FROM leases")?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let serial = Serial::try_from(row.get::<_, i64>(1)? as u64).map_err(|error| invalid(1, error))?;
                if let Some(node) = nodes.get_mut(&NodeUuid::from_bytes(row.get(0)?)) {
                    node.uses.insert(serial, row.get(2)?);
                }
            }
            Ok(nodes)
        };
        read().map_err(|source| self.failed(source))
    }

    /// Writes a node and what it uses.
    pub(crate) fn put_node(&mut self, node: &NodeRecord) -> Result<(), MasterError> {
        let id = node.id.as_bytes().as_slice();
        self.change(|tx| {
            tx.execute(
                "INSERT INTO nodes (id, name, address, seen_seconds) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET name = ?2, address = ?3, seen_seconds = ?4",
                params![id, node.name, node.address, node.seen.seconds],
            )?;
            tx.execute("DELETE FROM leases WHERE node = ?1", [id])?;
            for (serial, clients) in &node.uses {
                let row = params![id, serial.get() as i64, clients];
                tx.execute("INSERT INTO leases (node, serial, clients) VALUES (?1, ?2, ?3)", row)?;
            }
            Ok(())
        })
    }

    pub(crate) fn remove_node(&mut self, id: NodeUuid) -> Result<(), MasterError> {
        self.change(|tx| tx.execute("DELETE FROM nodes WHERE id = ?1", [id.as_bytes().as_slice()]).map(|_| ()))
    }
}
