//! What a cache tells its master with each poll of the listing: of which versions it has news of boots.
//!
//! TCP is read-only in both directions: the master may then ask the cache for these profiles. A header,
//! so it is short, and everything in it is checked: who sends nonsense is as one who sends nothing.

use std::fmt;
use std::str::FromStr;

use icbd_image::Root;

/// The request header that carries an [`Offer`].
pub const OFFER_HEADER: &str = "icbd-profiles";

/// Profiles that can be had at a port of the address that the request came from: `PORT ROOT ROOT …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Where the sender serves them; not 0.
    pub port: u16,
    /// At least one, at most [`Offer::ROOTS_MAX`].
    pub roots: Vec<Root>,
}

/// Text that is no offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an offer of profiles is a port and 1 to {} roots, with single spaces between them", Offer::ROOTS_MAX)]
pub struct OfferError;

impl OfferError {
    /// The same text will never be an offer.
    pub fn is_permanent(&self) -> bool {
        true
    }
}

impl Offer {
    /// Roots in one offer: a kilobyte of header; those that are left over come with a later poll.
    pub const ROOTS_MAX: usize = 16;
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.port.fmt(f)?;
        self.roots.iter().take(Offer::ROOTS_MAX).try_for_each(|root| write!(f, " {root}"))
    }
}

impl FromStr for Offer {
    type Err = OfferError;

    fn from_str(text: &str) -> Result<Offer, OfferError> {
        let mut parts = text.split(' ');
        let port: u16 = parts.next().and_then(|port| port.parse().ok()).filter(|port| *port > 0).ok_or(OfferError)?;
        // One more than there may be, so that too many are noticed and no more are read.
        let roots = parts.take(Offer::ROOTS_MAX + 1).map(str::parse).collect::<Result<Vec<Root>, _>>();
        let offer = Offer { port, roots: roots.map_err(|_| OfferError)? };
        let fits = (1..=Offer::ROOTS_MAX).contains(&offer.roots.len()) && offer.to_string() == text;
        if fits { Ok(offer) } else { Err(OfferError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_has_one_spelling() {
        let root = |number: u8| Root::from_bytes([number; 32]);
        for count in [1, 2, 16] {
            let offer = Offer { port: 7071, roots: (1..=count).map(root).collect() };
            assert_eq!(offer.to_string().parse(), Ok(offer));
        }
        let (a, many) = (root(0xab), Offer { port: 1, roots: (1..=16).map(root).collect() });
        for text in [
            String::new(),
            "7071".to_owned(),
            format!("0 {a}"),
            format!("65536 {a}"),
            format!("+7 {a}"),
            format!("7071  {a}"),
            format!("7071 {a} "),
            format!("7071 {}", a.to_string().to_uppercase()),
            format!("{many} {a}"),
        ] {
            assert_eq!(text.parse::<Offer>(), Err(OfferError), "{text:?}");
        }
    }
}
