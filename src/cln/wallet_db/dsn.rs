//! What libpq makes of `wallet=postgres://…`, which lightningd hands over as it is: this has to read it in the same
//! way, with the environment (lightningd's, whose child we are) and the password file that complete it.
//!
//! What it can't keep to is refused by its keyword. Values are in no text, since one of them is the password (S7).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use zeroize::Zeroizing;

use super::{POSTGRES, Unreadable};

/// For one address of a server: with several there is time for others.
const CONNECT: Duration = Duration::from_secs(3);
const PORT: &str = "5432";
/// Where Debian's libpq, and others', looks for a server's socket; and libpq as it is published.
const SOCKETS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Keywords that are kept to, with the variable that stands in for each.
const HEEDED: [(&str, &str); 13] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("options", "PGOPTIONS"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("gssencmode", "PGGSSENCMODE"),
];

/// The same of those that say whom to trust, or where to read on: they are refused.
const REFUSED: [(&str, &str); 3] =
    [("service", "PGSERVICE"), ("requirepeer", "PGREQUIREPEER"), ("require_auth", "PGREQUIREAUTH")];

/// Keywords that make no difference here: how long to wait, and what is of TLS and GSS alone.
const IDLE: [&str; 29] = [
    "application_name",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslkeylogfile",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "tcp_user_timeout",
    "tty",
    "authtype",
];

const UNCLEAR: &str = "what wallet= says of PostgreSQL isn't understood: write postgres://user:password@host:port/database \
     (docs/install.md#postgresql); this node's log says more";
const ENCRYPTED: &str = "lightningd is to reach PostgreSQL encrypted, which this plugin doesn't speak: reach it over \
     this machine (docs/install.md#postgresql); this node's log says more";

/// A server to ask.
pub(super) struct Target {
    /// For the log.
    pub(super) name: String,
    /// How to reach it, and to be let in.
    pub(super) config: Config,
}

/// What completes a DSN.
pub(super) struct World {
    env: fn(&str) -> Option<String>,
    home: Option<PathBuf>,
    /// Where a server's socket is if nothing says where.
    sockets: PathBuf,
}

impl World {
    /// This process's.
    pub(super) fn here() -> Self {
        let sockets = SOCKETS.iter().map(PathBuf::from).find(|path| path.is_dir());
        Self {
            env: |name| std::env::var(name).ok(),
            home: std::env::home_dir(),
            sockets: sockets.unwrap_or_default(),
        }
    }
}

/// Every server that a DSN names, in its order. May read a password file.
pub(super) fn targets(dsn: &str, world: &World) -> Result<Vec<Target>, Unreadable> {
    let unclear = |detail: &str| Unreadable::new(UNCLEAR, detail);
    let mut settings = parse(dsn).ok_or_else(|| unclear("it is none of libpq's forms"))?;
    settings.complete(world.env);
    if let Some(keyword) = settings.unknown() {
        let detail =
            format!("'{keyword}' of wallet=, or of libpq's environment, isn't known here: leave it out");
        return Err(unclear(&detail));
    }
    let (hosts, addresses, ports) = (settings.list("host"), settings.list("hostaddr"), settings.list("port"));
    let count = if addresses.is_empty() { hosts.len().max(1) } else { addresses.len() };
    if !hosts.is_empty() && hosts.len() != count || ports.len() > 1 && ports.len() != count {
        return Err(unclear("not as many hosts as addresses or ports"));
    }
    let mut targets = Vec::new();
    for at in 0..count {
        let host = hosts.get(at).copied().unwrap_or_default();
        let address = addresses.get(at).copied().unwrap_or_default();
        let port = ports.get(at).or(ports.first()).copied().unwrap_or_default().trim();
        let port = if port.is_empty() { PORT } else { port };
        let number = port.parse::<u16>().map_err(|_| unclear("a port that is no number below 65,536"))?;
        let place = Place::of(host, address, world).ok_or_else(|| unclear("an abstract socket, '@…'"))?;
        if let (Place::Tcp(_), Some(demand)) = (&place, settings.encryption()) {
            return Err(Unreadable::new(
                ENCRYPTED,
                format!("{demand}, which wallet= or libpq's environment says"),
            ));
        }
        let mut config = settings.config();
        config.port(number).ssl_mode(place.ssl_mode(&settings));
        match &place {
            Place::Tcp(host) => config.host(host.as_str()),
            Place::Socket(directory) => config.host_path(directory),
        };
        // It has a name before an address.
        let listed = if address.is_empty() || host.is_empty() { place.in_password_file(world) } else { host };
        if let Some(password) = settings.password(world, [listed, port]) {
            config.password(password.as_bytes());
        }
        targets.push(Target { name: format!("PostgreSQL at {}, port {port}", place.name()), config });
    }
    Ok(targets)
}

/// Where a server is.
enum Place {
    Tcp(String),
    Socket(PathBuf),
}

impl Place {
    fn of(host: &str, address: &str, world: &World) -> Option<Self> {
        if !address.is_empty() {
            Some(Self::Tcp(address.to_owned()))
        } else if host.is_empty() {
            Some(Self::Socket(world.sockets.clone()))
        } else if host.starts_with('/') {
            Some(Self::Socket(host.into()))
        } else {
            (!host.starts_with('@')).then(|| Self::Tcp(host.to_owned()))
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Tcp(host) => host.clone(),
            Self::Socket(directory) => directory.display().to_string(),
        }
    }

    /// Nobody listens on this machine.
    fn ssl_mode(&self, settings: &Settings) -> SslMode {
        let here = match self {
            Self::Tcp(host) => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            Self::Socket(_) => true,
        };
        let without = matches!(settings.get("sslmode"), Some("disable" | "allow"));
        if here || without { SslMode::Disable } else { SslMode::Prefer }
    }

    /// The name that a line of the password file has for it.
    fn in_password_file(&self, world: &World) -> &str {
        match self {
            Self::Tcp(host) => host,
            Self::Socket(directory) if *directory == world.sockets => "localhost",
            Self::Socket(directory) => directory.to_str().unwrap_or_default(),
        }
    }
}

/// Values by libpq's keywords.
#[derive(Default)]
struct Settings(BTreeMap<String, Zeroizing<String>>);

impl Settings {
    fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(|value| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Parts between commas, of which some may be empty.
    fn list(&self, keyword: &str) -> Vec<&str> {
        self.get(keyword).map(|text| text.split(',').collect()).unwrap_or_default()
    }

    /// What a URI leaves empty it doesn't say.
    fn say(&mut self, keyword: &str, value: Zeroizing<String>) {
        if !value.is_empty() {
            self.0.insert(keyword.to_owned(), value);
        }
    }

    fn complete(&mut self, env: fn(&str) -> Option<String>) {
        for (keyword, variable) in HEEDED.iter().chain(&REFUSED) {
            if !self.0.contains_key(*keyword)
                && let Some(value) = env(variable)
            {
                self.0.insert((*keyword).to_owned(), Zeroizing::new(value));
            }
        }
    }

    fn unknown(&self) -> Option<&str> {
        let heeded = |keyword: &str| HEEDED.iter().any(|(known, _)| *known == keyword);
        let mut said =
            self.0.iter().filter(|(_, value)| !value.is_empty()).map(|(keyword, _)| keyword.as_str());
        said.find(|keyword| !heeded(keyword) && !IDLE.contains(keyword))
    }

    /// What is said that only an encrypted connection fulfils. Over a socket libpq doesn't ask for it.
    fn encryption(&self) -> Option<String> {
        let mode = self.get("sslmode");
        let lax = matches!(mode, None | Some("disable" | "allow" | "prefer"));
        let demanded = |keyword: &str, value: &str| {
            (self.get(keyword) == Some(value)).then(|| format!("{keyword}={value}"))
        };
        (!lax)
            .then(|| format!("sslmode={}", mode.unwrap_or_default()))
            .or_else(|| demanded("channel_binding", "require"))
            .or_else(|| demanded("gssencmode", "require"))
            .or_else(|| demanded("sslrootcert", "system").filter(|_| mode.is_none()))
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.application_name("cln-factory").connect_timeout(CONNECT);
        if let Some(user) = self.get("user") {
            config.user(user);
        }
        if let Some(name) = self.get("dbname") {
            config.dbname(name);
        }
        if let Some(options) = self.get("options") {
            config.options(options);
        }
        // lightningd writes: of several servers it has the one that lets it.
        if matches!(self.get("target_session_attrs"), Some("read-write" | "primary")) {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        config
    }

    fn password(&self, world: &World, [host, port]: [&str; 2]) -> Option<Zeroizing<String>> {
        if let Some(password) = self.get("password") {
            return Some(Zeroizing::new(password.to_owned()));
        }
        let file = match self.get("passfile") {
            Some(path) => PathBuf::from(path),
            None => world.home.as_ref()?.join(".pgpass"),
        };
        let account = || (world.env)("USER").or_else(|| (world.env)("LOGNAME"));
        let user = self.get("user").map(str::to_owned).or_else(account).unwrap_or_default();
        let database = self.get("dbname").unwrap_or(&user);
        password_in(&file, [host, port, database, &user])
    }
}

/// lightningd takes what follows its prefix for a DSN, and if it isn't one, all of it.
fn parse(dsn: &str) -> Option<Settings> {
    let rest = dsn.strip_prefix(POSTGRES)?;
    let inner = ["postgresql://", POSTGRES].iter().find_map(|prefix| rest.strip_prefix(*prefix));
    let inner = match inner {
        Some(inner) => uri(inner),
        None => pairs(rest),
    };
    inner.or_else(|| uri(rest))
}

/// `host=localhost password='it''s'`, but with a backslash before what is special.
fn pairs(text: &str) -> Option<Settings> {
    let mut found = Settings::default();
    let mut rest = text.trim_ascii();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=')?;
        let keyword = keyword.trim_ascii_end();
        if keyword.is_empty() || !keyword.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return None;
        }
        let (value, after) = value(after.trim_ascii_start())?;
        found.0.insert(keyword.to_owned(), value);
        rest = after.trim_ascii_start();
    }
    Some(found)
}

/// A value at the beginning of a text, and what follows it.
fn value(text: &str) -> Option<(Zeroizing<String>, &str)> {
    let quoted = text.strip_prefix('\'');
    let mut chars = quoted.unwrap_or(text).chars();
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    loop {
        match (chars.next(), quoted.is_some()) {
            (None, true) => return None,
            (None, false) | (Some('\''), true) => break,
            (Some(c), false) if c.is_ascii_whitespace() => break,
            (Some('\\'), _) => {
                if let Some(c) = chars.next() {
                    value.push(c);
                }
            }
            (Some(c), _) => value.push(c),
        }
    }
    Some((value, chars.as_str()))
}

/// What follows the scheme: `user:password@host:port,host:port/database?keyword=value&…`, with `%` escapes.
fn uri(text: &str) -> Option<Settings> {
    let mut found = Settings::default();
    let (credentials, rest) = match text.split_once('@') {
        Some((credentials, rest)) if !credentials.contains('/') => (credentials, rest),
        _ => ("", text),
    };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    found.say("user", unescaped(user)?);
    found.say("password", unescaped(password)?);
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (servers, database) = place.split_once('/').unwrap_or((place, ""));
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for server in servers.split(',') {
        let (host, port) = match server.strip_prefix('[') {
            None => server.split_once(':').unwrap_or((server, "")),
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']')?;
                let port = after.strip_prefix(':');
                if port.is_none() && !after.is_empty() {
                    return None;
                }
                (host, port.unwrap_or_default())
            }
        };
        hosts.push(host);
        ports.push(port);
    }
    found.say("host", unescaped(&hosts.join(","))?);
    found.say("port", unescaped(&ports.join(","))?);
    found.say("dbname", unescaped(database)?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (keyword, value) = pair.split_once('=').filter(|(_, value)| !value.contains('='))?;
        let (keyword, value) = (unescaped(keyword)?, unescaped(value)?);
        // The first as JDBC says it.
        if keyword.as_str() == "ssl" && value.as_str() == "true" {
            found.say("sslmode", Zeroizing::new("require".to_owned()));
        } else {
            found.0.insert(keyword.as_str().to_owned(), value);
        }
    }
    Some(found)
}

/// With each `%20` as what it stands for.
fn unescaped(text: &str) -> Option<Zeroizing<String>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut found = Zeroizing::new(Vec::<u8>::with_capacity(text.len()));
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                u8::try_from(high.checked_mul(16)?.checked_add(low)?).ok().filter(|byte| *byte != 0)?
            }
            byte => byte,
        };
        found.push(byte);
    }
    String::from_utf8(std::mem::take(&mut *found)).ok().map(Zeroizing::new)
}

/// The password of the first line of a file that fits host, port, database and user.
fn password_in(file: &Path, wanted: [&str; 4]) -> Option<Zeroizing<String>> {
    let about = std::fs::metadata(file).ok()?;
    // libpq doesn't take one that others may read.
    if !about.is_file() || about.permissions().mode() & 0o077 != 0 {
        return None;
    }
    let text = Zeroizing::new(std::fs::read_to_string(file).ok()?);
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| password_of(line, wanted))
}

fn password_of(line: &str, wanted: [&str; 4]) -> Option<Zeroizing<String>> {
    let mut rest = line;
    for wanted in wanted {
        let mut escaped = false;
        let end = rest.find(|c: char| {
            let ends = c == ':' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        let (field, after) = rest.split_at(end);
        if field != "*" && *without_backslashes(field) != *wanted {
            return None;
        }
        rest = after.strip_prefix(':')?;
    }
    Some(without_backslashes(rest))
}

fn without_backslashes(text: &str) -> Zeroizing<String> {
    let mut found = Zeroizing::new(String::with_capacity(text.len()));
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let kept = if c == '\\' { chars.next() } else { Some(c) };
        if let Some(c) = kept {
            found.push(c);
        }
    }
    found
}

#[cfg(test)]
mod tests;
