//! Ed25519 keys: a publisher's secret key and the public keys that a cache trusts, as text.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::Hash;

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not an icbd {expected} key: expected one line \"{prefix} HEX [COMMENT]\"")]
    Text { expected: &'static str, prefix: &'static str },
    #[error("this public key is weak or not a point on the curve; create a new one with `icbd key create`")]
    Point,
}

/// The first 8 bytes of the BLAKE3 of a public key: how people and statements name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A key that signs statements. Its text form is a secret.
pub struct SecretKey {
    key: SigningKey,
    comment: String,
}

/// A key that checks statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    comment: String,
}

const SECRET_PREFIX: &str = "icbd-secret-ed25519";
const PUBLIC_PREFIX: &str = "icbd-ed25519";

impl SecretKey {
    /// A key from 32 random bytes.
    pub fn from_random(seed: [u8; 32], comment: &str) -> SecretKey {
        SecretKey { key: SigningKey::from_bytes(&seed), comment: one_line(comment) }
    }

    pub fn public(&self) -> PublicKey {
        PublicKey { key: self.key.verifying_key(), comment: self.comment.clone() }
    }

    /// The line to keep secret; [`str::parse`] reads it back.
    pub fn to_secret_text(&self) -> String {
        line(SECRET_PREFIX, self.key.to_bytes(), &self.comment)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public().id())
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<SecretKey, KeyError> {
        let refuse = KeyError::Text { expected: "secret", prefix: SECRET_PREFIX };
        let (bytes, comment) = parse_line(text, SECRET_PREFIX).ok_or(refuse)?;
        Ok(SecretKey::from_random(bytes, &comment))
    }
}

impl PublicKey {
    pub fn id(&self) -> KeyId {
        let hash = blake3::hash(self.key.as_bytes());
        KeyId(std::array::from_fn(|i| hash.as_bytes()[i]))
    }

    /// What the key's maker wrote behind it.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        let refuse = KeyError::Text { expected: "public", prefix: PUBLIC_PREFIX };
        let (bytes, comment) = parse_line(text, PUBLIC_PREFIX).ok_or(refuse)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Point)?;
        if key.is_weak() {
            return Err(KeyError::Point);
        }
        Ok(PublicKey { key, comment })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line(PUBLIC_PREFIX, self.key.to_bytes(), &self.comment))
    }
}

fn one_line(comment: &str) -> String {
    comment.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line(prefix: &str, bytes: [u8; 32], comment: &str) -> String {
    // A hash's text form is just what is needed: 64 hexadecimal digits.
    format!("{prefix} {} {comment}", Hash::from_bytes(bytes)).trim_end().to_owned()
}

fn parse_line(text: &str, prefix: &str) -> Option<([u8; 32], String)> {
    let rest = text.trim().strip_prefix(prefix)?.strip_prefix(' ')?;
    if rest.contains('\n') {
        return None;
    }
    let (hex, comment) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((*hex.parse::<Hash>().ok()?.as_bytes(), one_line(comment)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_as_text() {
        let secret = SecretKey::from_random([7; 32], " alice  at img ");
        let again: SecretKey = secret.to_secret_text().parse().unwrap();
        assert_eq!(again.public(), secret.public());
        let public: PublicKey = format!("{}\n", secret.public()).parse().unwrap();
        assert_eq!((public.id(), public.comment()), (secret.public().id(), "alice at img"));
        assert!(!format!("{secret:?}").contains("0707"), "a secret key must not be printed");
    }

    #[test]
    fn other_text_is_refused() {
        let public = SecretKey::from_random([7; 32], "").public().to_string();
        assert!(public.parse::<SecretKey>().is_err(), "a public key is no secret key");
        for text in ["", "icbd-ed25519", "icbd-ed25519 12", &public[1..], &format!("{public}\nx")] {
            assert!(text.parse::<PublicKey>().is_err(), "{text:?}");
        }
        let weak = format!("icbd-ed25519 {}", Hash::ZERO);
        assert_eq!(weak.parse::<PublicKey>().unwrap_err(), KeyError::Point);
    }
}
