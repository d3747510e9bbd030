//! What would be fetched for an order, from where, how long that takes, and why it does not begin.

use std::sync::Arc;
use std::time::Duration;

use icbd_fetch::Urgency;
use icbd_image::VersionId;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;

use super::Orders;
use super::book::{Entry, Promise};
use super::fill::{Filler, Flying};
use super::line::Rate;
use super::order::{Order, OrderId, OrderState, OrderStatus};
use super::plan::Plan;
use crate::CacheError;

/// What is not known by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(4);

/// What an order means now.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub order: Order,
    pub versions: Vec<Leg>,
    /// The rate it is reckoned with, and of which source.
    pub rate: Rate,
    /// Of what is left, at most; by how blocks shrank so far.
    pub wire_bytes: u64,
    /// How long the rest takes, the window included; `None`: more than a year.
    pub takes: Option<SignedDuration>,
    /// When the window opens, for background fill outside of it.
    pub window_opens: Option<Timestamp>,
    /// Free bytes on the disk that are kept for what is read, if there are fewer now.
    pub no_room: Option<String>,
    /// The order as it stands, if it was given.
    pub status: Option<OrderStatus>,
}

/// One version of an explanation.
#[derive(Debug, Clone)]
pub struct Leg {
    pub version: VersionId,
    pub total_bytes: u64,
    /// Not held here.
    pub left_bytes: u64,
    /// Whether that is known to the byte; else it is less.
    pub is_exact: bool,
    pub note: Option<&'static str>,
}

impl Orders {
    /// An order that was given.
    pub(crate) async fn explain_order(&self, id: OrderId) -> Result<Explanation, CacheError> {
        let status = self.look(id, PATIENCE).await?;
        let explanation = self.explain(status.order.clone()).await?;
        Ok(Explanation { status: Some(self.status(id)?), ..explanation })
    }

    /// An order that could be given.
    pub(crate) async fn explain(&self, order: Order) -> Result<Explanation, CacheError> {
        let now = self.clock.now();
        let mut entry = Entry::new(order, OrderState::Active, Promise::new(now));
        entry.retarget(&self.core.view(), &self.core);
        let flying = Mutex::new(Flying::default());
        // Somebody waits for the answer.
        let filler = Filler { core: &self.core, urgency: Urgency::Readahead, toll: None, flying: &flying };
        // Together, not each: somebody waits for the answer.
        let looked = async {
            for leg in &mut entry.legs {
                let version = self.core.version_once(leg.serial).await?;
                version.prepare().await?;
                let plan = Arc::new(Plan::make(&entry.order.what, &version, &filler).await?);
                plan.see_to_files(&version).await?;
                leg.plan = Some(plan);
            }
            Ok::<_, CacheError>(())
        };
        match tokio::time::timeout(PATIENCE, looked).await {
            Ok(Err(error @ (CacheError::NoSuchFile { .. } | CacheError::Unusable { .. }))) => return Err(error),
            // What is known is told.
            Ok(_) | Err(_) => entry.look(&self.core),
        }
        let versions = entry.legs.iter().map(|leg| Leg {
            version: leg.id.clone(),
            total_bytes: leg.held.total_bytes,
            left_bytes: leg.held.total_bytes.saturating_sub(leg.held.resident_bytes),
            is_exact: leg.plan.is_some(),
            note: leg.plan.as_ref().and_then(|plan| plan.note()),
        });
        let (left, zone) = (entry.left_bytes(), &self.zone);
        let window = self.core.window.filter(|_| entry.order.is_background());
        let closed = window.filter(|window| !window.is_open(now, zone));
        Ok(Explanation {
            versions: versions.collect(),
            rate: self.line.rate(&self.core),
            wire_bytes: self.line.wire_bytes(left),
            takes: self.speed(&entry).time_for(left, now),
            window_opens: closed.and_then(|window| window.next_edge(now, zone)),
            no_room: super::room::check(&self.core).await.err().map(|error| error.to_string()),
            status: None,
            order: entry.order,
        })
    }
}
