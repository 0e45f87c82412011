//! The documentation's commands.

use super::emulator::Emulator;

/// Of a test that goes through a section of a page.
pub enum Step {
    /// Something happens before.
    Given(&'static str),
    /// The section's next command, which prints these texts.
    Run(&'static [&'static str]),
    /// The same for one that fails: the emulator does not serve its call, or something that the page names is missing.
    Fails(&'static [&'static str]),
    /// What is so afterwards: this script prints these texts.
    Then(&'static str, &'static [&'static str]),
}

/// A page, a heading there, and what happens below it.
pub type Walk = (&'static str, &'static str, &'static [Step]);

/// A page's text.
fn page(page: &str) -> String {
    let file = super::root().join(page);
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// A part of a page.
enum Part<'a> {
    Heading(&'a str),
    /// A block in this language.
    Block(&'a str, String),
    /// Lines of text.
    Text(String),
}

/// The parts of a page, one after the other.
fn parts(page: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let block = lines.by_ref().take_while(|line| *line != "```").flat_map(|line| [line, "\n"]);
            parts.push(Part::Block(language, block.collect()));
        } else if line.starts_with('#') {
            parts.push(Part::Heading(line));
        } else if let Some(Part::Text(text)) = parts.last_mut() {
            text.extend([line, "\n"]);
        } else {
            parts.push(Part::Text(format!("{line}\n")));
        }
    }
    parts
}

/// How deep a heading is.
fn level(heading: &str) -> usize {
    heading.chars().take_while(|char| *char == '#').count()
}

/// What stands between the backticks of a text.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Where the links and pictures of a page lead.
pub fn links(name: &str) -> Vec<String> {
    let text = page(name);
    let mut links = Vec::new();
    for part in parts(&text) {
        let Part::Text(text) = part else { continue };
        let without_code: String = text.split('`').step_by(2).collect();
        let after = without_code.split("](").skip(1);
        links.extend(after.filter_map(|link| Some(link.split_once(')')?.0.to_owned())));
    }
    links
}

/// The blocks of bash below this heading of a page in `docs`, one after the other.
pub fn commands_below(name: &str, heading: &str) -> Vec<String> {
    let text = page(&format!("docs/{name}"));
    let is_heading = |part: &Part<'_>| matches!(part, Part::Heading(line) if *line == heading);
    let mut below = parts(&text).into_iter().skip_while(|part| !is_heading(part));
    assert!(below.next().is_some(), "docs/{name} has no {heading}");
    let is_above = |part: &Part<'_>| matches!(part, Part::Heading(line) if level(line) <= level(heading));
    let commands = |part| match part {
        Part::Block("bash", commands) => Some(commands),
        _ => None,
    };
    below.take_while(|part| !is_above(part)).filter_map(commands).collect()
}

/// The words of the only command below this heading, with another address in the place of the page's.
pub fn words_below(name: &str, heading: &str, (address, other): (&str, &str)) -> Vec<String> {
    let [command] = &commands_below(name, heading)[..] else {
        panic!("docs/{name} has one command below {heading}")
    };
    assert!(command.contains(address), "{command}");
    words(&command.replace(address, other))
}

/// Each heading of a page, with the commands up to the next heading: the blocks of bash, what is typed on a console, and
/// what the text names as a whole command of the AWS CLI or of `infra/deploy`, without a placeholder.
pub fn sections(name: &str) -> Vec<(String, Vec<String>)> {
    let text = page(name);
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for part in parts(&text) {
        let commands: Vec<String> = match part {
            Part::Heading(heading) => {
                sections.push((heading.to_owned(), Vec::new()));
                continue;
            }
            Part::Block("bash", commands) => vec![commands],
            Part::Block("console", typed) => {
                typed.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect()
            }
            Part::Block(..) => continue,
            Part::Text(text) => code(&text).filter(|code| is_whole(code)).map(str::to_owned).collect(),
        };
        sections.last_mut().expect("a page begins with a heading").1.extend(commands);
    }
    sections
}

/// Each command of `failoverctl` that a page names or shows, in words.
pub fn failoverctl_of(name: &str) -> Vec<Vec<String>> {
    let text = page(name);
    let shown = parts(&text).into_iter().flat_map(|part| match part {
        Part::Heading(_) => Vec::new(),
        Part::Block(_, text) => text.lines().map(|line| line.trim_start_matches("$ ").to_owned()).collect(),
        Part::Text(text) => code(&text).map(str::to_owned).collect(),
    });
    let commands = shown.filter(|command| command.starts_with("failoverctl "));
    let ours = |command: String| {
        let given = command
            .replace("--reason …", "--reason x")
            .replace(" SHELL", " bash")
            .replace("$REGION", "eu-west-1");
        // What follows is the shell's, or says that more could follow.
        words(given.split([';', '|', '>', '…', '<', '[']).next().unwrap_or_default().trim_end_matches(" 2"))
    };
    commands.map(ours).collect()
}

/// The words of a command, as a shell would take them.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for character in command.trim().chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, ' ' | '\n') => words.push(String::new()),
            (_, _) => words.last_mut().expect("there is one").push(character),
        }
    }
    words.retain(|word| !word.is_empty() && word != "\\");
    words
}

/// Whether it is a command with all that it needs.
fn is_whole(code: &str) -> bool {
    let is_placeholder =
        |word: &str| word.len() > 2 && word.chars().all(|char| char.is_ascii_uppercase() || char == '_');
    let arguments = code.split_whitespace().count();
    let is_command =
        (code.starts_with("aws ") && arguments > 3) || (code.starts_with("infra/deploy ") && arguments > 2);
    is_command && !code.contains('…') && !code.split_whitespace().any(is_placeholder)
}

/// Goes through these sections of a page in one shell, and runs each of their commands.
pub async fn walk(aws: &Emulator, walks: &[Walk], prelude: &str, variables: &[(&str, &str)]) {
    let mut script = prelude.to_owned();
    let mut expected = Vec::new();
    for (page, heading, steps) in walks {
        let sections = sections(page);
        let found = sections.iter().find(|(name, _)| name == heading);
        let mut commands = found.unwrap_or_else(|| panic!("{page} has no {heading}")).1.iter();
        for step in *steps {
            let mut next =
                || commands.next().unwrap_or_else(|| panic!("{heading} has no further command")).clone();
            let (command, texts) = match *step {
                Step::Given(command) => (command.to_owned(), &[][..]),
                Step::Run(texts) => (next(), texts),
                Step::Fails(texts) => (
                    format!("if {{\n{}\n}}; then echo it did not fail; exit 1; fi", next().trim_end()),
                    texts,
                ),
                Step::Then(command, texts) => (command.to_owned(), texts),
            };
            script.extend(["\necho '=== '\n", command.trim_end(), "\n"]);
            expected.push((heading, command, texts));
        }
        assert_eq!(commands.next(), None, "{heading}: a command that is not run");
    }
    let (status, said) = aws.bash(&format!("exec 2>&1\n{script}"), variables).await;
    let outputs: Vec<_> = said.split("=== \n").skip(1).collect();
    for ((heading, command, texts), output) in expected.iter().zip(&outputs) {
        for text in *texts {
            assert!(output.contains(text), "{heading}: {command}\ndoes not print {text}:\n{output}");
        }
    }
    let last = outputs.len().checked_sub(1).unwrap_or_else(|| panic!("the prelude failed:\n{said}"));
    assert!(status == Some(0), "{:?} ended with {status:?}:\n{}", expected[last], outputs[last]);
    assert_eq!(outputs.len(), expected.len(), "{said}");
}
