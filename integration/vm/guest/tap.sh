# Sourced by suites: reports in the Test Anything Protocol. The suite's exit status is 0 when no check failed.
#
#	check NAME COMMAND...   COMMAND, often a function, runs in a subshell with errexit on; status 0 passes.
#	                        Its output is shown only when it fails.
#	skip NAME REASON        NAME cannot run here because of REASON.
#	poll SECONDS COMMAND... runs COMMAND until its status is 0, at most SECONDS long.
# shellcheck shell=bash
tap_count=0 tap_failed=0
tap_end() {
	echo "1..$tap_count"
	[ "$tap_failed" = 0 ] || exit 1
}
trap tap_end EXIT

check() {
	local name=$1 output status start=$EPOCHREALTIME
	shift
	tap_count=$((tap_count + 1))
	# Not in a condition: there, errexit would be off.
	output=$(set -e; "$@" 2>&1)
	status=$?
	local took=$((${EPOCHREALTIME/./} - ${start/./}))
	if [ "$status" = 0 ]; then
		printf 'ok %d - %s (%d.%01d s)\n' "$tap_count" "$name" $((took / 1000000)) $((took / 100000 % 10))
	else
		tap_failed=$((tap_failed + 1))
		printf 'not ok %d - %s\n' "$tap_count" "$name"
		printf '# status %d\n' "$status"
		[ -z "$output" ] || printf '%s\n' "$output" | sed 's/^/# /'
	fi
}

skip() {
	tap_count=$((tap_count + 1))
	printf 'ok %d - %s # SKIP %s\n' "$tap_count" "$1" "$2"
}

poll() {
	local end=$((SECONDS + $1)) pause=0.05
	shift
	until "$@"; do
		if ((SECONDS >= end)); then
			echo "gave up waiting for: $*"
			return 1
		fi
		sleep "$pause"
		pause=0.2
	done
}
