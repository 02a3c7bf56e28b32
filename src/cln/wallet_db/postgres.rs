//! lightningd's database in PostgreSQL: a connection of our own for each look, in a transaction that can't write.
//!
//! There is no TLS here. A server that isn't on this machine and offers it is left alone, also where libpq would only
//! have preferred it: what lightningd says encrypted is not said in the clear by us.

use std::error::Error as _;
use std::fmt;
use std::future::{Ready, ready};
use std::pin::pin;

use tokio_postgres::tls::{MakeTlsConnect, NoTlsStream, TlsConnect};
use tokio_postgres::types::{ToSql, Type, WrongType};
use tokio_postgres::{Client, Connection, Error, Socket};
use zeroize::Zeroizing;

use super::dsn::{self, Target, World};
use super::{PATIENCE, Query, Row, Unreadable, Value};

/// The server ends by itself what we don't wait for any more.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '8s'";

const TLS: &str = "lightningd's PostgreSQL wants TLS, which this plugin doesn't speak: reach it over this machine \
     (docs/install.md#postgresql); this node's log says more";
const CROWDED: &str = "lightningd's PostgreSQL takes no second connection: raise the connection limit of its role or \
     of the server; this node's log says more";
const RIGHTS: &str = "lightningd's PostgreSQL role may not read what it has to: GRANT SELECT ON channels, \
     channel_htlcs to it; this node's log says more";
const LOCKED: &str = "lightningd's PostgreSQL doesn't let this plugin in: see pg_hba.conf, the role and its password; \
     this node's log says more";
const STRANGE: &str = "lightningd's PostgreSQL isn't laid out as this plugin knows it: use the lightningd version \
     that docs/install.md names; this node's log says more";
const AWAY: &str = "lightningd's PostgreSQL doesn't answer this plugin: see that it runs and is reached as wallet= \
     says, and try again; this node's log says more";

/// The first row of each query, or nothing where there is none.
pub(super) async fn ask(dsn: Zeroizing<String>, queries: &[Query]) -> Result<Vec<Option<Row>>, Unreadable> {
    // It may read a password file.
    let targets = tokio::task::spawn_blocking(move || dsn::targets(&dsn, &World::here())).await;
    let targets = targets.map_err(|error| Unreadable::new(AWAY, error.to_string()))??;
    match tokio::time::timeout(PATIENCE, ask_first(&targets, queries)).await {
        Ok(found) => found,
        Err(_) => {
            let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
            let detail = format!("{}: no answer within {} s", names.join(", "), PATIENCE.as_secs());
            Err(Unreadable::new(AWAY, detail))
        }
    }
}

/// The first server that lets us in.
async fn ask_first(targets: &[Target], queries: &[Query]) -> Result<Vec<Option<Row>>, Unreadable> {
    let (mut what, mut details) = (AWAY, Vec::new());
    for target in targets {
        match target.config.connect(Plain).await {
            Ok((client, connection)) => {
                let asked = converse(client, connection, queries).await;
                return asked
                    .map_err(|(what, detail)| Unreadable::new(what, format!("{}: {detail}", target.name)));
            }
            Err(error) => {
                what = cause(&error);
                details.push(format!("{}: {}", target.name, told(&error)));
            }
        }
    }
    Err(Unreadable::new(what, details.join("; ")))
}

async fn converse(
    client: Client,
    connection: Connection<Socket, NoTlsStream>,
    queries: &[Query],
) -> Result<Vec<Option<Row>>, (&'static str, String)> {
    let mut connection = pin!(connection);
    let asked = tokio::select! {
        biased;
        // It also carries what the other says and hears.
        ended = &mut connection => match ended {
            Ok(()) => return Err((AWAY, "the server has ended the connection".to_owned())),
            Err(error) => Err(error),
        },
        found = read(&client, queries) => found,
    };
    let found = asked.map_err(|error| (cause(&error), told(&error)))?;
    drop(client);
    // Says goodbye: all is known by now.
    let _ = connection.await;
    Ok(found)
}

async fn read(client: &Client, queries: &[Query]) -> Result<Vec<Option<Row>>, Error> {
    client.batch_execute(BEGIN).await?;
    let mut found = Vec::with_capacity(queries.len());
    for query in queries {
        let params: Vec<(&(dyn ToSql + Sync), Type)> = query.params.iter().map(bound).collect();
        let rows = client.query_typed(query.sql, &params).await?;
        found.push(rows.first().map(cells).transpose()?);
    }
    client.batch_execute("COMMIT").await?;
    Ok(found)
}

fn bound(value: &Value) -> (&(dyn ToSql + Sync), Type) {
    match value {
        Value::Number(number) => (number as &(dyn ToSql + Sync), Type::INT8),
        Value::Bytes(bytes) => (bytes as &(dyn ToSql + Sync), Type::BYTEA),
    }
}

fn cells(row: &tokio_postgres::Row) -> Result<Row, Error> {
    let mut cells = Row::with_capacity(row.len());
    for (at, column) in row.columns().iter().enumerate() {
        cells.push(match *column.type_() {
            Type::INT4 => row.try_get::<_, Option<i32>>(at)?.map(|number| Value::Number(number.into())),
            Type::INT8 => row.try_get::<_, Option<i64>>(at)?.map(Value::Number),
            _ => row.try_get::<_, Option<Vec<u8>>>(at)?.map(Value::Bytes),
        });
    }
    Ok(cells)
}

/// What is wrong, and what to do.
fn cause(error: &Error) -> &'static str {
    if error.source().is_some_and(|source| source.is::<SpeaksTls>()) {
        return TLS;
    }
    // A column of another kind.
    if error.source().is_some_and(|source| source.is::<WrongType>()) {
        return STRANGE;
    }
    of_state(error.code().map(|state| state.code()))
}

/// By the SQLSTATE that the server has answered with, if it has.
fn of_state(state: Option<&str>) -> &'static str {
    match state {
        Some("42501") => RIGHTS,
        Some("53300") => CROWDED,
        Some("42P01" | "42703" | "42804" | "42883") => STRANGE,
        // Authorization, and a database that isn't there.
        Some(state) if state.starts_with("28") || state == "3D000" => LOCKED,
        _ => AWAY,
    }
}

/// The words of the server, or of whatever kept us from it.
fn told(error: &Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{}: {}", said.severity(), said.message());
    }
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Talks to servers that have no TLS, and to no other.
#[derive(Debug, Clone, Copy)]
struct Plain;

#[derive(Debug)]
struct SpeaksTls;

impl fmt::Display for SpeaksTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the server offers TLS, which lightningd then uses and this plugin can't: where the way to it is safe, \
             say sslmode=disable in wallet= for both",
        )
    }
}

impl std::error::Error for SpeaksTls {}

impl<S> MakeTlsConnect<S> for Plain {
    type Stream = NoTlsStream;
    type TlsConnect = Self;
    type Error = SpeaksTls;

    fn make_tls_connect(&mut self, _: &str) -> Result<Self, SpeaksTls> {
        Ok(*self)
    }
}

impl<S> TlsConnect<S> for Plain {
    type Stream = NoTlsStream;
    type Error = SpeaksTls;
    type Future = Ready<Result<NoTlsStream, SpeaksTls>>;

    fn connect(self, _: S) -> Self::Future {
        ready(Err(SpeaksTls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_postgres::Config;
    use tokio_postgres::config::SslMode;

    /// What becomes of a connection to a server that says this first.
    async fn answered(answer: &[u8], mode: SslMode) -> Error {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut config = Config::new();
        config.host("127.0.0.1").port(listener.local_addr().unwrap().port()).user("u").ssl_mode(mode);
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            // No first message is shorter.
            socket.read_exact(&mut [0; 8]).await.unwrap();
            socket.write_all(answer).await.unwrap();
            socket
        };
        let (_socket, connected) = tokio::join!(server, config.connect(Plain));
        connected.err().unwrap()
    }

    fn refusal(state: &str, message: &str) -> Vec<u8> {
        let fields = format!("SFATAL\0VFATAL\0C{state}\0M{message}\0\0");
        let length = u32::try_from(fields.len() + 4).unwrap();
        [b"E".as_slice(), length.to_be_bytes().as_slice(), fields.as_bytes()].concat()
    }

    #[tokio::test]
    async fn a_server_with_tls_is_left_alone() {
        let error = answered(b"S", SslMode::Prefer).await;
        assert_eq!(cause(&error), TLS);
        assert!(told(&error).contains("sslmode=disable"), "{}", told(&error));
        // Without TLS it goes on in the clear, as libpq does.
        let answer = [b"N".as_slice(), &refusal("28P01", "wrong")].concat();
        let error = answered(&answer, SslMode::Prefer).await;
        assert_eq!((cause(&error), told(&error)), (LOCKED, "FATAL: wrong".to_owned()));
    }

    #[tokio::test]
    async fn what_a_server_answers_says_what_to_do() {
        let error =
            answered(&refusal("53300", "too many connections for role \"u\""), SslMode::Disable).await;
        assert_eq!(cause(&error), CROWDED);
        assert_eq!(told(&error), "FATAL: too many connections for role \"u\"");
        for (state, expected) in [
            ("42501", RIGHTS),
            ("28000", LOCKED),
            ("3D000", LOCKED),
            ("42P01", STRANGE),
            ("57014", AWAY),
            ("57P03", AWAY),
        ] {
            assert_eq!(of_state(Some(state)), expected, "{state}");
        }
        assert_eq!(of_state(None), AWAY);
    }

    /// Behind "this node can't check its channel's funding script: " a reason has 250 characters in all.
    #[test]
    fn every_reason_reaches_whom_it_is_for() {
        for text in [TLS, CROWDED, RIGHTS, LOCKED, STRANGE, AWAY] {
            assert!(text.len() < 198, "{}: {text}", text.len());
        }
    }
}
