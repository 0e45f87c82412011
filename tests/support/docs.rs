//! The documentation's commands.

/// The blocks of bash below this heading of a page in `docs`, one after the other.
pub fn commands_below(page: &str, heading: &str) -> Vec<String> {
    let text = super::root().join("docs").join(page);
    let text = std::fs::read_to_string(text).unwrap_or_else(|error| panic!("docs/{page}: {error}"));
    let level = heading.split(' ').next().unwrap_or_default().len();
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "docs/{page} has no {heading}");
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in lines {
        match (&mut block, line) {
            (None, "```bash") => block = Some(String::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(block), line) => block.extend([line, "\n"]),
            (None, line) if line.starts_with('#') && line.find(' ').is_some_and(|found| found <= level) => {
                break;
            }
            (None, _) => {}
        }
    }
    blocks
}
