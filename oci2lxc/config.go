package oci2lxc

import (
	"bytes"
	"fmt"
)

// Item is one line of an LXC config (lxc.container.conf(5)). Value is the value as
// liblxc must end up with it: unquoted.
type Item struct{ Key, Value string }

// Config is an LXC config; order matters to liblxc.
type Config []Item

// Render gives the text of the config file. It proves every line: an error means
// that an item cannot be written such that liblxc reads the same item back.
func (c Config) Render() ([]byte, error) {
	var b bytes.Buffer
	for _, it := range c {
		if !validKey(it.Key) {
			return nil, fmt.Errorf("config key %q: not an lxc.* key", it.Key)
		}
		v, err := quote(it.Value)
		if err != nil {
			return nil, fmt.Errorf("config key %s: %w", it.Key, err)
		}
		b.WriteString(it.Key)
		b.WriteString(" =")
		if v != "" {
			b.WriteByte(' ')
			b.WriteString(v)
		}
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

// String is for people: what Render gives, or its error as a comment.
func (c Config) String() string {
	b, err := c.Render()
	if err != nil {
		return "# " + fmt.Sprintf("%q", err.Error()) + "\n"
	}
	return string(b)
}

// Get gives the value of the last item with the key, as liblxc does for keys that
// hold one value.
func (c Config) Get(key string) (string, bool) {
	for i := len(c) - 1; i >= 0; i-- {
		if c[i].Key == key {
			return c[i].Value, true
		}
	}
	return "", false
}
