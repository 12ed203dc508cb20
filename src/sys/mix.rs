//! Mixing words into a hash: for hints, checksums and names, not against an adversary.

/// 2^64 divided by the golden ratio: a multiplication by it carries each bit into the high ones (Knuth, TAOCP vol. 3, 6.4).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a hash of several words starts from: any word that is not 0, so that leading zeros count.
pub const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// `hash` with `word` mixed in.
#[must_use]
pub const fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(GOLDEN);
    mixed ^ mixed >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_words_and_leading_zeros_count() {
        let hash = |words: &[u64]| words.iter().fold(SEED, |hash, word| mix(hash, *word));
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
        assert_ne!(hash(&[0, 1]), hash(&[1]));
    }
}
