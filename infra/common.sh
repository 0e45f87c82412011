# shellcheck shell=bash
# shellcheck disable=SC2154
# What infra/deploy and infra/deploy-latch share. The variables `me`, `root`, `region`, `profile`, `account`, `artifact`,
# `tags` and `dry_run`, and the function `bucket_for_code`, which names the artifact's bucket in $region, are the script's own.

say() { printf '%s\n' "$*" >&2; }
die() { say "$me: $*"; exit 1; }
wrong() { say "$me: $*; see $me --help"; exit 2; }

export AWS_PAGER=
aws() { command aws --region "$region" ${profile:+--profile "$profile"} --output text "$@"; }
sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c 1-64; }
# artifact_key PROGRAM ARCHITECTURE FILE: a new key for each content, with the version that `infra/package` has written.
artifact_key() {
    local sha=SHA256 version=
    if [ -f "$3" ]; then
        sha=$(sha256 <"$3")
        version=$(LC_ALL=C grep -ao "$1 [0-9][0-9.]* ([0-9a-z-]*)" "$3" | head -1 | sed 's/.* \(.*\) (\(.*\))/\1-\2-/') || version=
    fi
    printf '%s-%s%s-%s.zip\n' "$1" "$version" "$2" "$sha"
}
# A release has artifacts, and no source to build them from.
is_release() { [ ! -f "$root/Cargo.toml" ]; }

# Fails if the release in which this script is was changed. A copy of infra/ alone has nothing to compare with, and deploys
# what --artifact names.
verify_own_release() {
    ! is_release || { [ -n "$artifact" ] && [ ! -f "$root/SHA256SUMS" ]; } || verify_release "$root"
}

# verify_release FOLDER: fails unless each of its files is the one that its SHA256SUMS lists.
verify_release() {
    [ -f "$1/SHA256SUMS" ] || die "$1 is not an unpacked release: it has no SHA256SUMS"
    local sums=(sha256sum) said
    type -P sha256sum >/dev/null || sums=(shasum -a 256)
    said=$(cd "$1" && "${sums[@]}" -c SHA256SUMS 2>&1) ||
        die "the release $1 is not as it was published; unpack its archive again. Differences:"$'\n'"$(grep -v ': OK$' <<<"$said")"
}

# released PROGRAM ARCHITECTURE: this release's artifact.
released() {
    local found=("$root/functions/$1"-[0-9]*-"$2"-*.zip) name
    [ -f "${found[0]}" ] || die "this release has no $1 for $2; it has: $(cd "$root/functions" && printf '%s ' *.zip)"
    [ ${#found[@]} -eq 1 ] || die "$root has the artifacts of more than one release; unpack each into a folder of its own:" "${found[@]##*/}"
    name=${found[0]##*/}
    grep -q "  functions/$name\$" "$root/SHA256SUMS" || die "SHA256SUMS does not list functions/$name: unpack the release again"
    [ "$(artifact_key "$1" "$2" "${found[0]}")" = "$name" ] ||
        die "functions/$name is not the version that its name says: unpack the release again"
    printf '%s\n' "${found[0]}"
}

# from_release SCRIPT ARGUMENT...: with --release among the arguments, verifies that release, runs its own SCRIPT with the
# other arguments, and exits: scripts, templates and artifacts are of one version. Otherwise it returns.
from_release() {
    local script=$1 release='' passed=() given='' archive file tool sum name folder status=0
    shift
    while [ $# -gt 0 ]; do
        case $1 in
        --release) [ -n "${2-}" ] || wrong "--release takes a folder or a URL"; release=${2%/}; shift ;;
        *) passed+=("$1") ;;
        esac
        shift
    done
    [ -n "$release" ] || return 0
    case " ${passed[*]-} " in *" --artifact "*) wrong "give --release or --artifact, not both" ;; esac
    case $release in
    *://*)
        case $release in
        *://*/*.tar.gz) archive=${release##*/} ;;
        *) wrong "--release takes a folder, or the URL of a release's .tar.gz, not \"$release\"" ;;
        esac
        for tool in curl tar gzip; do type -P "$tool" >/dev/null || die "--release with a URL needs $tool"; done
        given=$release
        folder=$(mktemp -d)
        # shellcheck disable=SC2064 # the folder of now
        trap "rm -rf '$folder'" EXIT
        for file in "$archive" "$archive.sha256"; do
            curl --proto =https,file --proto-redir =https -fsSL --retry 3 -o "$folder/$file" "${release%/*}/$file" ||
                die "${release%/*}/$file cannot be fetched (above)"
        done
        read -r sum name <"$folder/$archive.sha256" || true
        [ "$name" = "$archive" ] || die "$release.sha256 is not the checksum of $archive, but of: $name"
        [ "$sum" = "$(sha256 <"$folder/$archive")" ] ||
            die "$release does not have the SHA-256 of $release.sha256: it was damaged or replaced. Nothing was deployed"
        tar -xzf "$folder/$archive" -C "$folder" || die "$release cannot be unpacked (above)"
        release=$folder/${archive%.tar.gz}
        [ -d "$release" ] || die "the archive $archive has no folder ${archive%.tar.gz}: it is not the release that its name says"
        ;;
    *) [ -d "$release" ] || die "--release: there is no folder $release; unpack the release first" ;;
    esac
    verify_release "$release"
    # For the commands that it prints.
    export DEPLOY_SCRIPT=$release/infra/deploy DEPLOY_RELEASE=
    [ -z "$given" ] || export DEPLOY_SCRIPT=infra/deploy DEPLOY_RELEASE=" --release $given"
    "$BASH" "$release/infra/$script" ${passed[@]+"${passed[@]}"} || status=$?
    exit "$status"
}

change() {
    [ -n "$dry_run" ] || { "$@"; return; }
    { printf 'would run:' && printf ' %q' "$@" && echo; } >&2
}

# The names of a template's parameters. CloudFormation would silently drop a parameter that does not exist.
parameters_of() {
    awk '/^Parameters:/ { on = 1; next } /^[^ #]/ { on = 0 } on && /^  [A-Za-z]+:$/ { gsub(/[ :]/, ""); print }' \
        "$root/infra/$1"
}

# Their defaults, as NAME=VALUE.
defaults_of() {
    awk '/^Parameters:/ { on = 1; next } /^[^ #]/ { on = 0 }
        on && /^  [A-Za-z]+:$/ { if (name) print name "=" value; name = $1; sub(/:/, "", name); value = "" }
        on && /^    Default: / { value = substr($0, 14); gsub(/^"|"$/, "", value) }
        END { if (name) print name "=" value }' "$root/infra/$1"
}

# The status and the parameters of a stack in $region, as NAME<tab>VALUE; nothing if there is no such stack. Fails if it
# cannot be updated.
read_stack() {
    local read status delete="aws cloudformation delete-stack --region $region --stack-name $1"
    read=$(aws cloudformation describe-stacks --stack-name "$1" \
        --query "Stacks[0].[['StackStatus', StackStatus], Parameters[].[ParameterKey, ParameterValue]][]" 2>&1) ||
        case $read in *"does not exist"*) return 0 ;; *) die "the stack $1 cannot be read: $read" ;; esac
    status=$(printf '%s\n' "$read" | awk -F '\t' '$1 == "StackStatus" { print $2 }')
    case $status in
    # A change set that was never executed.
    REVIEW_IN_PROGRESS) return 0 ;;
    ROLLBACK_COMPLETE | ROLLBACK_FAILED | CREATE_FAILED)
        die "the stack $1 was never completed and cannot be updated; delete it, then repeat this command: $delete" ;;
    DELETE_FAILED) die "the stack $1 is partly deleted; find the resource that prevents it, then delete the rest: $delete" ;;
    UPDATE_ROLLBACK_FAILED)
        die "the stack $1 is stuck in the rollback of an update; find the resource that prevents it, then run:" \
            "aws cloudformation continue-update-rollback --region $region --stack-name $1" ;;
    *_IN_PROGRESS) die "the stack $1 is being changed now ($status)" ;;
    esac
    printf '%s\n' "$read"
}

# The tags of a stack in $region after its deployment, as KEY=VALUE: those in $tags, and the others that it has. The AWS CLI
# always sends a list of tags, and CloudFormation takes from the stack what is not in it.
tags_of() {
    local read key value pair
    read=$(aws cloudformation describe-stacks --stack-name "$1" --query 'Stacks[0].Tags[].[Key, Value]' 2>&1) ||
        case $read in *"does not exist"*) read= ;; *) die "the tags of the stack $1 cannot be read: $read" ;; esac
    while IFS=$'\t' read -r key value; do
        case $key in
        '' | None | aws:*) continue ;;
        *=*) die "the stack $1 has the tag $key: the AWS CLI cannot keep a tag whose key has \"=\"; remove it first" ;;
        esac
        for pair in ${tags[@]+"${tags[@]}"}; do [ "${pair%%=*}" != "$key" ] || continue 2; done
        printf '%s\n' "$key=$value"
    done <<<"$read"
    printf '%s\n' ${tags[@]+"${tags[@]}"}
}
# Reads a value of --tag.
tag() {
    case $1 in
    aws:*) wrong "--tag: keys that begin with aws: are reserved for AWS" ;;
    [!=]*=*) tags+=("$1") ;;
    *) wrong "--tag takes KEY=VALUE, not \"$1\"" ;;
    esac
}

# deploy_stack STACK TEMPLATE [NAME=VALUE...]: deploys it in $region, through the artifact's bucket: CloudFormation accepts
# at most 51,200 bytes in a request, and 1 MB from a bucket.
deploy_stack() {
    local name=$1 template=$2 through all tagged=() pair
    shift 2
    through=$(bucket_for_code)
    all=$(tags_of "$name") || exit 1
    while IFS= read -r pair; do [ -z "$pair" ] || tagged+=("$pair"); done <<<"$all"
    # A template that another account could write there would be deployed with the caller's permissions.
    [ -n "$dry_run" ] || aws s3api head-bucket --bucket "$through" --expected-bucket-owner "$account" >/dev/null ||
        die "the bucket $through, for the template of the stack $name, is not accessible to this account (above)"
    change aws cloudformation deploy --stack-name "$name" --template-file "$root/infra/$template" \
        --s3-bucket "$through" --s3-prefix templates ${tagged[@]+--tags "${tagged[@]}"} \
        --capabilities CAPABILITY_IAM CAPABILITY_AUTO_EXPAND --no-fail-on-empty-changeset --parameter-overrides "$@" >&2 || {
        # Newest first; events before the start of this attempt belong to earlier ones.
        aws cloudformation describe-stack-events --stack-name "$name" \
            --query 'StackEvents[].[LogicalResourceId, ResourceStatus, ResourceStatusReason]' 2>/dev/null |
            awk -F '\t' -v stack="$name" '$1 == stack && $2 ~ /^(CREATE|UPDATE)_IN_PROGRESS$/ { exit }
                $2 ~ /_FAILED$/ { print $1 ": " $3 }' >&2 || true
        die "the stack $name was not deployed (above)"
    }
}

# upload BUCKET KEY FILE ACCOUNT: puts the artifact into a bucket of $region, which is created if it does not exist.
upload() {
    local bucket=$1 key=$2 file=$3 account=$4 found location=()
    # The owner is always checked: the bucket of this name may belong to another account.
    if ! found=$(aws s3api head-bucket --bucket "$bucket" --expected-bucket-owner "$account" 2>&1); then
        case $found in
        *404* | *"Not Found"*) ;;
        *) die "the bucket $bucket is not accessible to this account; name another one with --bucket: $found" ;;
        esac
        [ "$region" = us-east-1 ] || location=(--create-bucket-configuration "LocationConstraint=$region")
        change aws s3api create-bucket --bucket "$bucket" ${location[@]+"${location[@]}"} >&2
        change aws s3api put-public-access-block --bucket "$bucket" --expected-bucket-owner "$account" \
            --public-access-block-configuration \
            BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true >&2
    fi
    aws s3api head-object --bucket "$bucket" --key "$key" --expected-bucket-owner "$account" >/dev/null 2>&1 ||
        change aws s3api put-object --bucket "$bucket" --key "$key" --body "$file" \
            --expected-bucket-owner "$account" --query ETag >&2
}

# The ARN of a topic's KMS key, or nothing. CloudWatch cannot use AWS's own key for SNS, and would silently lose its
# notifications there.
key_of() {
    local key
    key=$(aws sns get-topic-attributes --topic-arn "$1" --query Attributes.KmsMasterKeyId) ||
        die "the topic $1 cannot be read in $region (above)"
    case $key in
    None) ;;
    *alias/aws/sns) die "the topic $1 is encrypted with alias/aws/sns, which CloudWatch cannot use: give it a customer managed key" ;;
    *) aws kms describe-key --key-id "$key" --query KeyMetadata.Arn ;;
    esac
}

# must_accept_alarms TOPIC: ends the run if nothing in the topic's policy can let CloudWatch publish: the alarms would go off,
# and no one be notified. failoverctl doctor judges the whole policy.
must_accept_alarms() {
    local policy
    policy=$(aws sns get-topic-attributes --topic-arn "$1" --query Attributes.Policy) ||
        die "the topic $1 cannot be read in $region (above)"
    case $(printf '%s' "$policy" | tr -d ' \t\n') in
    *'"cloudwatch.amazonaws.com'* | *'"Principal":"*"'* | *'"AWS":"*"'* | *'"AWS":["*"'* | *'"NotPrincipal"'*) ;;
    *) die "the policy of the topic $1 does not let CloudWatch publish: no one would be notified;" \
        "docs/lock.md#slack-and-pagerduty has the statement" ;;
    esac
}

# must_serve KEY: ends the run unless the policy of this key names every service that uses it in $region. Without one of
# them its notifications, or alarms that could not be delivered, would be lost silently.
must_serve() {
    local policy service missing=
    case $1 in
    arn:*:kms:"$region":*:key/*) ;;
    *) die "the key $1 is not the ARN of a key in $region, as aws kms list-keys --region $region prints it" ;;
    esac
    policy=$(aws kms get-key-policy --key-id "$1" --policy-name default --query Policy) ||
        die "the policy of the key $1 cannot be read in $region (above)"
    for service in cloudwatch.amazonaws.com sns.amazonaws.com "logs.$region.amazonaws.com"; do
        case $policy in *"\"$service"*) ;; *) missing="$missing $service" ;; esac
    done
    [ -z "$missing" ] || die "the policy of the key $1 does not let$missing use it; docs/lock.md#rules-of-a-company has the statement"
}

# The failoverctl of the PATH, or of this release for this machine.
own_failoverctl() {
    local released
    released=$root/bin/failoverctl-$(uname -m | sed s/aarch64/arm64/)
    if ! type -P failoverctl >/dev/null && "$released" --version >/dev/null 2>&1; then
        printf '%s' "$released"
    else
        printf failoverctl
    fi
}
