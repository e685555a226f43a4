// Package mounttree makes detached mounts: trees that hang nowhere in the file
// system and are reached by descriptor alone. The shim makes them in the host's
// mount namespace, where every source can be resolved, and sends the descriptors
// to the mount hook, which moves them to their place in the container.
//
// A detached mount that is never moved vanishes with its descriptor, so nothing
// has to be undone when a create fails.
package mounttree
