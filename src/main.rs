//! `lightningd --important-plugin=cln-factory`.

use std::io::{self, BufRead, IsTerminal};

fn main() -> anyhow::Result<()> {
    if is_alone()? {
        println!(
            "cln-factory {}: a plugin, which lightningd starts by itself. Put important-plugin=<path of this file> \
             into lightningd's configuration, and start lightningd again.",
            env!("CARGO_PKG_VERSION")
        );
        return Ok(());
    }
    run()
}

#[tokio::main]
async fn run() -> anyhow::Result<()> {
    cln_factory::cln::run().await
}

/// Whether it is no lightningd that has started this: a person, or an installer that tries what it has built, as
/// reckless does; an error would have that delete it.
fn is_alone() -> io::Result<bool> {
    let word = std::env::args().nth(1);
    if matches!(word.as_deref(), Some("--version" | "-V" | "--help" | "-h")) {
        return Ok(true);
    }
    // lightningd has a pipe there, and speaks first, in JSON. What it says stays there, for whoever reads next.
    let stdin = io::stdin();
    Ok(stdin.is_terminal() || stdin.lock().fill_buf()?.first() != Some(&b'{'))
}
