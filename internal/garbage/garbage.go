// Package garbage finds what nothing on this node uses any more, and takes it away: containers that containerd has
// forgotten, control groups without a container, and datasets without a snapshot. Confs are pve's to reconcile.
//
// Each kind has a Source. What a Source finds it can prove to be ours: by the state file, by a name that only we give, by
// the snapshotter's database. What cannot be proved is not found, and what runs is not touched.
package garbage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// grace is how long a thing must have been left alone: a younger one may belong to what is being made.
const grace = time.Minute

// Item is one thing that nothing uses. Its JSON keys stay.
type Item struct {
	// Kind is container, directory, cgroup, dataset or snapshot.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Reason is why it is garbage, for people.
	Reason string `json:"reason"`
	// Kept is only told of: it is in use still, or whether it may go a person must decide.
	Kept bool `json:"kept"`
	// Err is why it could not be removed; nil otherwise.
	Err error `json:"-"`

	remove func(context.Context) error
}

// Action is what is done about it: in a dry run, what would be.
func (i Item) Action() string {
	switch {
	case i.Kept:
		return "kept"
	case i.Err != nil:
		return "failed"
	}
	return "removed"
}

// Kinds are all of Item.Kind.
var Kinds = []string{"container", "directory", "cgroup", "dataset", "snapshot"}

// Source finds garbage of some kind.
type Source struct {
	// Name is for people: what is being looked through.
	Name string
	// Find lists it, and changes nothing.
	Find func(context.Context) ([]Item, error)
}

// inUse says why a thing stays for now, which is no failure.
type inUse string

func (e inUse) Error() string { return string(e) }

// Teller is told of what is about to be done, and how many things are left to do.
type Teller func(doing string, left int)

// Collect asks the sources, and with apply removes what they found. An error of one source comes beside what the others
// found, and one of a removal is the item's.
func Collect(ctx context.Context, sources []Source, apply bool, tell Teller) ([]Item, error) {
	var all []Item
	var errs []error
	for i, s := range sources {
		tell("looking through "+s.Name, len(sources)-i)
		items, err := s.Find(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
		}
		all = append(all, items...)
	}
	if !apply {
		return all, errors.Join(errs...)
	}
	for i := range all {
		item := &all[i]
		if item.Kept || item.remove == nil {
			continue
		}
		tell("removing "+item.Kind+" "+item.Name, len(all)-i)
		err := item.remove(ctx)
		var stays inUse
		switch {
		case errors.As(err, &stays):
			item.Kept, item.Reason = true, stays.Error()
		case err != nil:
			item.Err = err
			errs = append(errs, fmt.Errorf("remove %s %s: %w", item.Kind, item.Name, err))
		}
	}
	return all, errors.Join(errs...)
}
