//! What suited each source, for whoever asks it again by other [`Sources`](super::Sources).

use std::collections::HashMap;

use super::line::Habit;

/// How blocks travelled best from sources, by their names.
#[derive(Debug, Clone, Default)]
pub struct Habits(HashMap<String, Habit>);

impl Habits {
    /// Whoever asks more sources in turn learns them anew.
    const SOURCES_MAX: usize = 64;

    /// Takes over what was found out elsewhere.
    pub fn learn(&mut self, found: Habits) {
        let new = found.0.keys().filter(|name| !self.0.contains_key(*name)).count();
        if self.0.len() + new > Habits::SOURCES_MAX {
            self.0.clear();
        }
        self.0.extend(found.0);
    }

    pub(super) fn of(&self, source: &str) -> Option<Habit> {
        self.0.get(source).copied()
    }
}

impl FromIterator<(String, Habit)> for Habits {
    fn from_iter<I: IntoIterator<Item = (String, Habit)>>(habits: I) -> Habits {
        Habits(habits.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::MemorySource;
    use crate::{Settings, Sources};

    fn habits(names: impl Iterator<Item = usize>, habit: Habit) -> Habits {
        names.map(|name| (format!("http://master{name}"), habit)).collect()
    }

    #[test]
    fn they_are_handed_on() {
        let source = Arc::new(MemorySource::new("memory"));
        let of_it = |habits: &Habits| {
            let sources = Sources::with_habits(vec![source.clone()], Settings::default(), habits);
            sources.habits().of("memory")
        };
        let known = [("memory".to_owned(), Habit::Suits(2))].into_iter().collect();
        assert_eq!((of_it(&known), of_it(&Habits::default())), (Some(Habit::Suits(2)), None));
    }

    #[test]
    fn what_is_known_is_renewed_and_never_more_than_so_much() {
        let slow = Habit::Slow { travelled: 12_000_000 };
        let mut known = habits(0..Habits::SOURCES_MAX, slow);
        known.learn(habits(3..5, Habit::Suits(1)));
        assert_eq!(known.of("http://master3"), Some(Habit::Suits(1)));
        assert_eq!((known.of("http://master2"), known.0.len()), (Some(slow), Habits::SOURCES_MAX));
        known.learn(habits(64..65, slow));
        assert_eq!((known.of("http://master2"), known.of("http://master64")), (None, Some(slow)));
    }
}
