//! A profile as bytes. FORMAT.md, "Boot profile", has the table.

use super::{Observation, Origin, Profile, SiteId, Touch};
use crate::block::BLOCKS_MAX;
use crate::{FileIndex, Root};

const MAGIC: &[u8; 8] = b"icbdprof";
const FORMAT: u32 = 1;
/// Magic, format, number of observations, root.
const HEADER_BYTES: usize = 48;
/// Site, start, origin, runs, bytes of the runs.
const OBSERVATION_BYTES: usize = 36;
const CHECKSUM_BYTES: usize = 32;

/// Why bytes are no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("this is not a boot profile")]
    Magic,
    #[error("the boot profile has format {0}; this icbd reads format {FORMAT}")]
    Format(u32),
    #[error("the boot profile has {0} bytes, more than 4 MiB")]
    Large(usize),
    #[error("the boot profile is of root {found} instead of {expected}")]
    OtherRoot { expected: Root, found: Root },
    #[error("the boot profile is damaged: {0}")]
    Damaged(&'static str),
}

impl ProfileError {
    /// The same bytes will never be a profile.
    pub fn is_permanent(&self) -> bool {
        true
    }
}

impl Profile {
    /// Writes it; at most [`Profile::BYTES_MAX`] bytes. Equal profiles are equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&(self.observations.len() as u32).to_le_bytes());
        out.extend_from_slice(self.root.as_bytes());
        for observation in self.observations() {
            let (mut runs, mut encoder) = (Vec::new(), TouchEncoder::default());
            for touch in observation.touches() {
                encoder.encode(touch, &mut runs);
            }
            out.extend_from_slice(observation.site().as_bytes());
            out.extend_from_slice(&observation.started().to_le_bytes());
            out.extend_from_slice(&u32::from(observation.origin() == Origin::Carried).to_le_bytes());
            out.extend_from_slice(&(observation.touches().len() as u32).to_le_bytes());
            out.extend_from_slice(&(runs.len() as u32).to_le_bytes());
            out.extend_from_slice(&runs);
        }
        out.extend_from_slice(blake3::hash(&out).as_bytes());
        out
    }

    /// Checks `bytes` and takes them as a profile.
    pub fn decode(bytes: &[u8]) -> Result<Profile, ProfileError> {
        if bytes.len() > Profile::BYTES_MAX {
            return Err(ProfileError::Large(bytes.len()));
        }
        if !bytes.starts_with(MAGIC) {
            return Err(ProfileError::Magic);
        }
        let damaged = ProfileError::Damaged;
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(damaged("it is cut"))?;
        let (header, mut rest) = body.split_first_chunk::<HEADER_BYTES>().ok_or(damaged("it is cut"))?;
        let mut header = &header[MAGIC.len()..];
        let format = u32::from_le_bytes(take(&mut header)?);
        if format != FORMAT {
            return Err(ProfileError::Format(format));
        }
        if blake3::hash(body).as_bytes() != checksum {
            return Err(damaged("its checksum is wrong"));
        }
        let count = u32::from_le_bytes(take(&mut header)?);
        let mut profile = Profile::new(Root::from_bytes(take(&mut header)?));
        if count as usize > Profile::OBSERVATIONS_MAX {
            return Err(damaged("it has too many observations"));
        }
        for _ in 0..count {
            let observation = decode_observation(&mut rest)?;
            let key = (observation.started(), observation.site());
            if profile.observations.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(damaged("its observations are not in order"));
            }
            profile.observations.insert(key, observation);
        }
        if rest.is_empty() { Ok(profile) } else { Err(damaged("bytes follow it")) }
    }

    /// Like [`Profile::decode`], for bytes that claim to be the profile of this root.
    pub fn decode_expecting(bytes: &[u8], root: Root) -> Result<Profile, ProfileError> {
        let profile = Profile::decode(bytes)?;
        if profile.root == root {
            Ok(profile)
        } else {
            Err(ProfileError::OtherRoot { expected: root, found: profile.root })
        }
    }
}

fn decode_observation(rest: &mut &[u8]) -> Result<Observation, ProfileError> {
    let header: [u8; OBSERVATION_BYTES] = take(rest)?;
    let mut fields = header.as_slice();
    let site = SiteId::from_bytes(take(&mut fields)?);
    let started = u64::from_le_bytes(take(&mut fields)?);
    let origin = match u32::from_le_bytes(take(&mut fields)?) {
        0 => Origin::Own,
        1 => Origin::Carried,
        _ => return Err(ProfileError::Damaged("an observation is of no known origin")),
    };
    let runs = u32::from_le_bytes(take(&mut fields)?) as usize;
    let bytes = u32::from_le_bytes(take(&mut fields)?) as usize;
    if runs > Observation::RUNS_MAX || bytes > Observation::BYTES_MAX || bytes > rest.len() {
        return Err(ProfileError::Damaged("an observation is too long"));
    }
    let (mut encoded, after) = rest.split_at(bytes);
    *rest = after;
    let mut decoder = TouchEncoder::default();
    let touches = (0..runs).map(|_| decoder.decode(&mut encoded)).collect::<Result<Vec<_>, _>>()?;
    if !encoded.is_empty() {
        return Err(ProfileError::Damaged("bytes follow an observation's runs"));
    }
    let observation = Observation::new(site, started, origin, touches.iter().copied());
    if observation.touches() != touches {
        return Err(ProfileError::Damaged("an observation has a block twice"));
    }
    Ok(observation)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], ProfileError> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(ProfileError::Damaged("it is cut"))?;
    *bytes = rest;
    Ok(*taken)
}

/// Writes touches as differences to the one before, in four numbers of 7 bits a byte: time, file, first block, count.
#[derive(Debug, Default)]
pub(super) struct TouchEncoder {
    after_ms: u32,
    file: u32,
    /// The block after the last touch's.
    end: u64,
}

impl TouchEncoder {
    /// Appends a touch, which is not before the last one; the bytes written.
    pub(super) fn encode(&mut self, touch: &Touch, out: &mut Vec<u8>) -> usize {
        let before = out.len();
        push(out, u64::from(touch.after_ms - self.after_ms));
        push(out, zigzag(i64::from(touch.file.get()) - i64::from(self.file)));
        push(out, zigzag(touch.first as i64 - self.end as i64));
        push(out, u64::from(touch.count));
        *self = TouchEncoder { after_ms: touch.after_ms, file: touch.file.get(), end: touch.end() };
        out.len() - before
    }

    fn decode(&mut self, bytes: &mut &[u8]) -> Result<Touch, ProfileError> {
        let damaged = || ProfileError::Damaged("a run is out of range");
        let later = u32::try_from(pull(bytes)?).map_err(|_| damaged())?;
        let after_ms = self.after_ms.checked_add(later).ok_or_else(damaged)?;
        let file = unzigzag(pull(bytes)?).checked_add(i64::from(self.file)).ok_or_else(damaged)?;
        let file = u32::try_from(file).ok().and_then(FileIndex::new).ok_or_else(damaged)?;
        let first = unzigzag(pull(bytes)?).checked_add_unsigned(self.end).ok_or_else(damaged)?;
        let first = u64::try_from(first).ok().filter(|first| *first < BLOCKS_MAX).ok_or_else(damaged)?;
        let count = u32::try_from(pull(bytes)?).ok().filter(|count| *count > 0).ok_or_else(damaged)?;
        let touch = Touch { after_ms, file, first, count };
        if touch.end() > BLOCKS_MAX {
            return Err(damaged());
        }
        *self = TouchEncoder { after_ms, file: file.get(), end: touch.end() };
        Ok(touch)
    }
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

fn push(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A number of at most 56 bits, which all fields fit in, in its shortest form.
fn pull(bytes: &mut &[u8]) -> Result<u64, ProfileError> {
    let mut number = 0;
    for shift in (0..56).step_by(7) {
        let [byte] = take(bytes)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let shortest = byte != 0 || shift == 0;
            return if shortest { Ok(number) } else { Err(ProfileError::Damaged("a number is padded")) };
        }
    }
    Err(ProfileError::Damaged("a number is too long"))
}
