package oci2lxc

// Item is one line of an LXC config (lxc.container.conf(5)).
type Item struct{ Key, Value string }

// Config is an LXC config; order matters to liblxc.
type Config []Item
