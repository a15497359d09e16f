//! The commands of `RECOVERY.md`.

const PAGE: &str = include_str!("../../../RECOVERY.md");

/// The commands in the block that follows a marker, without what is said beside them.
pub fn commands(marker: &str) -> Vec<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("<!-- {marker} -->\n```sh\n")).expect(marker);
    let lines = rest.split_once("```").unwrap().0.lines();
    lines.map(|line| line.split_once(" #").map_or(line, |(command, _)| command).trim()).collect()
}
