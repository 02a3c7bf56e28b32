//! Numbers of things, for people.

use std::fmt::Display;

/// "1 client", "2 clients": so many of what has a regular plural.
pub fn counted(number: impl Display, what: &str) -> String {
    let number = number.to_string();
    let plural = if number == "1" { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        let all = [0u8, 1, 2, 11, 21].map(|number| counted(number, "client"));
        assert_eq!(all, ["0 clients", "1 client", "2 clients", "11 clients", "21 clients"]);
    }
}
