//! What people read of the engine's reasons: they say what is wrong, and here is added what to do about it,
//! with the names of commands and options.

/// Why a purchase came to nothing. `waited` is whether it had to wait for somebody, `jit` whether this node
/// takes an ordinary channel instead.
pub fn not_sold(reason: &str, waited: bool, jit: bool) -> String {
    if waited && !jit { format!("{reason} (factory-jit is off here)") } else { reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_named_where_it_would_have_helped() {
        assert!(not_sold("nobody is here", true, false).contains("factory-jit"));
        for (waited, jit) in [(true, true), (false, true), (false, false)] {
            assert_eq!(not_sold("the operator went silent", waited, jit), "the operator went silent");
        }
    }
}
