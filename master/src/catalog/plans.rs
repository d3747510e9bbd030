//! Deployments that are to be made at a time to come: one an image at most.

use icbd_image::{ImageName, Move, Timestamp, VersionId, VersionNumber};
use icbd_wire::Readiness;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Catalogue, invalid, states};
use crate::MasterError;

/// A version that is to be deployed at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub version: VersionId,
    /// To the second.
    pub at: Timestamp,
    /// Who asked for it, and why.
    pub by: String,
    pub why: String,
    /// Why it was not deployed when its time had come; it is not tried again.
    pub failed: Option<String>,
    /// Not before every node has so much of it.
    pub needs: Option<Readiness>,
}

const COLUMNS: &str = "SELECT image, number, at_seconds, who, why, failed, needs FROM plans";

impl Catalogue {
    /// All plans, the next one first.
    pub(crate) fn plans(&self) -> Result<Vec<Plan>, MasterError> {
        let read = || {
            let mut query = self.db.prepare_cached(&format!("{COLUMNS} ORDER BY at_seconds, image"))?;
            query.query_map([], plan)?.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// Plans a deployment in place of the one that was planned for the image, which is returned. What could not be
    /// deployed now is refused.
    pub(crate) fn plan(&mut self, new: &Plan) -> Result<Option<Plan>, MasterError> {
        let image = &new.version.image;
        let mut outcome = Err(MasterError::NoImage(image.clone()));
        self.change(|tx| {
            let Some(life) = states::read(tx, image)? else { return Ok(()) };
            outcome = match life.after(&Move::Deploy(new.version.number)) {
                Err(refusal) => Err(refusal.into()),
                Ok(after) if after == life => Err(MasterError::DeployedAlready(new.version.clone())),
                Ok(_) => {
                    let before = planned(tx, image)?;
                    put(tx, new)?;
                    Ok(before)
                }
            };
            Ok(())
        })?;
        outcome
    }

    /// Forgets the plan to deploy a version, and returns it; `None` if there is none.
    pub(crate) fn cancel_plan(&mut self, version: &VersionId) -> Result<Option<Plan>, MasterError> {
        let mut cancelled = None;
        self.change(|tx| {
            cancelled = planned(tx, &version.image)?.filter(|plan| plan.version == *version);
            forget(tx, version)
        })?;
        Ok(cancelled)
    }

    /// Remembers why a planned deployment was not made.
    pub(crate) fn plan_failed(&mut self, version: &VersionId, why: &str) -> Result<(), MasterError> {
        let sql = "UPDATE plans SET failed = ?3 WHERE image = ?1 AND number = ?2";
        self.change(|tx| tx.execute(sql, params![version.image.as_str(), version.number.get(), why]).map(|_| ()))
    }
}

/// What was to become deployed and is: no plan any more.
pub(super) fn forget(tx: &Transaction<'_>, version: &VersionId) -> rusqlite::Result<()> {
    let sql = "DELETE FROM plans WHERE image = ?1 AND number = ?2";
    tx.execute(sql, params![version.image.as_str(), version.number.get()]).map(|_| ())
}

fn planned(tx: &Transaction<'_>, image: &ImageName) -> rusqlite::Result<Option<Plan>> {
    tx.query_row(&format!("{COLUMNS} WHERE image = ?1"), [image.as_str()], plan).optional()
}

fn put(tx: &Transaction<'_>, new: &Plan) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO plans (image, number, at_seconds, who, why, failed, needs) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let (image, number) = (new.version.image.as_str(), new.version.number.get());
    let needs = new.needs.map(Readiness::as_str);
    tx.execute(sql, params![image, number, new.at.seconds, new.by, new.why, new.failed, needs]).map(|_| ())
}

fn plan(row: &Row<'_>) -> rusqlite::Result<Plan> {
    let image: String = row.get(0)?;
    let needs: Option<String> = row.get(6)?;
    let number = VersionNumber::new(row.get(1)?).ok_or_else(|| invalid(1, "a version has the number 0"))?;
    Ok(Plan {
        version: VersionId { image: image.parse().map_err(|error| invalid(0, error))?, number },
        at: Timestamp { seconds: row.get(2)?, nanoseconds: 0 },
        by: row.get(3)?,
        why: row.get(4)?,
        failed: row.get(5)?,
        needs: needs.map(|needs| needs.parse().map_err(|error| invalid(6, error))).transpose()?,
    })
}
