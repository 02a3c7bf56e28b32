//! `lightningd --plugin=cln-factory`.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    cln_factory::cln::run().await
}
