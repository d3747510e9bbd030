//! "Did you mean": the known words nearest to one that is not known.

/// How many near words are shown: more would be a list, not a hint.
const SHOWN_MAX: usize = 3;

/// The words of `known` near `word`, nearest first, at most three.
pub(crate) fn near<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    // A third of a word may be wrong; a word that begins the same is near, too.
    let distance_max = (word.chars().count() / 3).clamp(1, 4);
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|other| {
            let distance = strsim::osa_distance(word, other);
            if distance == 0 {
                // What is known has something else wrong with it.
                return None;
            }
            let begins = word.len() >= 3 && (other.starts_with(word) || word.starts_with(other) && other.len() >= 3);
            (distance <= distance_max || begins).then_some((distance, other))
        })
        .collect();
    found.sort_unstable();
    found.truncate(SHOWN_MAX);
    found.into_iter().map(|(_, word)| word).collect()
}

/// `; did you mean "a" or "b"?`, or nothing.
pub(crate) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = near(word, known).into_iter().map(|word| format!("{word:?}")).collect();
    if words.is_empty() { String::new() } else { format!("; did you mean {}?", words.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_near_and_other_words_are_not() {
        let known = ["debian-lab", "win11-lab", "win10-lab", "centos"];
        assert_eq!(near("debain-lab", known), ["debian-lab"]);
        assert_eq!(near("win1-lab", known), ["win10-lab", "win11-lab"]);
        assert_eq!(near("debian", known), ["debian-lab"]);
        assert_eq!(near("nsf", ["nfs", "iscsi"]), ["nfs"]);
        assert_eq!(near("xyz", known), [""; 0]);
        assert_eq!(near("centos", known), [""; 0], "the word itself");
        assert_eq!(hint("lisen", ["listen", "repo"]), "; did you mean \"listen\"?");
        assert_eq!(hint("zzz", ["listen"]), "");
    }
}
