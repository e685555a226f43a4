package zfs

import "context"

// maxClones bounds the clones of clones that Descends follows.
const maxClones = 1000

// Descends says whether upper, a file system or snapshot, is a later state of lower, a snapshot: of the same file system
// or, by way of clones, of one that it was made of. Then a file that is the same in both has kept its inode number. In
// doubt it says no.
func Descends(ctx context.Context, b Backend, lower, upper string) bool {
	if !IsSnapshot(lower) {
		return false
	}
	l, err := b.Stat(ctx, lower)
	if err != nil {
		return false
	}
	for range maxClones {
		at, err := b.Stat(ctx, upper)
		if err != nil {
			return false
		}
		if Dataset(upper) == Dataset(lower) {
			return !IsSnapshot(upper) || at.CreateTXG >= l.CreateTXG
		}
		if IsSnapshot(upper) {
			if at, err = b.Stat(ctx, Dataset(upper)); err != nil {
				return false
			}
		}
		if at.Origin == "" {
			return false
		}
		upper = at.Origin
	}
	return false
}
