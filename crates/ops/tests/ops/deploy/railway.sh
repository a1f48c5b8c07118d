#!/bin/sh
# A Railway CLI that replays what it was given, in the shapes of CLI 5.43.
#
# $FAKE is a directory of answers. A call is named by its command and its service ("up-api", "list-worker", "config-plan");
# its n-th answer is NAME.n, else NAME: .out to stdout, .err to stderr, .code the exit code; .hang never answers.
# Every call is written to $FAKE/calls.
printf '%s\n' "$*" >> "$FAKE/calls"

service=
expects_service=
for word in "$@"; do
    [ -n "$expects_service" ] && service=$word
    case $word in --service) expects_service=yes ;; *) expects_service= ;; esac
done

case $1 in
    --version) name=version ;;
    config) name=config-$2 ;;
    deployment) name=list-$service ;;
    up | logs | run) name=$1-$service ;;
    *) name=$1 ;;
esac

count=$(($(cat "$FAKE/$name.count" 2>/dev/null || echo 0) + 1))
echo "$count" > "$FAKE/$name.count"
# The highest answer at or below this call's number; without numbers, the only one.
answer=$FAKE/$name
while [ "$count" -gt 0 ]; do
    for kind in out err code hang; do
        [ -e "$FAKE/$name.$count.$kind" ] && answer=$FAKE/$name.$count
    done
    [ "$answer" = "$FAKE/$name" ] || break
    count=$((count - 1))
done

[ -e "$answer.hang" ] && exec sleep 600
[ -e "$answer.out" ] && cat "$answer.out"
[ -e "$answer.err" ] && cat "$answer.err" >&2
[ -e "$answer.code" ] && exit "$(cat "$answer.code")"
if [ ! -e "$answer.out" ] && [ ! -e "$answer.err" ]; then
    echo "the fake has no answer for $name: $*" >&2
    exit 97
fi
exit 0
