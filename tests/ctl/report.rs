//! A folder for a report, and what was written there.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

/// A folder that no other test has. Dropped, it is removed.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("report-{name}-{:016x}", fastrand::u64(..))))
    }

    pub fn name(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    /// The first report's file with this extension.
    pub fn file(&self, extension: &str) -> String {
        let files = fs::read_dir(&self.0).expect("it was made").map(|file| file.expect("it is there").path());
        let mut files: Vec<_> =
            files.filter(|file| file.extension().is_some_and(|is| is == extension)).collect();
        files.sort();
        fs::read_to_string(files.first().expect("there is one")).expect("UTF-8")
    }

    /// The first report.
    pub fn json(&self) -> Value {
        let mut json: Value = serde_json::from_str(&self.file("json")).expect("JSON");
        json["report"].take()
    }

    /// Whether a step of the first report is of this source, and has this text, in this order.
    pub fn has_steps(&self, expected: &[(&str, &str)]) -> bool {
        let report = self.json();
        let mut steps = report["steps"].as_array().expect("a list").iter();
        expected.iter().all(|(source, text)| {
            steps.any(|step| {
                step["source"] == *source && step["what"].as_str().is_some_and(|what| what.contains(text))
            })
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
