//! A list of workstations as a spreadsheet saves it: CSV (RFC 4180), separated by commas, semicolons or tabs.
//!
//! The first line names the columns: `name`, and of `mac`, `uuid`, `lab` and `boots` those that there are, in any order. Nothing is
//! guessed, and all that is wrong is told, with its place.

use std::collections::HashMap;
use std::fmt;

use csv::{ReaderBuilder, StringRecord, Trim};
use icbd_image::{ClientName, ClientNameError, ImageRef, NameError};
use uuid::Uuid;

use super::{LabNameError, Mac, MacError, Workstation};

const SEPARATORS: [char; 3] = [',', ';', '\t'];
/// So many faults are told: who sees them knows what is wrong with the rest.
const FAULTS_SHOWN_MAX: usize = 20;
/// Before the text, by programs of Windows.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// What is wrong with a list, in the order of its lines. Never empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// The first ones.
    pub shown: Vec<Fault>,
    /// How many there are besides.
    pub more: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    pub place: Place,
    pub what: Problem,
}

/// Where in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Line,
    /// From 1, and what the first line calls it.
    Column {
        number: usize,
        name: String,
    },
    /// From 1.
    Character(usize),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("it is no text in UTF-8; save it as \"CSV UTF-8\"")]
    Encoding,
    #[error("a '\"' within a field: a field that has some stands between two of them, and nothing here needs any")]
    Quote,
    #[error("this '\"' is never closed; remove it")]
    OpenQuote,
    #[error("it is empty; the first line names the columns, such as name,mac,uuid,lab")]
    Empty,
    #[error("there is no column {0:?}: the first line names the columns, which are name, mac, uuid, lab and boots")]
    UnknownColumn(String),
    #[error("the column is there twice")]
    ColumnTwice,
    #[error("no column is called name: the first line names the columns, such as name,mac,uuid,lab")]
    NoNameColumn,
    #[error("there is neither a column mac nor a column uuid, by which workstations are known")]
    NoIdentityColumn,
    #[error("{has} fields, where the first line has {wanted}")]
    FieldCount { has: usize, wanted: usize },
    #[error(
        "there is no workstation on it; to go without a list, stop the cache and remove clients.json from its store"
    )]
    NoWorkstation,
    #[error("no name")]
    NoName,
    #[error("neither a MAC address nor a UUID")]
    NoIdentity,
    #[error("{error}{}", written(instead))]
    Name { error: ClientNameError, instead: Option<ClientName> },
    #[error(transparent)]
    Mac(#[from] MacError),
    #[error("{0:?} is no UUID; write it as 4c4c4544-0051-3510-8052-b4c04f4d3132")]
    Uuid(String),
    #[error("{0} is what boards without a UUID of their own show; leave it empty")]
    NoUuid(Uuid),
    #[error(transparent)]
    Lab(#[from] LabNameError),
    #[error("{0}; write an image, or a version of it, such as debian-lab@4")]
    Boots(#[from] NameError),
    #[error("{what} is on line {line}, too")]
    Twice { what: String, line: usize },
    #[error("it cannot be read: {0}")]
    Other(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        match &self.place {
            Place::Line => Ok(()),
            Place::Column { number, name } => write!(f, ", column {number} ({name})"),
            Place::Character(number) => write!(f, ", character {number}"),
        }?;
        write!(f, ": {}", self.what)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.shown.iter().map(Fault::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Faults {}

impl Faults {
    fn one(line: usize, place: Place, what: Problem) -> Faults {
        Faults { shown: vec![Fault { line, place, what }], more: 0 }
    }

    fn add(&mut self, line: usize, place: Place, what: Problem) {
        if self.shown.len() < FAULTS_SHOWN_MAX {
            self.shown.push(Fault { line, place, what });
        } else {
            self.more += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }
}

fn written(instead: &Option<ClientName>) -> String {
    instead.as_ref().map_or_else(String::new, |name| format!("; write {name}"))
}

/// The text of a file, which has to be UTF-8.
pub fn text_of_sheet(bytes: &[u8]) -> Result<&str, Faults> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
        let (line, character) = place(good, good.len());
        Faults::one(line, Place::Character(character), Problem::Encoding)
    })
}

/// The workstations of a list, in the order of their names; or all that is wrong with it.
pub fn read_sheet(text: &str) -> Result<Vec<Workstation>, Faults> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let first = text.lines().map(str::trim).find(|line| !line.is_empty());
    let first = first.ok_or_else(|| Faults::one(1, Place::Line, Problem::Empty))?;
    let separator = first.chars().find(|c| SEPARATORS.contains(c)).unwrap_or(',');
    check_quotes(text, separator)?;
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        // Lines of another length are told with all others that are wrong.
        .flexible(true)
        .trim(Trim::All)
        .delimiter(separator as u8)
        .from_reader(text.as_bytes());
    let (mut lines, mut columns, mut rows) = (Lines::new(text), None, Rows::default());
    for record in reader.records() {
        let record = record.map_err(|error| Faults::one(1, Place::Line, Problem::Other(error.to_string())))?;
        let line = lines.of(record.position().map_or(0, |position| position.byte() as usize));
        match &columns {
            None => columns = Some(Columns::read(line, &record)?),
            // Spreadsheets leave such lines at the end.
            Some(_) if record.iter().all(str::is_empty) => {}
            Some(columns) => rows.add(line, columns, &record),
        }
    }
    if rows.faults.is_empty() && rows.all.is_empty() {
        rows.faults.add(1, Place::Line, Problem::NoWorkstation);
    }
    if !rows.faults.is_empty() {
        return Err(rows.faults);
    }
    rows.all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(rows.all)
}

/// Quotes stand around whole fields, or the fields are other ones than whoever wrote them meant.
fn check_quotes(text: &str, separator: char) -> Result<(), Faults> {
    let is_border = |c: Option<char>| c.is_none_or(|c| c == separator || c == '\n' || c == '\r');
    let (mut faults, mut opened) = (Faults::default(), None);
    for (at, _) in text.match_indices('"') {
        let (before, after) = (text[..at].chars().next_back(), text[at + 1..].chars().next());
        let is_right = match opened {
            None => is_border(before),
            Some(_) => is_border(after),
        };
        if !is_right {
            let (line, character) = place(text, at);
            // Behind it nobody knows what is quoted.
            return Err(Faults::one(line, Place::Character(character), Problem::Quote));
        }
        opened = if opened.is_none() { Some(at) } else { None };
    }
    if let Some(at) = opened {
        let (line, character) = place(text, at);
        faults.add(line, Place::Character(character), Problem::OpenQuote);
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Line and character of a byte, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    let start = before.rfind(['\n', '\r']).map_or(0, |end| end + 1);
    (Lines::new(text).of(at), before[start..].chars().count() + 1)
}

/// Counts lines, whatever they end with; to be asked for one place after the other.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Lines<'a> {
        Lines { bytes: text.as_bytes(), at: 0, line: 1 }
    }

    /// The line of what stands at a byte or, if lines end there, behind them.
    fn of(&mut self, byte: usize) -> usize {
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        while let Some(here) = self.bytes.get(self.at).filter(|here| self.at < byte || is_end(here)) {
            let ends = match here {
                b'\n' => true,
                b'\r' => self.bytes.get(self.at + 1) != Some(&b'\n'),
                _ => false,
            };
            self.line += usize::from(ends);
            self.at += 1;
        }
        self.line
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    Mac,
    Uuid,
    Lab,
    Boots,
}

/// The columns that there are, in order.
struct Columns(Vec<Column>);

impl Columns {
    fn read(line: usize, header: &StringRecord) -> Result<Columns, Faults> {
        let (mut columns, mut faults): (Vec<Column>, _) = (Vec::new(), Faults::default());
        for (at, name) in header.iter().enumerate() {
            let place = || Place::Column { number: at + 1, name: name.to_owned() };
            let column = match name.to_lowercase().as_str() {
                "name" => Column::Name,
                "mac" => Column::Mac,
                "uuid" => Column::Uuid,
                "lab" => Column::Lab,
                "boots" => Column::Boots,
                _ => {
                    let place = Place::Column { number: at + 1, name: shown(name) };
                    faults.add(line, place, Problem::UnknownColumn(shown(name)));
                    continue;
                }
            };
            match columns.contains(&column) {
                true => faults.add(line, place(), Problem::ColumnTwice),
                false => columns.push(column),
            }
        }
        if faults.is_empty() && !columns.contains(&Column::Name) {
            faults.add(line, Place::Line, Problem::NoNameColumn);
        }
        if faults.is_empty() && !columns.iter().any(|column| matches!(column, Column::Mac | Column::Uuid)) {
            faults.add(line, Place::Line, Problem::NoIdentityColumn);
        }
        if faults.is_empty() { Ok(Columns(columns)) } else { Err(faults) }
    }

    fn place(&self, column: Column) -> Place {
        let name = match column {
            Column::Name => "name",
            Column::Mac => "mac",
            Column::Uuid => "uuid",
            Column::Lab => "lab",
            Column::Boots => "boots",
        };
        let at = self.0.iter().position(|known| *known == column);
        at.map_or(Place::Line, |at| Place::Column { number: at + 1, name: name.to_owned() })
    }

    fn field<'a>(&self, column: Column, record: &'a StringRecord) -> &'a str {
        let at = self.0.iter().position(|known| *known == column);
        at.and_then(|at| record.get(at)).unwrap_or_default()
    }
}

/// What was read so far.
#[derive(Default)]
struct Rows {
    all: Vec<Workstation>,
    faults: Faults,
    /// On which line each name, MAC and UUID is first.
    lines: HashMap<String, usize>,
}

impl Rows {
    fn add(&mut self, line: usize, columns: &Columns, record: &StringRecord) {
        let (has, wanted) = (record.len(), columns.0.len());
        if has != wanted {
            return self.faults.add(line, Place::Line, Problem::FieldCount { has, wanted });
        }
        let (name, macs, uuid) =
            (self.name(line, columns, record), self.macs(line, columns, record), self.uuid(line, columns, record));
        let lab = match columns.field(Column::Lab, record) {
            "" => Ok(None),
            lab => lab.parse().map(Some),
        };
        let lab = lab.map_err(|error: LabNameError| self.faults.add(line, columns.place(Column::Lab), error.into()));
        let boots = match columns.field(Column::Boots, record) {
            "" => Ok(None),
            boots => boots.parse::<ImageRef>().map(Some),
        };
        let boots = boots.map_err(|error| self.faults.add(line, columns.place(Column::Boots), error.into()));
        let (Some(name), Some(macs), Some(uuid), Ok(lab), Ok(boots)) = (name, macs, uuid, lab, boots) else { return };
        if macs.is_empty() && uuid.is_none() {
            return self.faults.add(line, Place::Line, Problem::NoIdentity);
        }
        self.all.push(Workstation { name, macs, uuid, lab, boots });
    }

    fn name(&mut self, line: usize, columns: &Columns, record: &StringRecord) -> Option<ClientName> {
        let place = || columns.place(Column::Name);
        let text = columns.field(Column::Name, record);
        if text.is_empty() {
            self.faults.add(line, place(), Problem::NoName);
            return None;
        }
        match text.parse::<ClientName>() {
            Ok(name) => self.once(line, place(), name.to_string()).then_some(name),
            Err(error) => {
                self.faults.add(line, place(), Problem::Name { error, instead: instead_of(text) });
                None
            }
        }
    }

    fn macs(&mut self, line: usize, columns: &Columns, record: &StringRecord) -> Option<Vec<Mac>> {
        let place = || columns.place(Column::Mac);
        let mut macs = Vec::new();
        for text in columns.field(Column::Mac, record).split_whitespace() {
            let mac = text.parse::<Mac>().map_err(|error| self.faults.add(line, place(), error.into())).ok()?;
            if !self.once(line, place(), mac.to_string()) {
                return None;
            }
            macs.push(mac);
        }
        macs.sort_unstable();
        Some(macs)
    }

    fn uuid(&mut self, line: usize, columns: &Columns, record: &StringRecord) -> Option<Option<Uuid>> {
        let place = || columns.place(Column::Uuid);
        let text = columns.field(Column::Uuid, record);
        if text.is_empty() {
            return Some(None);
        }
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.is_nil() || uuid.is_max() => self.faults.add(line, place(), Problem::NoUuid(uuid)),
            Ok(uuid) if self.once(line, place(), uuid.to_string()) => return Some(Some(uuid)),
            Ok(_) => {}
            Err(_) => self.faults.add(line, place(), Problem::Uuid(shown(text))),
        }
        None
    }

    /// Whether something is on the list for the first time. Names, MACs and UUIDs do not look alike.
    fn once(&mut self, line: usize, place: Place, what: String) -> bool {
        match self.lines.get(&what) {
            Some(before) => {
                self.faults.add(line, place, Problem::Twice { what, line: *before });
                false
            }
            None => {
                self.lines.insert(what, line);
                true
            }
        }
    }
}

/// The name that somebody may have meant: `pc-17` for `PC_17`.
fn instead_of(text: &str) -> Option<ClientName> {
    let near: String = text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    near.trim_matches('-').parse().ok()
}

/// A text that is wrong, as much of it as is shown.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 63;
    text.chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
