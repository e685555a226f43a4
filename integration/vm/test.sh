#!/bin/bash
# Runs the suites in the VM: suites/*.sh in one boot, then suites/systemd/*.sh in one with systemd as PID 1.
#
#	test.sh [NAME...]    only the suites with these names, such as 10-platform or systemd/10-platform
#
# The VM gets bin/, the built peers, and the tests of the packages listed in the file packages. Logs go to
# out/vm/results/. The last line counts checks (TAP) and tests (go test -v); the status is 0 when nothing failed and every suite
# reported something. VM_TEST_LIMIT: seconds for each boot (default 1800).
set -euo pipefail
here=$(dirname "$(realpath "$0")")
repo=$(realpath "$here/../..")
vm=${VM_DIR:-$repo/out/vm}
die() { printf 'vm: %s\n' "$@" >&2; exit 1; }

[ -f "$vm/image.stamp" ] || die "there is no VM in $vm" "hint: make vm"
exec 8>"$vm/test.lock"
flock -n 8 || die "another test run of this VM is going on"

share=$vm/share
rm -rf "$share" "$vm/results"
booted=
trap 'rm -rf "$share"' EXIT
trap '[ -z "$booted" ] || kill "$booted" 2>/dev/null; wait; exit 143' HUP INT TERM
mkdir -p "$share"/{bin,peers,go,deb,results,suites/systemd}
cp -r "$here/guest" "$share/"
[ ! -d "$repo/bin" ] || cp -rT "$repo/bin" "$share/bin"
for peer in "$repo"/out/peers/*/; do
	if [ -e "$peer/.done" ]; then cp -r "$peer" "$share/peers/"; fi
done

cp -r "$repo/dist/apparmor" "$share/"
find "$repo/dist/out" -name '*.deb' -exec cp -t "$share/deb" {} + 2>/dev/null || :

wanted=" $* "
for suite in "$here"/suites/*.sh "$here"/suites/systemd/*.sh; do
	name=${suite#"$here/suites/"}
	if [ $# = 0 ] || [[ $wanted = *" ${name%.sh} "* ]]; then cp "$suite" "$share/suites/$name"; fi
done
selected=$(cd "$share/suites" && find . -name '*.sh')
[ -n "$selected" ] || die "no suite is named $*"

while read -r package kind; do
	[[ -n $package && $package != \#* ]] || continue
	target=$share/go/$package
	mkdir -p "$target"
	static=()
	[ "$kind" != static ] || static=(CGO_ENABLED=0)
	env "${static[@]}" go test -C "$repo/$package" -c -o "$target/$(basename "$package").test" . ||
		die "the tests of $package do not compile"
	[ ! -d "$repo/$package/testdata" ] || cp -r "$repo/$package/testdata" "$target/"
done <"$here/packages"

CGO_ENABLED=0 go build -C "$repo/integration" -trimpath -o "$share/go/pmxcfs" ./cmd/pmxcfs || die "pmxcfs does not compile"

# A boot that fails shows as suites without a status.
run() { # PREFIX DIR [OPTION...]: boot once for the suites of DIR, if any
	local prefix=$1 dir=$2
	shift 2
	compgen -G "$share/$dir/*.sh" >/dev/null || return 0
	setpriv --pdeathsig TERM "$here/run.sh" "$@" -t "${VM_TEST_LIMIT:-1800}" -d "$share" \
		"/host/guest/run-suites /host/$dir $prefix" &
	booted=$!
	wait "$booted" || echo "vm: the VM failed: status $?" >&2
}
run '' suites
run systemd- suites/systemd -s
mv "$share/results" "$vm/results"

passed=0 failed=0 skipped=0
for suite in $(sort <<<"$selected"); do
	name=${suite#./}
	name=${name%.sh}
	log=$vm/results/${name/\//-}.log
	status=$(cat "${log%.log}.status" 2>/dev/null || echo none)
	touch "$log"
	s=$(grep -cE '^ok .*# SKIP|^ *--- SKIP: ' "$log" || :)
	p=$(grep -E '^ok |^ *--- PASS: ' "$log" | grep -cv '# SKIP' || :)
	f=$(grep -cE '^not ok |^ *--- FAIL: ' "$log" || :)
	case $status in
	none) why="did not finish" ;;
	0) if ((p + s + f == 0)); then why="reported nothing"; else why=; fi ;;
	*) if ((f == 0)); then why="exited with status $status"; else why=; fi ;;
	esac
	if [ -n "$why" ]; then f=$((f + 1)); fi
	# go test prints the reason on the line before.
	awk -v name="$name" '
		/^ok .*# SKIP/ { print name ": " $0 }
		/^ *--- SKIP: / { sub(/^ */, ""); print name ": " $0 reason }
		{ reason = "" }
		/^ +[A-Za-z0-9_]+\.go:[0-9]+: / { reason = $0; sub(/^ +[^ ]+/, "", reason) }' "$log"
	if ((f > 0)); then
		echo "$name: FAILED${why:+: it $why}; see ${log#"$repo/"}"
		awk '/^not ok /{show = 1} /^ok /{show = 0} show' "$log" | head -n 100
		grep -B 20 -E '^ *--- FAIL: |^panic: ' "$log" | head -n 200 || :
		[ -z "$why" ] || tail -n 20 "$log"
	fi
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
