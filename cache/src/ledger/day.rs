//! Days as the people of this machine count them: from midnight to midnight where it stands.
//!
//! JUSTIFICATION for unsafe: `localtime_r` knows the time zone's rules, and has no safe binding.
#![allow(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc;

const SECONDS: i64 = 86_400;

/// A day, counted from 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Day(i64);

impl Day {
    pub(crate) fn today() -> Day {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        Day((now + east_seconds(now)).div_euclid(SECONDS))
    }

    pub(crate) fn from_number(number: i64) -> Day {
        Day(number)
    }

    pub(crate) fn number(self) -> i64 {
        self.0
    }
}

/// How far clocks here are ahead of UTC at `time`; 0 where nobody knows.
fn east_seconds(time: i64) -> i64 {
    // SAFETY: all zeros is a `tm`, its text pointer included.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to values of this frame, which outlive the call.
    let found = unsafe { libc::localtime_r(&time, &mut local) };
    if found.is_null() { 0 } else { local.tm_gmtoff }
}
