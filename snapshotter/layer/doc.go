// Package layer turns file trees into OCI layers and layers into file trees (image-spec, layer.md).
//
//	Apply    a layer's tar  →  the tree below an open directory
//	Compare  two trees      →  the tar of what makes the one the other
//
// Trees are given as open directories, as a rule the roots of detached mounts: no path of the host is ever made of
// a name that comes from a layer or a container. Every lookup starts at the root's descriptor and ends below it
// (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS; symbolic links are resolved here, against the root), and what
// is done to the last component does not follow it.
//
// What both make is what containerd's archive and walking differ make, byte for byte and inode for inode; its packages
// are the oracle of the tests.
package layer
