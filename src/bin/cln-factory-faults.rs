//! FOR TESTS ONLY: `cln-factory` with the option `factory-fault` (`factory-runtime/src/faults.rs`).

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    cln_factory::cln::run().await
}
