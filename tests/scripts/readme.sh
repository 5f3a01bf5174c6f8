#!/usr/bin/env bash
# Runs every command of the README, so that none of them is wrong: the lines of its ```sh blocks, read from
# README.md itself, in their order, in a temporary directory that begins empty but for a link to the bundled data.
# Lines that begin with `cargo` or `tests/` run in the checkout instead. Afterwards the first Rust example is built
# and run twice in a new project, as a newcomer would.
#
#     tests/scripts/readme.sh [--skip COMMAND]...      COMMAND: a whole line that was run already
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
skipped=()
while (($#)); do
    case $1 in
        --skip) skipped+=("$2"); shift 2 ;;
        *) echo "usage: $0 [--skip COMMAND]..." >&2; exit 2 ;;
    esac
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# block LANGUAGE: the lines of all fenced blocks of that language.
block() {
    awk -v fence='```'"$1" '
        $0 == "```" { inside = 0 }
        inside { print }
        $0 == fence { inside = 1 }' "$root/README.md"
}

is_skipped() {
    local line
    for line in "${skipped[@]:-}"; do
        if [[ $line == "$1" ]]; then return 0; fi
    done
    return 1
}

target=$(cd "$root" && cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
(cd "$root" && cargo build --release --quiet)
export PATH="$target/release:$PATH" CARGO_TARGET_DIR="$target" CARGO_INSTALL_ROOT="$scratch/installed"
mkdir -p "$scratch/here/crates/cli"
ln -s "$root/crates/cli/data" "$scratch/here/crates/cli/data"
ln -s "$root/docs" "$scratch/here/docs"

# A line that ends in a backslash goes on in the next one; a here-document is one command with its lines.
script="$scratch/readme.sh"
{
    echo 'set -euo pipefail'
    command='' end=''
    while IFS= read -r line; do
        command+=${command:+$'\n'}$line
        if [[ -n $end ]]; then
            if [[ $line != "$end" ]]; then continue; fi
            end=''
        elif [[ $line =~ \<\<\'?([A-Z]+)\'? ]]; then
            end=${BASH_REMATCH[1]}
            continue
        elif [[ $line == *\\ ]]; then
            continue
        fi
        one=$command command=''
        if [[ -z ${one//[[:space:]]/} || $one == \#* ]] || is_skipped "$one"; then continue; fi
        printf 'printf "\\n$ %%s\\n" %q\n' "$one"
        if [[ $one == cargo\ * || $one == tests/* ]]; then
            printf '(\ncd %q\n%s\n)\n' "$root" "$one"
        else
            printf '%s\n' "$one"
        fi
    done < <(block sh)
} >"$script"
commands=$(grep -c '^printf ' "$script")
(cd "$scratch/here" && bash "$script")

printf '\n--- the first example, in a new project, twice\n'
project="$scratch/newcomer"
cargo new --quiet --vcs none --name newcomer "$project"
awk '$0 == "```" { if (inside) exit } inside { print } /^```rust/ { inside = 1 }' "$root/README.md" >"$project/src/main.rs"
printf 'plimsoll = { path = "%s" }\n' "$root" >>"$project/Cargo.toml"
cp "$root/Cargo.lock" "$project/Cargo.lock"
(cd "$project" && cargo run --quiet && cargo run --quiet)

printf '\nreadme: %d commands and the first example did what they should\n' "$commands"
