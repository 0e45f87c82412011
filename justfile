# Short names for common commands. `just --list` shows them; `just ci` and `just deny` run everything that a change must pass.

[private]
default:
    @just --list

# Format, lints and documentation; no tests
check:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --all-features

# The tests of one system: lock, latch, fence, lease, ctl or infra. Further arguments go to the test program
test SYSTEM *ARGS:
    cargo test --locked {{ if SYSTEM == "infra" { "--all-features" } else { "--features " + SYSTEM } }} --test {{ SYSTEM }} -- {{ ARGS }}

# Every test
test-all:
    cargo test --locked --all-features

# Everything that a change must pass except `deny`. Installs missing Debian packages as root
ci:
    .ci/run

# An artifact: PROGRAM is failover-lock, failover-latch, site-fence, lease-keeper or failoverctl, ARCH is arm64 or x86_64
package PROGRAM ARCH:
    infra/package --program {{ PROGRAM }} {{ ARCH }}

# A release, target/dist/failover-lock-VERSION.tar.gz, from the commit that is checked out
release VERSION:
    infra/release {{ VERSION }}

# Makes a release in two folders, and compares the bytes
release-reproducible VERSION:
    infra/release {{ VERSION }}
    rm -rf target/again && git clone --quiet . target/again
    target/again/infra/release {{ VERSION }}
    cmp target/dist/failover-lock-{{ VERSION }}.tar.gz target/again/target/dist/failover-lock-{{ VERSION }}.tar.gz

# Builds failover-lock's artifact in two folders, and compares the bytes
reproducible ARCH:
    infra/package {{ ARCH }}
    rm -rf target/again && mkdir target/again && git archive HEAD | tar -x -C target/again
    target/again/infra/package {{ ARCH }}
    cmp target/package/failover-lock-{{ ARCH }}.zip target/again/target/package/failover-lock-{{ ARCH }}.zip

# The Terraform module and the CDK construct, deployed to an emulator. Needs Terraform, Node.js (20 or later) and npm
as-code:
    cargo test --locked --package failover-lock-foreign --test as_code -- --ignored

# A benchmark: fence, latch (ARGS may be `race` or `pairs`), lease or mass_failover
bench NAME *ARGS:
    cargo bench --locked --all-features --bench {{ NAME }} -- {{ ARGS }}

# What the functions' cold starts cost; ARGS may be `-- check` or `-- record`, and a function's name. Needs valgrind
cold-start *ARGS:
    cargo bench --locked --package failover-lock-foreign --bench cold_start {{ ARGS }}

# A failover and the way back on loopback; with FILE, what that event would do
sandbox *FILE:
    cargo run --locked --example sandbox -- {{ if FILE == "" { "" } else { "--path " + FILE } }}

# A fuzz target, for example `event`. Needs a nightly toolchain and `cargo install cargo-fuzz`
fuzz TARGET *ARGS:
    mkdir -p fuzz/corpus/{{ TARGET }}
    cargo +nightly fuzz run {{ TARGET }} fuzz/corpus/{{ TARGET }} events/*/ {{ ARGS }}

# Licences, advisories, duplicate versions and sources of dependencies. Needs `cargo install --locked cargo-deny`
deny:
    cargo deny --locked check

# The site of docs/, in target/book. Needs python3 and `cargo install --locked mdbook@0.5.4`
book:
    mdbook build book

# Opens each page of the site in Chromium, as a phone and as a screen. Needs Chromium, and a package index that pip reaches
book-check: book
    python3 -m venv target/book-check
    target/book-check/bin/python -m pip install --quiet --disable-pip-version-check --requirement book/requirements.txt
    target/book-check/bin/python book/check.py

# Draws the pictures of docs/ from their sources. Needs Graphviz
pictures:
    python3 book/draw.py
