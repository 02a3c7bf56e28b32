//! DSNs as people write them, and as libpq reads them.

use std::net::{Ipv4Addr, TcpListener};

use tokio_postgres::config::Host;

use super::super::super::scratch::Scratch;
use super::super::postgres;
use super::*;

const SECRET: &str = "hunter2";

fn nothing(_: &str) -> Option<String> {
    None
}

fn world() -> World {
    World { env: nothing, home: None, sockets: "/sockets".into() }
}

fn read(dsn: &str) -> Result<Vec<Target>, Unreadable> {
    targets(dsn, &world())
}

fn only(dsn: &str, world: &World) -> Config {
    let mut found = targets(dsn, world).map_err(|error| format!("{dsn}: {error:?}")).unwrap();
    assert_eq!(found.len(), 1, "{dsn}");
    found.remove(0).config
}

fn refused(dsn: &str, world: &World) -> String {
    let error = targets(dsn, world).err().unwrap();
    let all = format!("{error} {error:?}");
    assert!(!all.contains(SECRET), "{all}");
    assert!(error.to_string().contains("docs/install.md#postgresql"), "{all}");
    all
}

/// User, password, first host, port and database.
fn parts(config: &Config) -> [String; 5] {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "none".to_owned(),
    };
    let password = config.get_password().unwrap_or_default();
    [
        config.get_user().unwrap_or_default().to_owned(),
        String::from_utf8_lossy(password).into_owned(),
        host,
        config.get_ports().first().copied().unwrap_or_default().to_string(),
        config.get_dbname().unwrap_or_default().to_owned(),
    ]
}

#[test]
fn every_form_that_lightningd_takes() {
    let rows = [
        ("postgres://u:p@localhost:5433/db", ["u", "p", "localhost", "5433", "db"]),
        ("postgres://u@10.0.0.3/db", ["u", "", "10.0.0.3", "5432", "db"]),
        ("postgres://u:p%40%3a%2F%25@h/d%20b", ["u", "p@:/%", "h", "5432", "d b"]),
        ("postgres://u:a:b@h/db", ["u", "a:b", "h", "5432", "db"]),
        ("postgres://u@[::1]:5433/db", ["u", "", "::1", "5433", "db"]),
        ("postgres://u@[2001:db8::7]/db", ["u", "", "2001:db8::7", "5432", "db"]),
        ("postgres://u@%2Fvar%2Frun/db", ["u", "", "/var/run", "5432", "db"]),
        ("postgres:///db?host=/var/run&port=5433&user=u", ["u", "", "/var/run", "5433", "db"]),
        ("postgres://h/db?user=u&password=a%3Db", ["u", "a=b", "h", "5432", "db"]),
        ("postgres://h/db?user=u@home", ["u@home", "", "h", "5432", "db"]),
        ("postgres://h", ["", "", "h", "5432", ""]),
        ("postgres://", ["", "", "/sockets", "5432", ""]),
        ("postgres://u@/db", ["u", "", "/sockets", "5432", "db"]),
        // lightningd tries what follows its prefix first.
        ("postgres://host=h user=u password='it\\'s  a' dbname = db", ["u", "it's  a", "h", "5432", "db"]),
        ("postgres://host=h password=a\\ b\\\\c user=u", ["u", "a b\\c", "h", "5432", ""]),
        ("postgres://host=/run/pg user=u port=5433", ["u", "", "/run/pg", "5433", ""]),
        ("postgres://hostaddr=127.0.0.1 host=name user=u", ["u", "", "127.0.0.1", "5432", ""]),
        ("postgres://postgresql://u:p@h/db", ["u", "p", "h", "5432", "db"]),
        ("postgres://postgres://u:p@h/db", ["u", "p", "h", "5432", "db"]),
    ];
    for (dsn, expected) in rows {
        assert_eq!(parts(&only(dsn, &world())), expected, "{dsn}");
    }
}

#[test]
fn several_servers_come_in_their_order() {
    let names = |dsn| -> Vec<String> {
        read(dsn).map_err(|error| format!("{error:?}")).unwrap().into_iter().map(|one| one.name).collect()
    };
    let expected =
        ["PostgreSQL at a, port 5433", "PostgreSQL at b, port 5432", "PostgreSQL at /s, port 5434"];
    assert_eq!(names("postgres://u@a:5433,b,%2Fs:5434/db"), expected);
    let expected = ["PostgreSQL at a, port 7", "PostgreSQL at b, port 7"];
    assert_eq!(names("postgres://host=a,b port=7"), expected);
    assert_eq!(names("postgres://host=x,y hostaddr=127.0.0.1,::1 port=7,8").len(), 2);
    let writes = only("postgres://u@a/db?target_session_attrs=read-write", &world());
    assert_eq!(writes.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
}

// S7
#[test]
fn what_is_not_understood_is_refused_without_its_values() {
    let rows = [
        ("postgres://u:hunter2@h:five/db", "a port"),
        ("postgres://u:hunter2@h:65536/db", "a port"),
        ("postgres://u:hunter2@[::1/db", "libpq's forms"),
        ("postgres://u:hunter2%zz@h/db", "libpq's forms"),
        ("postgres://u:hunter2%00@h/db", "libpq's forms"),
        ("postgres://h/db?password=hunter2=", "libpq's forms"),
        ("postgres://password=hunter2 service=x", "'service'"),
        ("postgres://password=hunter2 require_auth=scram-sha-256", "'require_auth'"),
        ("postgres://u:hunter2@h/db?new_keyword=hunter2", "'new_keyword'"),
        ("postgres://password=hunter2 host=a,b port=1,2,3", "as many hosts"),
        ("postgres://password=hunter2 host=a,b hostaddr=::1", "as many hosts"),
        ("postgres://password=hunter2 host=@abstract", "abstract socket"),
    ];
    for (dsn, expected) in rows {
        let said = refused(dsn, &world());
        assert!(said.contains(expected), "{dsn}: {said}");
    }
    let named = World { env: |name| (name == "PGSERVICE").then(|| SECRET.to_owned()), ..world() };
    assert!(refused("postgres://u@h/db", &named).contains("'service'"));
}

#[test]
fn encryption_that_is_demanded_is_refused_but_over_a_socket() {
    for demand in ["sslmode=require", "sslmode=verify-full", "channel_binding=require", "gssencmode=require"]
    {
        let said = refused(&format!("postgres://u:hunter2@h/db?{demand}"), &world());
        assert!(said.contains(demand), "{said}");
        // Also where the server is on this machine: it was demanded.
        refused(&format!("postgres://u:hunter2@localhost/db?{demand}"), &world());
        only(&format!("postgres://u:hunter2@%2Fs/db?{demand}"), &world());
    }
    assert!(refused("postgres://h/db?ssl=true", &world()).contains("sslmode=require"));
    assert!(refused("postgres://h/db?sslrootcert=system", &world()).contains("sslrootcert=system"));
    let demands = World { env: |name| (name == "PGSSLMODE").then(|| "verify-ca".to_owned()), ..world() };
    assert!(refused("postgres://h/db", &demands).contains("sslmode=verify-ca"));
    assert_eq!(only("postgres://h/db?sslmode=prefer", &demands).get_ssl_mode(), SslMode::Prefer);
    for (dsn, expected) in [
        ("postgres://db.example/db", SslMode::Prefer),
        ("postgres://db.example/db?sslmode=disable", SslMode::Disable),
        ("postgres://localhost/db", SslMode::Disable),
        ("postgres://127.0.0.7/db", SslMode::Disable),
        ("postgres://[::1]/db", SslMode::Disable),
        ("postgres:///db", SslMode::Disable),
    ] {
        assert_eq!(only(dsn, &world()).get_ssl_mode(), expected, "{dsn}");
    }
}

#[test]
fn the_environment_says_what_the_dsn_leaves_out() {
    fn env(name: &str) -> Option<String> {
        let value = match name {
            "PGHOST" => "from-env",
            "PGPORT" => "5999",
            "PGUSER" => "env-user",
            "PGPASSWORD" => "env-password",
            "PGDATABASE" => "env-db",
            "PGOPTIONS" => "-c search_path=ln",
            _ => return None,
        };
        Some(value.to_owned())
    }
    let world = World { env, ..world() };
    let all = only("postgres://", &world);
    assert_eq!(parts(&all), ["env-user", "env-password", "from-env", "5999", "env-db"]);
    assert_eq!(all.get_options(), Some("-c search_path=ln"));
    assert_eq!(parts(&only("postgres://u:p@h:1/db", &world)), ["u", "p", "h", "1", "db"]);
}

// S7
#[test]
fn the_password_file_is_read_as_libpq_does() {
    let scratch = Scratch::new();
    let file = scratch.path().join(".pgpass");
    let lines =
        "# a comment\nother:*:*:*:wrong\nh:5432:db:u:a\\:b\\\\c\n*:*:db:cln:any\nlocalhost:*:*:*:socket\n";
    std::fs::write(&file, lines).unwrap();
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o600);
    let at_home = World { home: Some(scratch.path().to_owned()), ..world() };
    let password = |dsn: &str, world: &World| parts(&only(dsn, world))[1].clone();
    assert_eq!(password("postgres://u@h/db", &at_home), "a:b\\c");
    assert_eq!(password("postgres://u@h:5433/db", &at_home), "");
    assert_eq!(password("postgres://host=h hostaddr=127.0.0.1 dbname=db user=u", &at_home), "a:b\\c");
    assert_eq!(password("postgres://cln@elsewhere:7/db", &at_home), "any");
    assert_eq!(password("postgres://u@/x", &at_home), "socket");
    assert_eq!(password("postgres://u:own@h/db", &at_home), "own");
    let named = format!("postgres://host=h dbname=db user=u passfile={}", file.display());
    assert_eq!(password(&named, &world()), "a:b\\c");
    let account = World { env: |name| (name == "USER").then(|| "cln".to_owned()), ..at_home };
    assert_eq!(password("postgres://h/db", &account), "any");
    // One that others may read is not taken.
    mode(0o640);
    assert_eq!(password("postgres://u@h/db", &account), "");
}

// S7
#[tokio::test]
async fn nobody_there_is_said_with_the_place_and_without_the_password() {
    // Nobody listens there any more.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let dsn = format!("postgres://u:{SECRET}@127.0.0.1:{port}/db");
    let error = postgres::ask(Zeroizing::new(dsn), &[]).await.unwrap_err();
    let all = format!("{error} {error:?}");
    assert!(error.to_string().contains("see that it runs"), "{all}");
    assert!(
        all.contains(&format!("PostgreSQL at 127.0.0.1, port {port}: error connecting to server")),
        "{all}"
    );
    assert!(!error.to_string().contains("127.0.0.1") && !all.contains(SECRET), "{all}");
}
