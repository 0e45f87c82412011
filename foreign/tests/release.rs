//! `infra/release`, and what its reader does with a release on a machine without a compiler and without Python. The
//! programs in these releases are scripts that start the ones under test, because a release's own take half an hour.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::docs::Step::{Given, Run, Then};
use support::docs::{Walk, walk};
use support::emulator::{Emulator, free_port};
use support::primary::Primary;
use support::program::program;

const PAGE: &str = "docs/release.md";
const VERSION: &str = "0.1.0";

/// A checkout of what is here, committed or not, beside a folder with artifacts of its commit; and `cargo-cyclonedx`,
/// which takes minutes to build.
const CHECKOUT: &str = r##"
export GIT_AUTHOR_DATE='2026-01-02T03:04:05Z' GIT_COMMITTER_DATE='2026-01-02T03:04:05Z'
export GIT_AUTHOR_NAME=test GIT_AUTHOR_EMAIL=test GIT_COMMITTER_NAME=test GIT_COMMITTER_EMAIL=test
export PATH=$WORK/bin:$PATH
checkout() {
    mkdir -p "$WORK/$1"
    tar --exclude=./target --exclude=./.git --exclude=./fuzz/target --exclude=__pycache__ -cf - . | tar -xC "$WORK/$1"
    git -C "$WORK/$1" init --quiet
    commit "$1"
}
commit() { git -C "$WORK/$1" add --all && git -C "$WORK/$1" commit --quiet --message test; }
artifacts() {
    local commit
    commit=$(git -C "$WORK/$1" describe --always --abbrev=12)
    python - "$WORK/$1-artifacts" "$2 ($commit)" <<'EOF'
import os, sys, zipfile

folder, version = sys.argv[1:]
os.makedirs(folder, exist_ok=True)
for name in ("failover-lock", "failover-latch", "site-fence", "lease-keeper", "failoverctl"):
    for architecture in ("arm64", "x86_64"):
        program = os.environ.get(name.replace("-", "_"), "true")
        entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
        entry.create_system, entry.external_attr = 3, 0o100755 << 16
        with zipfile.ZipFile(f"{folder}/{name}-{architecture}.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo("VERSION"), f"{name} {version}\n")
            archive.writestr(entry, f"#!/bin/sh\n# {architecture}\nexec '{program}' \"$@\"\n")
EOF
}
release() {
    "$WORK/$1/infra/release" "$2" --artifacts "$WORK/$1-artifacts" "${@:3}"
}
mkdir -p "$WORK/bin"
cat >"$WORK/bin/cargo-cyclonedx" <<'EOF'
#!/bin/sh
[ "$2" != --version ] || { echo cargo-cyclonedx-cyclonedx 0.5.9; exit; }
while [ $# -gt 0 ]; do
    [ "$1" != --manifest-path ] || { folder=${2%/Cargo.toml}; ls "$folder/src/lib.rs" >/dev/null || exit; }
    shift
done
printf '{"bomFormat": "CycloneDX", "folder": "%s", "time": "%s"}\n' "$folder" "$SOURCE_DATE_EPOCH" \
    >"$folder/failover-lock.cdx.json"
EOF
chmod 755 "$WORK/bin/cargo-cyclonedx"
"##;

/// A folder below `target/tmp`; dropped, it goes.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("release-{}", free_port()));
        fs::create_dir_all(&folder).expect("target/tmp can be written");
        Self(folder)
    }

    /// Runs a script in the repository: its exit status, and what it prints.
    async fn run(&self, aws: &Emulator, script: &str) -> (Option<i32>, String) {
        let home = std::env::var("HOME").expect("there is a home");
        let of =
            |name: &str, folder: &str| std::env::var(name).unwrap_or_else(|_| format!("{home}/{folder}"));
        let (cargo, rustup) = (of("CARGO_HOME", ".cargo"), of("RUSTUP_HOME", ".rustup"));
        let (lock, ctl) = (program("failover-lock"), program("failoverctl"));
        let variables = [
            ("WORK", self.0.to_str().expect("UTF-8")),
            ("CARGO_HOME", &cargo),
            ("RUSTUP_HOME", &rustup),
            ("failover_lock", lock.to_str().expect("UTF-8")),
            ("failoverctl", ctl.to_str().expect("UTF-8")),
        ];
        aws.bash(&format!("exec 2>&1\n{CHECKOUT}{script}"), &variables).await
    }

    fn read(&self, file: &str) -> String {
        let path = self.0.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_str(&self.read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn the_same_source_and_artifacts_give_the_same_release_in_any_folder() {
    let (aws, work) = (Emulator::ministack().await, Folder::new());
    let script = r#"
checkout a; checkout b; artifacts a 0.1.0; artifacts b 0.1.0
release a 0.1.0; release b 0.1.0
cd "$WORK"
cmp a/target/dist/failover-lock-0.1.0.tar.gz b/target/dist/failover-lock-0.1.0.tar.gz
mkdir unpacked
(cd a/target/dist && sha256sum -c failover-lock-0.1.0.tar.gz.sha256)
tar -xzf a/target/dist/failover-lock-0.1.0.tar.gz -C unpacked
cd unpacked/failover-lock-0.1.0
sha256sum --quiet -c SHA256SUMS
find . -type f ! -name SHA256SUMS | sed 's,^\./,,' | sort | diff - <(sed 's/^[0-9a-f]*  //' SHA256SUMS | sort)
ls completions/failoverctl.bash completions/failoverctl.zsh man/failoverctl.1 docs/runbook.md README.md LICENSE
# Each key of a template is the name of an artifact.
for template in failover-lock latch-region site-fence; do
    ls "functions/$(sed -n '/^  CodeKey:$/,/^  [A-Z]/s/^    Default: //p' "infra/$template.yaml")"
done
[ "$(wc -c <infra/site-fence.yaml)" -le 51200 ]
cfn-lint infra/{failover-lock,latch-region,site-fence}.yaml
for image in images/*.tar; do mkdir -p "$WORK/$image" && tar -xf "$image" -C "$WORK/$image"; done
! grep -rqF "$WORK" --exclude-dir=bin --exclude-dir=functions .
"#;
    let (status, said) = work.run(&aws, script).await;
    assert_eq!(status, Some(0), "{said}");

    let folder = "unpacked/failover-lock-0.1.0";
    let sums = work.read(&format!("{folder}/SHA256SUMS"));
    for program in ["failover-lock", "failover-latch", "site-fence"] {
        for architecture in ["arm64", "x86_64"] {
            let line = sums.lines().find(|line| {
                line.contains(&format!("  functions/{program}-{VERSION}-")) && line.contains(architecture)
            });
            let (sum, name) = line.expect("the function is there").split_once("  ").unwrap();
            assert!(name.ends_with(&format!("-{architecture}-{sum}.zip")), "{name}");
        }
    }
    for name in ["failoverctl", "lease-keeper"] {
        assert!(
            sums.contains(&format!("  bin/{name}-arm64\n"))
                && sums.contains(&format!("  bin/{name}-x86_64\n")),
            "{sums}"
        );
    }

    // What the Dockerfile says, in what a registry receives.
    for (image, architecture) in [("lease-keeper-arm64", "arm64"), ("failover-latch-x86_64", "amd64")] {
        let blob = |descriptor: &Value| {
            format!(
                "images/{image}.tar/blobs/sha256/{}",
                &descriptor["digest"].as_str().unwrap()["sha256:".len()..]
            )
        };
        let index = work.json(&format!("images/{image}.tar/index.json"));
        let manifest = work.json(&blob(&index["manifests"][0]));
        let config = work.json(&blob(&manifest["config"]));
        let name = image.rsplit_once('-').unwrap().0;
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Entrypoint"][0], format!("/{name}"));
        assert_eq!(config["created"], "2026-01-02T03:04:05Z");
    }

    let provenance = work.json(&format!("{folder}/provenance.json"));
    let subjects: BTreeSet<_> = provenance["subject"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subject| {
            format!(
                "{}  {}",
                subject["digest"]["sha256"].as_str().unwrap(),
                subject["name"].as_str().unwrap()
            )
        })
        .collect();
    let listed: BTreeSet<_> =
        sums.lines().filter(|line| !line.ends_with("  provenance.json")).map(str::to_owned).collect();
    assert_eq!(subjects, listed);

    let licences = work.read(&format!("{folder}/LICENSES/crates.txt"));
    for text in [
        "\nring 0.17",
        "\nlambda_runtime 1.5",
        "\nmusl, the C library (MIT)\n",
        "Permission is hereby granted",
    ] {
        assert!(licences.contains(text), "{text}");
    }
    assert_eq!(work.json(&format!("{folder}/sbom.cdx.json"))["folder"], "/src");
}

#[tokio::test]
async fn a_release_is_made_of_one_commit_and_its_own_version() {
    let (aws, work) = (Emulator::ministack().await, Folder::new());
    let script = r#"
checkout a; artifacts a 0.1.0
try() { echo "--- $1"; shift; "$@" && { echo it did not fail; exit 1; }; true; }
try version release a 0.2.0
try none "$WORK/a/infra/release"
try architecture release a 0.1.0 "$([ "$(uname -m)" = x86_64 ] && echo arm64 || echo x86_64)"
echo >"$WORK/a/left-over"
try dirty release a 0.1.0
commit a; rm "$WORK/a-artifacts/site-fence-arm64.zip"
try stale release a 0.1.0
artifacts a 0.1.0; rm "$WORK/a-artifacts/site-fence-arm64.zip"
try missing release a 0.1.0
echo 'RUN true' >>"$WORK/a/infra/lease-keeper.Dockerfile"; commit a; artifacts a 0.1.0
try instruction release a 0.1.0
"#;
    let (status, said) = work.run(&aws, script).await;
    assert_eq!(status, Some(0), "{said}");
    let mut parts = said.split("--- ").skip(1);
    for text in [
        "Cargo.toml has the version 0.1.0, not 0.2.0",
        "the version is missing",
        "completions and manual pages come from failoverctl for this machine",
        "the checkout differs from its commit; commit or remove these files first:\n?? left-over",
        "failover-lock-arm64.zip is not of 0.1.0 (",
        "site-fence-arm64.zip: run infra/package --program site-fence arm64",
        "an instruction that it does not know: RUN true",
    ] {
        let part = parts.next().unwrap_or_default();
        assert!(part.contains(text), "{text}: {part}");
    }
}

/// What the reader has: the AWS CLI, and programs that every system has.
const READER: &str = r#"
mkdir -p "$WORK/reader"
for name in awk bash cat chmod cp curl cut date dirname grep gzip head install ln ls mkdir mktemp mv rm sed sh sha256sum sleep sort tail tar tr uname wc; do
    ln -s "$(type -P "$name")" "$WORK/reader/$name"
done
ln -s "$(type -P aws)" "$WORK/reader/aws"
# For the latch, which asks name servers only after it has looked at the release.
ln -s "$(type -P true)" "$WORK/reader/dig"
SHASUM=$(type -P shasum) PERL=$(type -P perl)
export HOME=$WORK/home
export PATH=$HOME/.local/bin:$WORK/reader
for name in cargo rustc cc python3 git; do ! type -P "$name" >&2 || exit 1; done
infra/deploy() { command infra/deploy --wait 30 "$@"; }
failoverctl() {
  [ "$1" != restore ] || set -- "$@" --yes
  command failoverctl "$@"
}
path() { aws route53 get-health-check --health-check-id "$PRIMARY" --query HealthCheck.HealthCheckConfig.ResourcePath --output text; }
runs() { aws lambda get-function-configuration --function-name failover-lock:live --query Environment.Variables.ARTIFACT --output text; }
artifact() { aws cloudformation describe-stacks --stack-name failover --output text --query "Stacks[0].Outputs[?OutputKey=='Artifact'].OutputValue"; }
healthy() {
  aws cloudwatch put-metric-data --namespace AWS/Route53 --metric-name HealthCheckStatus \
    --dimensions "HealthCheckId=$PRIMARY" --value 1
  aws cloudwatch set-alarm-state --alarm-name failover-primary-unhealthy --state-value OK --state-reason test || true
}
refused() { echo "--- $1"; shift; "$@" && { echo it did not fail; exit 1; }; true; }
cd "$WORK/download"
healthy
"#;

const CHANGED: &str =
    "is not as it was published; unpack its archive again. Differences:\ninfra/failover-lock.yaml: FAILED";

const DOCUMENTED: &[Walk] = &[
    (PAGE, "## Unpack", &[Run(&["failover-lock-0.1.0.tar.gz: OK"])]),
    (PAGE, "## Install failoverctl", &[Run(&["failoverctl 0.1.0"])]),
    (
        PAGE,
        "## Deploy",
        &[
            Run(&["is guarded, as far"]),
            Then("artifact", &["failover-lock-0.1.0-"]),
            Given(
                "aws cloudwatch set-alarm-state --alarm-name failover-primary-unhealthy --state-value ALARM --state-reason test
                until path | grep -x /lb-check-failed-over; do sleep 0.1; done
                healthy",
            ),
            Then("failoverctl restore \"$PRIMARY\"", &["restored"]),
            Then("path", &["/lb-check\n"]),
            // What was changed after it was published is refused, whatever would use it.
            Given("echo >>infra/failover-lock.yaml"),
            Then("refused changed infra/deploy", &[CHANGED]),
            Then("refused latch command infra/deploy latch", &[CHANGED]),
            Then("refused folder bash -c 'cd / && \"$OLDPWD/infra/deploy\" --release \"$OLDPWD\"'", &[CHANGED]),
            Given("cd .. && tar -xzf \"failover-lock-$VERSION.tar.gz\" && cd \"failover-lock-$VERSION\""),
            Given("printf x >>functions/failover-lock-*-arm64-*.zip; cp functions/failover-lock-*-x86_64-*.zip ../kept.zip"),
            Then("refused zip infra/deploy", &["-arm64-", ": FAILED"]),
            Given("rm functions/failover-lock-*-arm64-*.zip; grep -v -e failover-lock-.*-arm64- SHA256SUMS >sums; mv sums SHA256SUMS"),
            Then("refused missing infra/deploy", &["this release has no failover-lock for arm64; it has: "]),
            Given("mv ../kept.zip \"$(echo functions/failover-lock-*-x86_64-*.zip | sed 's/0.1.0/0.0.9/')\""),
            Then("refused two infra/deploy --arch x86_64", &["has the artifacts of more than one release"]),
            Given("rm functions/failover-lock-0.1.0-*-x86_64-*.zip; grep -v -e failover-lock-.*-x86_64- SHA256SUMS >sums; mv sums SHA256SUMS"),
            Then("refused unlisted infra/deploy --arch x86_64", &["SHA256SUMS does not list functions/failover-lock-0.0.9"]),
            Given("sha256sum functions/failover-lock-0.0.9-* >>SHA256SUMS"),
            Then("refused version infra/deploy --arch x86_64", &["is not the version that its name says"]),
            Given("cd .. && tar -xzf \"failover-lock-$VERSION.tar.gz\" && cd \"failover-lock-$VERSION\" && rm functions/failover-lock-0.0.9-*"),
        ],
    ),
    (
        PAGE,
        "## Update",
        &[
            Then("grep -h CodeKey -A 2 infra/failover-lock.yaml", &["Default: failover-lock-0.1.0-"]),
            Run(&["is guarded, as far"]),
            Then("artifact; runs", &["failover-lock-0.2.0-", "\nfailover-lock-0.2.0-"]),
        ],
    ),
    (
        PAGE,
        "## Roll back",
        &[
            Run(&["failover-lock: back from version 2, failover-lock-0.2.0-", "look    versions ", "is guarded, as far"]),
            Then("runs", &["failover-lock-0.1.0-"]),
            Given(
                "aws cloudwatch set-alarm-state --alarm-name failover-primary-unhealthy --state-value ALARM --state-reason test
                until path | grep -x /lb-check-failed-over; do sleep 0.1; done
                healthy",
            ),
            Then("failoverctl restore \"$PRIMARY\"", &["restored"]),
            Then("../failover-lock-0.2.0/infra/deploy --wait 30; runs", &["from version 1 to 2", "\nfailover-lock-0.2.0-"]),
            Then(
                "bash ../infra/deploy --release \"file://$WORK/download/failover-lock-0.1.0.tar.gz\" --set DryRun=true --wait 0",
                &["which ends with infra/deploy --release file:///"],
            ),
            Then("artifact", &["failover-lock-0.1.0-"]),
            Given("sed 's/^./x/' ../failover-lock-0.1.0.tar.gz.sha256 >../other.tar.gz.sha256; cp ../failover-lock-0.1.0.tar.gz ../other.tar.gz"),
            Then("refused name infra/deploy --release \"file://$WORK/download/other.tar.gz\"", &["is not the checksum of other.tar.gz, but of: failover-lock-0.1.0.tar.gz"]),
            Given("sed 's/failover-lock-0.1.0/other/' ../other.tar.gz.sha256 >../sum; mv ../sum ../other.tar.gz.sha256"),
            Then("refused sum infra/deploy --release \"file://$WORK/download/other.tar.gz\"", &["does not have the SHA-256 of"]),
            Given("(cd .. && sha256sum other.tar.gz >other.tar.gz.sha256)"),
            Then("refused folder infra/deploy --release \"file://$WORK/download/other.tar.gz\"", &["has no folder other: it is not the release that its name says"]),
            Then("refused http infra/deploy --release http://127.0.0.1/failover-lock-0.1.0.tar.gz", &["cannot be fetched"]),
            Then("refused none infra/deploy --release ../nowhere", &["there is no folder ../nowhere; unpack the release first"]),
            Then("refused no-release infra/deploy --release ..", &[".. is not an unpacked release: it has no SHA256SUMS"]),
            Then("refused both infra/deploy --release .. --artifact x", &["give --release or --artifact, not both"]),
            // As on macOS.
            Given("rm \"$WORK/reader/sha256sum\"; ln -s \"$SHASUM\" \"$PERL\" \"$WORK/reader\""),
            Then("infra/deploy --set DryRun=true", &["dry run"]),
            Then("artifact", &["failover-lock-0.1.0-"]),
            Then("ls -A \"$TMPDIR\" | grep '^tmp\\.' || echo nothing is left", &["nothing is left"]),
        ],
    ),
];

#[tokio::test]
async fn a_reader_without_a_compiler_installs_deploys_restores_updates_and_rolls_back_from_releases_alone() {
    let (aws, work) = (Emulator::own_ministack().await, Folder::new());
    let script = r#"
checkout a; artifacts a 0.1.0; release a 0.1.0
cp -a "$WORK/a" "$WORK/next"; cd "$WORK/next"
sed -i 's/^version = "0.1.0"$/version = "0.2.0"/' Cargo.toml
sed -i '/^name = "failover-lock"$/{n;s/0.1.0/0.2.0/;}' Cargo.lock
commit next; artifacts next 0.2.0; release next 0.2.0
mkdir "$WORK/download"; cp "$WORK"/a/target/dist/*.tar.gz* target/dist/failover-lock-0.2.0.tar.gz* "$WORK/download"
mkdir "$WORK/download/infra"; cp infra/deploy infra/common.sh infra/versions.sh "$WORK/download/infra"; touch "$WORK/download/Cargo.toml"
"#;
    let (status, said) = work.run(&aws, script).await;
    assert_eq!(status, Some(0), "{said}");

    let primary = Primary::start("/lb-check").await;
    let check = aws.health_check(primary.address.port()).await;
    let temporary = work.0.join("tmp");
    fs::create_dir(&temporary).expect("target/tmp can be written");
    let variables = [
        ("WORK", work.0.to_str().expect("UTF-8")),
        ("TMPDIR", temporary.to_str().expect("UTF-8")),
        ("PRIMARY", &check),
        ("EMAIL", "sre@example.com"),
        ("VERSION", VERSION),
        ("NEXT", "0.2.0"),
        ("ARCH", "x86_64"),
    ];
    walk(&aws, DOCUMENTED, READER, &variables).await;
}
