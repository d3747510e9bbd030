//! The identity of an icbd that takes versions from a master.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::block::serde_as_text;

/// The identity of a node, made once and kept in its store: it survives restarts, and another name or address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeUuid(Uuid);

impl NodeUuid {
    /// An id from 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> NodeUuid {
        NodeUuid(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    pub fn from_bytes(bytes: [u8; 16]) -> NodeUuid {
        NodeUuid(Uuid::from_bytes(bytes))
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for NodeUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeUuid {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<NodeUuid, uuid::Error> {
        text.parse().map(NodeUuid)
    }
}

serde_as_text!(NodeUuid);
