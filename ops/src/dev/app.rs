//! The sample apps: what runs each, and what is left out because this machine lacks it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::child::{Program, Ready};
use crate::failure::{Exit, Failure, OrFail};

/// A sample app that this machine can run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct App {
    pub(crate) name: &'static str,
    executable: PathBuf,
    arguments: Vec<OsString>,
    stdin: Option<PathBuf>,
}

/// How an app is run.
struct Recipe {
    name: &'static str,
    interpreter: &'static str,
    /// Below the directory of the apps.
    source: &'static str,
    /// How the interpreter is given the source.
    given: Given,
}

enum Given {
    /// As its first argument.
    Argument,
    /// On standard input, as an ECMAScript module.
    ModuleOnInput,
}

const INTERPRETED: [Recipe; 3] = [
    Recipe { name: "python", interpreter: "python3", source: "python/server.py", given: Given::Argument },
    Recipe { name: "ruby", interpreter: "ruby", source: "ruby/server.rb", given: Given::Argument },
    Recipe {
        name: "typescript",
        interpreter: "node",
        source: "typescript/server.ts",
        given: Given::ModuleOnInput,
    },
];

/// The apps that can run, and a line on each that cannot.
pub(crate) fn find(apps: Option<&Path>, binaries: &Path) -> Result<(Vec<App>, Vec<String>), Failure> {
    let sources = match apps {
        Some(directory) => Some(directory.canonicalize().or_fail(Exit::Usage, || {
            format!("cannot read the directory --apps `{}`", directory.display())
        })?),
        None => binaries.ancestors().map(|parent| parent.join("tests/apps")).find(|apps| apps.is_dir()),
    };
    let mut found = Vec::new();
    let mut left_out = Vec::new();
    for recipe in INTERPRETED {
        match recipe.find(sources.as_deref()) {
            Ok(app) => found.push(app),
            Err(why) => left_out.push(format!("leaving out the {} app: {why}", recipe.name)),
        }
    }
    let executable = binaries.join("app-rust");
    if executable.is_file() {
        found.push(App { name: "rust", executable, arguments: Vec::new(), stdin: None });
    } else {
        left_out.push(format!("leaving out the rust app: `{}` is not built", executable.display()));
    }
    Ok((found, left_out))
}

impl Recipe {
    fn find(&self, sources: Option<&Path>) -> Result<App, String> {
        let source =
            sources.ok_or("its source was not found; name its directory with --apps")?.join(self.source);
        if !source.is_file() {
            return Err(format!("`{}` is missing", source.display()));
        }
        let executable =
            in_path(self.interpreter).ok_or_else(|| format!("`{}` is not installed", self.interpreter))?;
        let (arguments, stdin) = match self.given {
            Given::Argument => (vec![source.into_os_string()], None),
            Given::ModuleOnInput => (vec!["--input-type=module".into(), "-".into()], Some(source)),
        };
        Ok(App { name: self.name, executable, arguments, stdin })
    }
}

impl App {
    pub(crate) fn program(&self, listen: SocketAddr, secret: &Path) -> Program {
        let mut arguments = self.arguments.clone();
        arguments.extend([listen.to_string().into(), secret.into()]);
        Program {
            name: format!("app-{}", self.name),
            executable: self.executable.clone(),
            arguments,
            environment: Vec::new(),
            stdin: self.stdin.clone(),
            ready: Ready::Connects(listen),
        }
    }
}

/// The program of that name in PATH.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_reason() {
        let empty = tempfile::tempdir().unwrap();
        let (found, left_out) = find(Some(empty.path()), empty.path()).unwrap();
        assert_eq!(found, []);
        assert_eq!(left_out.len(), 4);
        assert!(left_out[0].starts_with("leaving out the python app: `"), "{}", left_out[0]);
        assert!(left_out[3].ends_with("app-rust` is not built"), "{}", left_out[3]);
    }

    #[test]
    fn a_wrong_directory_is_an_error_not_a_left_out_app() {
        let failure = find(Some(Path::new("/nowhere/at/all")), Path::new("/")).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
    }

    #[test]
    fn interpreters_are_looked_for_in_path() {
        assert!(in_path("sh").is_some());
        assert_eq!(in_path("no-such-interpreter"), None);
    }
}
