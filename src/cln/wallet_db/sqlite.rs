//! lightningd's database in SQLite: a file, opened read-only. Blocks on the disk.

use std::path::Path;

use rusqlite::types::{Value as Bound, ValueRef};
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::{BUSY, Query, Row, Unreadable, Value};

/// The first row of each query, or nothing where there is none.
pub(super) fn ask(path: &Path, queries: &[Query]) -> Result<Vec<Option<Row>>, Unreadable> {
    read(path, queries).map_err(|error| {
        Unreadable::new(
            "lightningd's database can't be read: see that its file is where wallet= says; this node's log says more",
            format!("{}: {error}", path.display()),
        )
    })
}

fn read(path: &Path, queries: &[Query]) -> Result<Vec<Option<Row>>, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    database.busy_timeout(BUSY)?;
    queries.iter().map(|query| first_row(&database, query)).collect()
}

fn first_row(database: &Connection, query: &Query) -> Result<Option<Row>, rusqlite::Error> {
    let mut statement = database.prepare(query.sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query(params_from_iter(query.params.iter().map(bound)))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut cells = Row::with_capacity(columns);
    for column in 0..columns {
        cells.push(match row.get_ref(column)? {
            // There is no column of the last kind.
            ValueRef::Null | ValueRef::Real(_) => None,
            ValueRef::Integer(number) => Some(Value::Number(number)),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Value::Bytes(bytes.to_vec())),
        });
    }
    Ok(Some(cells))
}

fn bound(value: &Value) -> Bound {
    match value {
        Value::Number(number) => Bound::Integer(*number),
        Value::Bytes(bytes) => Bound::Blob(bytes.clone()),
    }
}
