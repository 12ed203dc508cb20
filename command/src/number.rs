//! The numbers of snapshots, as a person types them: short, in digits and small letters.

/// Digits of a number.
const BASE: u64 = 36;

/// The number in digits and letters.
pub fn shown(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit((number % BASE) as u32, BASE as u32).expect("a digit is below the base"));
        number /= BASE;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

/// The number that is shown so.
pub fn read(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    u64::from_str_radix(text, BASE as u32).ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read() {
        for number in [0, 1, 35, 36, 1 << 40, u64::MAX] {
            assert_eq!(read(&shown(number)), Some(number));
        }
        assert_eq!((shown(35), read("+1"), read(""), read("A"), read("-1")), ("z".to_owned(), None, None, None, None));
    }
}
