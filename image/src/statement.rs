//! The statement a publisher signs: that a root *is* this version of this image of this repository.
//!
//! The image, the number and the repository are signed together with the root, so that a root
//! cannot be replayed as another image, another number or another site's version.

use std::fmt;
use std::str::FromStr;

use crate::block::serde_as_text;
use crate::manifest::Fields;
use crate::{KeyId, PublicKey, RepositoryId, Root, SecretKey, Serial, Timestamp, VersionId, VersionNumber};

/// What is said about one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub repository: RepositoryId,
    pub image: crate::ImageName,
    pub number: VersionNumber,
    pub serial: Serial,
    pub root: Root,
    /// The root of the version this one was made from, if any.
    pub parent: Option<Root>,
    /// When it was published.
    pub time: Timestamp,
}

/// A statement with the signatures its publisher put under it; possibly none.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedStatement {
    statement: Statement,
    signatures: Vec<(KeyId, [u8; 64])>,
}

/// Why a statement was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    #[error("the statement is damaged: {0}")]
    Damaged(&'static str),
    #[error("the statement has format {found}; this icbd reads format {ours}", ours = Statement::FORMAT)]
    Format { found: u32 },
    #[error("{version} carries a signature of {key} that does not match it")]
    Forged { version: VersionId, key: KeyId },
    #[error("{0} is not signed by a trusted key, and trust.require is set; trust its publisher with `icbd key trust`")]
    Untrusted(VersionId),
}

impl Statement {
    const MAGIC: &'static [u8; 8] = b"icbdstmt";
    const FORMAT: u32 = 1;

    pub fn version(&self) -> VersionId {
        VersionId { image: self.image.clone(), number: self.number }
    }

    /// The bytes that are signed.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        out.extend_from_slice(Statement::MAGIC);
        out.extend_from_slice(&Statement::FORMAT.to_le_bytes());
        out.extend_from_slice(&self.number.get().to_le_bytes());
        out.extend_from_slice(self.repository.as_bytes());
        out.extend_from_slice(&self.serial.get().to_le_bytes());
        out.extend_from_slice(self.root.as_bytes());
        // No real root is all zeros, so zeros stand for "no parent".
        out.extend_from_slice(self.parent.map_or([0; 32], |parent| *parent.as_bytes()).as_slice());
        out.extend_from_slice(&self.time.seconds.to_le_bytes());
        out.extend_from_slice(&self.time.nanoseconds.to_le_bytes());
        out.extend_from_slice(&(self.image.as_str().len() as u32).to_le_bytes());
        out.extend_from_slice(self.image.as_str().as_bytes());
        out
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Statement, StatementError> {
        let cut = StatementError::Damaged("it is cut short");
        if fields.take(8) != Some(Statement::MAGIC.as_slice()) {
            return Err(StatementError::Damaged("it does not begin as a statement does"));
        }
        let format = fields.u32().ok_or(cut.clone())?;
        if format != Statement::FORMAT {
            return Err(StatementError::Format { found: format });
        }
        let number = fields.u32().ok_or(cut.clone())?;
        let repository = fields.array::<16>().ok_or(cut.clone())?;
        let serial = fields.u64().ok_or(cut.clone())?;
        let root = fields.array::<32>().ok_or(cut.clone())?;
        let parent = fields.array::<32>().ok_or(cut.clone())?;
        let seconds = fields.u64().ok_or(cut.clone())? as i64;
        let nanoseconds = fields.u32().ok_or(cut.clone())?;
        let name_len = fields.u32().ok_or(cut.clone())?;
        let name = fields.take(name_len as usize).ok_or(cut)?;
        let name = str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        if nanoseconds >= 1_000_000_000 {
            return Err(StatementError::Damaged("its time is not one"));
        }
        Ok(Statement {
            repository: RepositoryId::from_bytes(repository),
            image: name.ok_or(StatementError::Damaged("its image name is not one"))?,
            number: VersionNumber::new(number).ok_or(StatementError::Damaged("its version number is 0"))?,
            serial: Serial::new(serial).ok_or(StatementError::Damaged("its serial is out of range"))?,
            root: Root::from_bytes(root),
            parent: (parent != [0; 32]).then(|| Root::from_bytes(parent)),
            time: Timestamp { seconds, nanoseconds },
        })
    }
}

impl SignedStatement {
    /// More signatures than anybody needs; a bound for decoding.
    const SIGNATURES_MAX: usize = 16;

    pub fn new(statement: Statement) -> SignedStatement {
        SignedStatement { statement, signatures: Vec::new() }
    }

    /// Adds `key`'s signature, in place of an earlier one of the same key.
    ///
    /// # Panics
    /// When 16 other keys have signed it already.
    pub fn sign(mut self, key: &SecretKey) -> SignedStatement {
        let id = key.public().id();
        self.signatures.retain(|(signer, _)| *signer != id);
        assert!(self.signatures.len() < SignedStatement::SIGNATURES_MAX, "too many signatures");
        self.signatures.push((id, key.sign(&self.statement.encode())));
        self
    }

    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The keys that signed it, by their own word; [`Trust::signer`] says which is to be believed.
    pub fn signers(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.signatures.iter().map(|(key, _)| *key)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.statement.encode();
        out.push(self.signatures.len() as u8);
        for (key, signature) in &self.signatures {
            out.extend_from_slice(&key.0);
            out.extend_from_slice(signature);
        }
        out
    }

    /// Reads a statement; its signatures are not checked yet.
    pub fn decode(bytes: &[u8]) -> Result<SignedStatement, StatementError> {
        let mut fields = Fields::new(bytes);
        let statement = Statement::decode(&mut fields)?;
        let cut = StatementError::Damaged("its signatures are cut short");
        let [count] = fields.array().ok_or(cut.clone())?;
        if usize::from(count) > SignedStatement::SIGNATURES_MAX {
            return Err(StatementError::Damaged("it has too many signatures"));
        }
        let mut signatures = Vec::new();
        for _ in 0..count {
            let key = KeyId(fields.array().ok_or(cut.clone())?);
            signatures.push((key, fields.array().ok_or(cut.clone())?));
        }
        if !fields.is_empty() {
            return Err(StatementError::Damaged("something follows it"));
        }
        Ok(SignedStatement { statement, signatures })
    }
}

impl fmt::Debug for SignedStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} signed by {:?}", self.statement, self.signers().collect::<Vec<_>>())
    }
}

/// As hexadecimal digits, for JSON.
impl fmt::Display for SignedStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encode().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for SignedStatement {
    type Err = StatementError;

    fn from_str(text: &str) -> Result<SignedStatement, StatementError> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let lower_case = |byte: u8| !byte.is_ascii_uppercase();
        let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| lower_case(byte)).map(|digit| digit as u8);
        let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        match bytes {
            Some(bytes) if rest.is_empty() => SignedStatement::decode(&bytes),
            _ => Err(StatementError::Damaged("it is not lower-case hexadecimal")),
        }
    }
}

serde_as_text!(SignedStatement);

/// Whose statements are believed.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    pub keys: Vec<PublicKey>,
    /// Refuse versions without a valid signature of one of `keys`.
    pub require: bool,
}

impl Trust {
    /// The trusted key that signed `signed`; `None` when none did and none has to.
    ///
    /// A signature in a trusted key's name that does not match is an error even when signatures are
    /// not required: somebody altered the statement.
    pub fn signer(&self, signed: &SignedStatement) -> Result<Option<&PublicKey>, StatementError> {
        let message = signed.statement.encode();
        let mut signer = None;
        for (id, signature) in &signed.signatures {
            let Some(key) = self.keys.iter().find(|key| key.id() == *id) else { continue };
            if !key.verifies(&message, signature) {
                return Err(StatementError::Forged { version: signed.statement.version(), key: *id });
            }
            signer = signer.or(Some(key));
        }
        if self.require && signer.is_none() {
            return Err(StatementError::Untrusted(signed.statement.version()));
        }
        Ok(signer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn statement() -> Statement {
        Statement {
            repository: RepositoryId::from_bytes([9; 16]),
            image: "win11-lab".parse().unwrap(),
            number: VersionNumber::new(7).unwrap(),
            serial: Serial::new(4711).unwrap(),
            root: Root::of(b"head"),
            parent: Some(Root::of(b"parent")),
            time: Timestamp { seconds: 1_790_000_000, nanoseconds: 5 },
        }
    }

    #[test]
    fn a_signature_does_not_fit_another_image_number_or_root() {
        let key = SecretKey::from_random([1; 32], "");
        let trust = Trust { keys: vec![key.public()], require: true };
        let signed = SignedStatement::new(statement()).sign(&key);
        assert_eq!(trust.signer(&signed).unwrap(), Some(&key.public()));
        let alterations: [fn(&mut Statement); 5] = [
            |s| s.image = "win10-lab".parse().unwrap(),
            |s| s.number = VersionNumber::FIRST,
            |s| s.root = Root::of(b"other"),
            |s| s.repository = RepositoryId::from_bytes([8; 16]),
            |s| s.parent = None,
        ];
        for alter in alterations {
            let mut forged = signed.clone();
            alter(&mut forged.statement);
            assert!(matches!(trust.signer(&forged), Err(StatementError::Forged { .. })));
        }
    }

    #[test]
    fn unsigned_and_foreign_statements_pass_only_where_signatures_are_not_required() {
        let (ours, theirs) = (SecretKey::from_random([1; 32], ""), SecretKey::from_random([2; 32], ""));
        for signed in [SignedStatement::new(statement()), SignedStatement::new(statement()).sign(&theirs)] {
            let mut trust = Trust { keys: vec![ours.public()], require: false };
            assert_eq!(trust.signer(&signed), Ok(None));
            trust.require = true;
            assert_eq!(trust.signer(&signed), Err(StatementError::Untrusted(statement().version())));
        }
    }

    #[test]
    fn text_round_trips_and_every_cut_is_noticed() {
        let signed = SignedStatement::new(statement()).sign(&SecretKey::from_random([1; 32], ""));
        assert_eq!(signed.to_string().parse::<SignedStatement>().unwrap(), signed);
        let bytes = signed.encode();
        for len in 0..bytes.len() {
            assert!(SignedStatement::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(SignedStatement::decode(&[bytes.as_slice(), b"x"].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>, at in 0usize..400, flip: u8) {
            let _ = SignedStatement::decode(&bytes);
            bytes = SignedStatement::new(statement()).sign(&SecretKey::from_random([1; 32], "")).encode();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(decoded) = SignedStatement::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }
    }
}
