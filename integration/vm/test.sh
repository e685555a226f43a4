#!/bin/bash
# Runs the suites in the VM: suites/*.sh in one boot, suites/systemd/*.sh in one with systemd as PID 1, and each of
# suites/power/*.sh in two boots with one data disk.
#
#	test.sh [-c] [NAME...]    only the suites with these names, such as 10-platform or systemd/10-platform
#
#	-c    what continuous integration runs: the suites with a line "# ci" at their head, with VM_CI=1
#
# The VM gets bin/, the built peers, and the tests of the packages listed in the file packages. Logs go to
# out/vm-results/. A suite that fails runs once more, in a boot of its own kind; the second result counts, and one that
# passes then is named as unsteady. The last line counts checks (TAP) and tests (go test -v); the status is 0 when
# nothing failed and every suite reported something.
#
# Environment: VM_TEST_LIMIT, seconds for each boot (default 1800); VM_TEST_BUDGET, seconds for everything: suites that
# have not begun by then are skipped by name, and a boot ends 500 s later (default: none).
set -euo pipefail
here=$(dirname "$(realpath "$0")")
repo=$(realpath "$here/../..")
vm=${VM_DIR:-$repo/out/vm}
die() { printf 'vm: %s\n' "$@" >&2; exit 1; }

ci=
if [ "${1:-}" = -c ]; then
	ci=1
	shift
fi
[ -f "$vm/image.stamp" ] || die "there is no VM in $vm" "hint: make vm"
mkdir -p "$repo/out"
exec 8>"$repo/out/vm-test.lock"
flock -n 8 || die "another test run of this checkout is going on"

# A checkout's own, while the VM may be shared.
share=$repo/out/vm-share all=$repo/out/vm-results
rm -rf "$share" "$all"
booted=
trap 'rm -rf "$share"' EXIT
trap '[ -z "$booted" ] || kill "$booted" 2>/dev/null; wait; exit 143' HUP INT TERM
mkdir -p "$share"/{bin,peers,go,deb} "$all"
cp -r "$here/guest" "$repo/dist" "$share/"
[ ! -d "$repo/bin" ] || cp -rT "$repo/bin" "$share/bin"
for peer in "$repo"/out/peers/{containerd,runc,nerdctl}-*/; do
	if [ -e "$peer/.done" ]; then cp -r "$peer" "$share/peers/"; fi
done

cp -r "$repo/dist/apparmor" "$share/"
find "$repo/dist/out" -name '*.deb' -exec cp -t "$share/deb" {} + 2>/dev/null || :

selected=()
for suite in "$here"/suites/*.sh "$here"/suites/{systemd,power}/*.sh; do
	[ -e "$suite" ] || continue
	name=${suite#"$here/suites/"}
	name=${name%.sh}
	if (($#)); then
		[[ " $* " = *" $name "* ]] || continue
	elif [ -n "$ci" ]; then
		head -n 10 "$suite" | grep -qE '^# ci\b' || continue
	fi
	selected+=("$name")
done
((${#selected[@]})) || die "no suite is named $*"

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

CGO_ENABLED=0 go build -C "$repo/integration" -trimpath -o "$share/go/" ./cmd/pmxcfs ./cmd/detached || die "pmxcfs or detached does not compile"

# boot OPTION... -- SUITE...: one boot for these suites. One that fails shows as suites without a status.
boot() {
	local options=() left=${VM_TEST_LIMIT:-1800} deadline=''
	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	if [ -n "${VM_TEST_BUDGET:-}" ]; then
		deadline=$((VM_TEST_BUDGET - SECONDS))
		# A suite that began in time may take this long.
		((left < deadline + 500)) || left=$((deadline + 500 > 60 ? deadline + 500 : 60))
	fi
	rm -rf "$share/suites"
	local name
	for name in "$@"; do install -D "$here/suites/$name.sh" "$share/suites/$name.sh"; done
	setpriv --pdeathsig TERM "$here/run.sh" "${options[@]}" -t "$left" -d "$share" \
		"VM_CI=$ci VM_BOOT=${phase:-} VM_DEADLINE=$deadline /host/guest/run-suites $*" &
	booted=$!
	wait "$booted"
}

# run RESULTS SUITE...: everything, results in a directory of that name.
run() {
	local results=$all/$1 name plain=() systemd=() power=()
	shift
	for name in "$@"; do
		case $name in
		systemd/*) systemd+=("$name") ;;
		power/*) power+=("$name") ;;
		*) plain+=("$name") ;;
		esac
	done
	mkdir -p "$share/results"
	if ((${#plain[@]})); then boot -- "${plain[@]}" || echo "vm: the VM failed: status $?" >&2; fi
	if ((${#systemd[@]})); then boot -s -- "${systemd[@]}" || echo "vm: the VM failed: status $?" >&2; fi
	for name in ${power[@]+"${power[@]}"}; do
		local disk=$all/power.img
		cp --sparse=always "$vm/image/data.img" "$disk"
		# The first boot is meant to end without a status; what it wrote down before is kept for the second to judge.
		phase=1 boot -D "$disk" -- "$name" 2>/dev/null || :
		phase=2 boot -D "$disk" -- "$name" || echo "vm: the VM failed: status $?" >&2
		rm -f "$disk"
	done
	mv "$share/results" "$results"
}

# judge LOG: sets p, f, s and why from a suite's log and status.
judge() {
	local log=$1 status
	status=$(cat "${log%.log}.status" 2>/dev/null || echo none)
	touch "$log"
	s=$(grep -cE '^ok .*# SKIP|^ *--- SKIP: ' "$log" || :)
	p=$(grep -E '^ok |^ *--- PASS: ' "$log" | grep -cv '# SKIP' || :)
	f=$(grep -cE '^not ok |^ *--- FAIL: ' "$log" || :)
	why=
	case $status in
	none) why="did not finish" ;;
	0) if ((p + s + f == 0)); then why="reported nothing"; fi ;;
	*) if ((f == 0)); then why="exited with status $status"; fi ;;
	esac
	if [ -n "$why" ]; then f=$((f + 1)); fi
}

# show NAME LOG: what is wrong with it.
show() {
	echo "$1: FAILED${why:+: it $why}; see ${2#"$repo/"}"
	awk '/^not ok /{show = 1} /^ok /{show = 0} show' "$2" | head -n 100
	grep -B 20 -E '^ *--- FAIL: |^panic: ' "$2" | head -n 200 || :
	[ -z "$why" ] || tail -n 20 "$2"
}

run first "${selected[@]}"
failed=()
for name in "${selected[@]}"; do
	log=$all/first/${name/\//-}.log
	judge "$log"
	if ((f > 0)); then
		failed+=("$name")
		show "$name" "$log"
	fi
done
# A machine that does other things too may lose against a time limit once. More than a few failures are no accident.
if ((${#failed[@]} > 0 && ${#failed[@]} <= 4 && SECONDS < ${VM_TEST_BUDGET:-SECONDS + 1})); then
	echo "vm: again: ${failed[*]}"
	run again "${failed[@]}"
fi

passed=0 bad=0 skipped=0
for name in "${selected[@]}"; do
	log=$all/again/${name/\//-}.log
	if [ -e "${log%.log}.status" ] && ! grep -q 'SKIP no time is left' "$log"; then
		judge "$log"
		if ((f > 0)); then
			show "$name, the second time" "$log"
		else
			echo "unsteady: $name failed first and passed when it ran again"
		fi
	else
		log=$all/first/${name/\//-}.log
		judge "$log"
	fi
	# go test prints the reason on the line before.
	awk -v name="$name" '
		/^ok .*# SKIP/ { print name ": " $0 }
		/^ *--- SKIP: / { sub(/^ */, ""); print name ": " $0 reason }
		{ reason = "" }
		/^ +[A-Za-z0-9_]+\.go:[0-9]+: / { reason = $0; sub(/^ +[^ ]+/, "", reason) }' "$log"
	passed=$((passed + p)) bad=$((bad + f)) skipped=$((skipped + s))
done
echo "$passed passed, $bad failed, $skipped skipped"
[ "$bad" = 0 ]
