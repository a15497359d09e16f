//! Configuration files: TOML, strict, with errors that name file, line, key and fix.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{DeserializeOwned, Deserializer, Visitor};

/// The longest configuration file, in bytes: a thousand times what the samples take, and small
/// enough that pointing `--config` at the wrong file costs nothing.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the TOML file at `path` into `T`.
///
/// `T` must be marked `#[serde(deny_unknown_fields)]`, so that a misspelt key is an error.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let (text, _) = read(path).map_err(|error| unreadable(path, error))?;
    parse(path, &text)
}

/// Reads a file that decides who may do what: its text, for [`parse`].
///
/// It is refused if its owner is neither root nor this daemon's user, or if anybody but its owner can
/// write to it: whoever can write it decides. Both are asked of the opened file, so that it cannot be
/// swapped between check and use.
pub fn read_protected(path: &Path) -> Result<String, Error> {
    let (text, file) = read(path).map_err(|error| unreadable(path, error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, error))?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if mode & 0o022 != 0 || !ours {
        return Err(Error::Loose { path: path.to_owned(), mode, owner });
    }
    Ok(text)
}

/// Makes a `T` of the text of the file at `path`. The same rules as for [`load`].
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Error> {
    toml::from_str(text).map_err(|error| refused(path, text, &error))
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others can write to it.
    #[error(
        "`{}` decides who may do what, and others can write to it (mode {mode:04o}, owner {owner}): check what it \
         says, then chown root and chmod go-w", path.display()
    )]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The number of the user that owns it.
        owner: u32,
    },
    /// A key is unknown, missing, misspelt or has a value that does not fit.
    #[error("`{}` {place}: {because}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Line and key, as far as they are known.
        place: String,
        /// What is wrong and what was expected.
        because: String,
    },
    /// The file cannot be read at all.
    #[error("cannot read the configuration `{}`: {fix}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What to do about it.
        fix: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// A value that parsed but cannot be meant, found by the daemon's own checks: `key` as it
    /// stands in the file at `path`, and `because` naming the fault and the fix.
    pub fn value(path: &Path, key: &str, because: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), place: format!("key `{key}`"), because: because.into() }
    }
}

/// A length of time in a configuration: `"12h"`, `"12h 15m"`, `"5s"`, `"250ms"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// For defaults: `seconds` whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The length of time.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map(Self).map_err(|cause| {
            format!("`{text}` is no length of time ({cause}); write for example \"12h\" or \"250ms\"")
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(formatter)
    }
}

impl<'de> serde::Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, "a length of time such as \"12h\" or \"250ms\"")
    }
}

/// A number of bytes in a configuration: `"64KiB"`, `"1MiB"`, `"2GiB"`, `"512B"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// For defaults: `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; on a machine whose addresses are narrower than
    /// the number, the most that it can hold.
    pub fn length(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Units, longest name first so that `KiB` is not read as `B`.
const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits.trim_end(), *factor)))
            .filter(|(digits, _)| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|(digits, factor)| digits.parse::<u64>().ok()?.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no size; write for example \"64KiB\" or \"1MiB\""))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        write!(formatter, "{}{unit}", self.0 / factor)
    }
}

impl<'de> serde::Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, "a size such as \"64KiB\" or \"1MiB\"")
    }
}

/// Reads a `T` out of a string, with `T`'s own explanation when it does not fit. `expected`
/// completes the sentence "invalid type: integer, expected …".
pub(crate) fn deserialize_text<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    struct Text<T>(&'static str, std::marker::PhantomData<T>);

    impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(expected, std::marker::PhantomData))
}

fn read(path: &Path) -> io::Result<(String, File)> {
    let mut text = String::new();
    let file = File::open(path)?;
    // One byte more than allowed, so that a file of exactly the limit is told from a longer one.
    let length = (&file).take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok((text, file))
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Unreadable { path: path.to_owned(), fix: read_fix(&source), source }
}

fn read_fix(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create it from the commented sample of the same name",
        io::ErrorKind::PermissionDenied => "make it readable for the user of this daemon",
        io::ErrorKind::InvalidData => "save it as UTF-8",
        io::ErrorKind::FileTooLarge => "give the configuration, not another file",
        _ => "check the path",
    }
}

fn refused(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let place = error.span().map_or_else(|| "as a whole".to_owned(), |span| place(text, span.start));
    Error::Refused { path: path.to_owned(), place, because: error.message().trim().replace('\n', "; ") }
}

/// "line 3, key `clock_skew`". Only the key is shown, never the value: a database's URL may hold
/// a password.
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count();
    let content = text.lines().nth(line).unwrap_or_default().trim();
    let number = line + 1;
    match content.split_once('=') {
        Some((key, _)) => format!("line {number}, key `{}`", key.trim()),
        None if content.starts_with('[') => format!("line {number}, table `{content}`"),
        None => format!("line {number}"),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        identity: String,
        clock_skew: Option<Span>,
        max_request: Option<ByteSize>,
        #[serde(default)]
        route: Vec<Route>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Route {
        path: String,
    }

    fn load_text(text: &str) -> Result<Sample, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.toml");
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    #[test]
    fn values_with_units() {
        let sample =
            load_text("identity = \"E\"\nclock_skew = \"250ms\"\nmax_request = \"64KiB\"\n").unwrap();
        assert_eq!(sample.clock_skew.unwrap().duration(), Duration::from_millis(250));
        assert_eq!(sample.max_request.unwrap().bytes(), 65536);
    }

    #[test]
    fn refusals_name_file_line_key_and_fix() {
        let cases: [(&str, &[&str]); 9] = [
            (
                "identity = \"E\"\nclock_skwe = \"5s\"\n",
                &["line 2", "`clock_skwe`", "unknown field", "`clock_skew`"],
            ),
            ("clock_skew = \"5s\"\n", &["missing field `identity`"]),
            ("identity = 7\n", &["line 1", "`identity`", "expected a string"]),
            ("identity = \"E\"\n\nclock_skew = \"5 parsecs\"\n", &["line 3", "`clock_skew`", "\"12h\""]),
            ("identity = \"E\"\nclock_skew = 5\n", &["line 2", "`clock_skew`", "a length of time"]),
            ("identity = \"E\"\nmax_request = \"1MB\"\n", &["line 2", "`max_request`", "\"1MiB\""]),
            ("identity = \"E\"\n[[route]]\npaht = \"/\"\n", &["line 3", "`paht`", "`path`"]),
            ("identity = \"E\"\nidentity = \"E\"\n", &["line 2", "`identity`", "duplicate"]),
            ("identity = \"E\n", &["line 1"]),
        ];
        for (text, expected) in cases {
            let error = load_text(text).unwrap_err().to_string();
            for part in expected.iter().chain(&["sample.toml"]) {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        }
    }

    #[test]
    fn a_value_is_never_shown() {
        let error = load_text("identity = \"E\"\ndatabase = \"postgres://u:hunter2@h/d\"\n").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn files_that_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent.toml");
        let error = load::<Sample>(&path).unwrap_err().to_string();
        assert!(error.contains("absent.toml") && error.contains("sample"), "{error}");

        let length = usize::try_from(FILE_BYTES_MAX).unwrap();
        let long = format!("identity = \"{}\"", "E".repeat(length));
        assert!(matches!(load_text(&long), Err(Error::Unreadable { .. })));
    }

    #[test]
    fn a_file_that_others_can_write_decides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, "identity = \"E\"").unwrap();
        for (mode, good) in
            [(0o600, true), (0o644, true), (0o640, true), (0o664, false), (0o646, false), (0o620, false)]
        {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&path, permissions).unwrap();
            match read_protected(&path) {
                Ok(_) => assert!(good, "{mode:o}"),
                Err(error) => {
                    assert!(!good && matches!(error, Error::Loose { .. }), "{mode:o}: {error}");
                    assert!(error.to_string().contains("policy.toml"), "{error}");
                }
            }
        }
    }

    #[test]
    fn byte_sizes() {
        let cases = [
            ("0B", Some(0)),
            ("512B", Some(512)),
            ("64KiB", Some(65536)),
            ("64 KiB", Some(65536)),
            ("2GiB", Some(2 << 30)),
            ("", None),
            ("B", None),
            ("+5B", None),
            ("-1KiB", None),
            ("64", None),
            ("64kb", None),
            ("99999999999999999999B", None),
            ("18446744073709551615KiB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<ByteSize>().ok().map(ByteSize::bytes), expected, "`{text}`");
        }
        for text in ["0B", "1KiB", "1536B", "3MiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }
}
