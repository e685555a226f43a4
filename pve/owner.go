package pve

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/pvelxc/pvelxc/pve/conf"
)

// Owner names the container a conf stands for: the value of its ownership marker.
type Owner struct {
	// Node is the node whose containerd runs it, wherever PVE moved the conf.
	Node string
	// Namespace is containerd's; ID is unique in it.
	Namespace, ID string
}

const (
	markerKey    = "lxc.group"
	markerPrefix = "pvelxc/"
)

// marker returns the value of lxc.group. What is not a letter, a digit or one of
// _.~- is percent-encoded, so that no identifier can reach the file's syntax.
func (o Owner) marker() string {
	return markerPrefix + escape(o.Node) + "/" + escape(o.Namespace) + "/" + escape(o.ID)
}

// String is for messages: node/namespace/id.
func (o Owner) String() string { return strings.TrimPrefix(o.marker(), markerPrefix) }

// escape is url.PathEscape with fewer exceptions: it leaves $&+:=@ alone.
func escape(s string) string {
	return strings.NewReplacer("$", "%24", "&", "%26", "+", "%2B", ":", "%3A", "=", "%3D", "@", "%40").Replace(url.PathEscape(s))
}

// ownerOf reads the marker. A conf with no marker, or with several, is not ours.
func ownerOf(c *conf.Conf) (Owner, bool) {
	var owner Owner
	found := 0
	for _, value := range c.Raw(markerKey) {
		if !strings.HasPrefix(value, markerPrefix) {
			continue // a group of the admin's
		}
		o, err := parseMarker(value)
		if err != nil {
			return Owner{}, false
		}
		owner, found = o, found+1
	}
	return owner, found == 1
}

func parseMarker(value string) (Owner, error) {
	parts := strings.Split(strings.TrimPrefix(value, markerPrefix), "/")
	if len(parts) != 3 {
		return Owner{}, fmt.Errorf("marker %q has %d parts, not 3", value, len(parts))
	}
	for i, p := range parts {
		s, err := url.PathUnescape(p)
		if err != nil || s == "" {
			return Owner{}, fmt.Errorf("marker %q: part %d is empty or not percent-encoded", value, i)
		}
		parts[i] = s
	}
	return Owner{Node: parts[0], Namespace: parts[1], ID: parts[2]}, nil
}
