# shellcheck shell=bash
# shellcheck disable=SC2154
# The versions of a stack's functions, for infra/deploy. Everything that invokes a function invokes its alias `live`. Its alias
# `before` is the version that `live` had before the last update. The variables `stack`, `standing`, `deployment`, `bucket`,
# `key`, `arch` and `again`, and the functions `value`, `previous` and `is_given`, are the script's own.

functions=(lock restore reconcile)

# The value of the parameter Deployment: another one with each change of the template, of the artifact or of a parameter. The
# alarm's actions are no part of a function, and a first deployment turns them on by a second update.
deployment() {
    local name default
    if is_given Deployment; then value Deployment; return; fi
    {
        cat "$root/infra/failover-lock.yaml"
        printf '%s\n' "$bucket" "$key" "$arch"
        while IFS='=' read -r name default; do
            case $name in
            Deployment | AlarmActionsEnabled | CodeBucket | CodeKey | Architecture) ;;
            *) printf '%s=%s\n' "$name" "$(value "$name" "$default")" ;;
            esac
        done <<<"$(defaults_of failover-lock.yaml)"
    } | sha256 | cut -c 1-16
}

# alias_of FUNCTION ALIAS: the version to which it refers, and its description; nothing if there is no such alias.
alias_of() {
    local found
    found=$(aws lambda get-alias --function-name "$stack-$1" --name "$2" --query '[FunctionVersion, Description]' 2>&1) ||
        case $found in *ResourceNotFound*) return 0 ;; *) die "the alias $2 of $stack-$1 cannot be read: $found" ;; esac
    printf '%s\n' "$found"
}

# point FUNCTION ALIAS VERSION [OPTION...]: creates the alias where there is none.
point() {
    local name=$1 alias=$2 version=$3 known verb=update-alias
    shift 3
    known=$(alias_of "$name" "$alias")
    [ -n "$known" ] || verb=create-alias
    change aws lambda "$verb" --function-name "$stack-$name" --name "$alias" --function-version "$version" "$@" --query AliasArn >&2
}

# keep FUNCTION VERSION: this version ran before the present deployment.
keep() {
    case $2 in '' | \$LATEST) ;; *) point "$1" before "$2" --description "before $deployment" ;; esac
}

kept=() # FUNCTION<tab>LIVE<tab>BEFORE<tab>DESCRIPTION: to which versions its aliases referred before an update

# Before an update.
keep_live() {
    local name live
    [ -n "$standing" ] && [ "$deployment" != "$(previous Deployment)" ] || return 0
    for name in "${functions[@]}"; do
        live=$(alias_of "$name" live) live=${live%%$'\t'*}
        case $live in '' | \$LATEST) continue ;; esac
        kept+=("$name"$'\t'"$live"$'\t'"$(alias_of "$name" before)")
        keep "$name" "$live"
    done
}

# After an update that did not succeed: the alias `before` is again the version from before the last one that did. Where a function
# runs the new deployment all the same, that is left alone, and can be rolled back.
put_back() {
    local one name live version said now state
    [ ${#kept[@]} -gt 0 ] || return 0
    state=$(aws cloudformation describe-stacks --stack-name "$stack" --query 'Stacks[0].StackStatus') || state='not known'
    case $state in
    UPDATE_IN_PROGRESS | 'not known')
        say "whether the update succeeds was not seen ($state). If it fails, there is nothing to roll back to until the next one"
        return 0 ;;
    esac
    # While CloudFormation takes it back, an alias may still show it.
    case $state in
    UPDATE_ROLLBACK_FAILED | UPDATE_COMPLETE*)
        for one in "${kept[@]}"; do
            name=${one%%$'\t'*}
            now=$(fact_of "$name" live Description) || return 0
            [ "${now%% *}" != "$deployment" ] || return 0
        done ;;
    esac
    for one in "${kept[@]}"; do
        IFS=$'\t' read -r name live version said <<<"$one"
        now=$(alias_of "$name" live) now=${now%%$'\t'*}
        [ "$now" = "$live" ] ||
            say "$stack-$name runs version $now, and ran version $live before. If it stays so: infra/deploy --stack $stack --rollback"
        if [ -n "$version" ]; then
            point "$name" before "$version" --description "$said" || true
        else
            change aws lambda delete-alias --function-name "$stack-$name" --name before || true
        fi
    done
}

# After an update: one that changes no version leaves `live` where a rollback has put it.
go_forward() {
    local versions arn name live
    versions=$(aws cloudformation describe-stack-resources --stack-name "$stack" \
        --query "StackResources[?ResourceType=='AWS::Lambda::Version'].PhysicalResourceId") ||
        die "the versions of the stack $stack cannot be read (above)"
    for arn in $versions; do
        case $arn in arn:*:"$stack"-*:*) ;; *) continue ;; esac
        name=${arn%:*} name=${name##*:"$stack"-}
        live=$(alias_of "$name" live) live=${live%%$'\t'*}
        [ "$live" != "${arn##*:}" ] || continue
        keep "$name" "$live"
        point "$name" live "${arn##*:}"
        say "$stack-$name: from version $live to ${arn##*:}, the deployed one"
    done
}

# fact_of FUNCTION ALIAS QUERY: something of the version's configuration.
fact_of() {
    aws lambda get-function-configuration --function-name "$stack-$1" --qualifier "$2" --query "$3" ||
        die "the version of $stack-$1 with the alias $2 cannot be read (above)"
}

# Ends the run if CloudFormation changes the stack. While it does not answer, a rollback goes on.
must_not_be_changing() {
    local state
    state=$(AWS_MAX_ATTEMPTS=1 aws cloudformation describe-stacks --stack-name "$stack" --cli-connect-timeout 5 \
        --cli-read-timeout 10 --query 'Stacks[0].StackStatus' 2>&1) ||
        { say "whether the stack $stack is being changed now was not seen: $state"; return 0; }
    case $state in
    *_COMPLETE_CLEANUP_IN_PROGRESS) ;;
    *_IN_PROGRESS)
        die "the stack $stack is being changed now ($state), which would overrule a rollback. Wait until it is done, or take an" \
            "update back: aws cloudformation cancel-update-stack --region $region --stack-name $stack" ;;
    esac
}

# A version with other paths does not know a lock with these.
must_know_the_lock() {
    local paths='Environment.Variables.[HEALTHY_PATH, LOCKED_PATH, GUARDED_HEALTH_CHECKS]' name now after id path seen
    # A rollback that has ended in the middle has taken some back already.
    for name in "${functions[@]}"; do
        now=$(fact_of "$name" live "$paths")
        after=$(fact_of "$name" before "$paths")
        [ "$now" != "$after" ] || continue
        IFS=$'\t' read -r _ path id <<<"$now"
        [ "$id" != None ] ||
            die "the version before has other paths, which would not know the locks of the health checks with the guarded tag. $older"
        seen=$(aws route53 get-health-check --health-check-id "$id" --query HealthCheck.HealthCheckConfig.ResourcePath) ||
            die "the version before has other paths, and whether the health check $id is locked cannot be read (above)"
        [ "$seen" != "$path" ] ||
            die "the health check $id is locked, and the version before has other paths: restore it first, see" \
                "docs/runbook.md#restore-a-primary"
        return 0
    done
}

# Points `live` of each function to its `before`. It needs Lambda alone.
roll_back() {
    local name live before version deployed='' from=() back=() does=() at moved=''
    local older="To go back to an older release: $again --release FOLDER|URL"
    must_not_be_changing
    # Everything is read before anything is changed.
    for name in "${functions[@]}"; do
        live=$(alias_of "$name" live) live=${live%%$'\t'*}
        before=$(alias_of "$name" before)
        [ -n "$live" ] ||
            die "$stack-$name has no alias \"live\" in $region: there is no such function, or it was deployed without versions. $older"
        [ -n "$before" ] ||
            die "$stack-$name has no version to go back to: infra/deploy has not updated it since it has versions. $older"
        from+=("$live") back+=("${before%%$'\t'*}")
        if [ "$live" != "${before%%$'\t'*}" ]; then
            version=$(fact_of "$name" live Description)
            [ "before ${version%% *}" = "${before#*$'\t'}" ] ||
                die "$stack-$name runs version $live, which infra/deploy has not deployed: what ran before it is not known. $older"
        fi
        version=$(fact_of "$name" before Description)
        [ "${deployed:=$version}" = "$version" ] ||
            die "the versions before are not of one deployment, but of \"$deployed\" and \"$version\". Nothing was changed. $older"
        live=$(fact_of "$name" live Environment.Variables.ARTIFACT)
        version=$(fact_of "$name" before Environment.Variables.ARTIFACT)
        does+=("from version ${from[${#from[@]} - 1]}, $live, to ${before%%$'\t'*}, $version")
    done
    must_know_the_lock
    for at in "${!functions[@]}"; do
        name=$stack-${functions[$at]}
        if [ "${from[$at]}" = "${back[$at]}" ]; then
            say "$name: runs version ${back[$at]} already, ${does[$at]##*, }"
            continue
        fi
        change aws lambda update-alias --function-name "$name" --name live --function-version "${back[$at]}" --query AliasArn >&2 ||
            die "$name was not rolled back (above); rolled back were:${moved:- none}. Repeat this command: it goes on with the others"
        moved="$moved $name"
        say "$name: ${dry_run:+would go }back ${does[$at]}"
    done
    [ -n "$moved" ] || say "nothing was changed: $stack runs what ran before its last update. $older"
    say "What else an update has changed stays: docs/release.md#roll-back. The next deployment goes forward: $again"
}
