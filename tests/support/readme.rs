//! README's commands.

/// README's blocks of bash below this heading, one after the other.
pub fn commands_below(heading: &str) -> Vec<String> {
    let readme = include_str!("../../README.md");
    let level = heading.split(' ').next().unwrap_or_default().len();
    let mut lines = readme.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "README has no {heading}");
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
