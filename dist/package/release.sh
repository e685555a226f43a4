#!/usr/bin/env bash
# Adds to the packages in dist/out: the source archive, a bill of materials (CycloneDX) and checksums.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly CYCLONEDX=v1.10.0
out=dist/out
tools=$PWD/out/tools
export GOFLAGS=-buildvcs=false TZ=UTC LC_ALL=C
if [[ ! -x $tools/cyclonedx-gomod-$CYCLONEDX ]]; then
	echo "release: building cyclonedx-gomod $CYCLONEDX" >&2
	GOBIN=$tools/new CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$CYCLONEDX"
	mv "$tools/new/cyclonedx-gomod" "$tools/cyclonedx-gomod-$CYCLONEDX"
fi

if [[ -n $(git status --porcelain --untracked-files=no) ]]; then
	echo "release: the tree has changes that are in no commit (hint: git stash)" >&2
	exit 1
fi
name=$(basename "$(find "$out" -name '*_amd64.deb')" _amd64.deb)
[[ -n $name ]] || { echo "release: there is no package (hint: make packages)" >&2; exit 1; }
git archive --format=tar --prefix="${name/_/-}/" HEAD | xz -9 --threads=1 >"$out/${name/_/-}.tar.xz"
# No serial number and no time: the same modules give the same bytes.
# It is asked about a copy without git, whose idea of a version depends on how the checkout was made.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git archive HEAD | tar -x -C "$copy"
"$tools/cyclonedx-gomod-$CYCLONEDX" mod -json -licenses=false -noserial -std -type application -output "$copy/sbom.json" "$copy" 2>/dev/null
jq -S --arg version "${name#*_}" 'del(.metadata.timestamp) | .metadata.component.version = $version' "$copy/sbom.json" >"$out/sbom.cdx.json"
(cd "$out" && sha256sum ./*.deb ./*.tar.xz ./*.json | sed 's| \./| |' >SHA256SUMS)
cat "$out/SHA256SUMS"
