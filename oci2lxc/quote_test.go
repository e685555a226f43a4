package oci2lxc

import (
	"strings"
	"testing"
)

// TestValidID wants containerd's identifiers, and none that would make
// "<namespace>--<id>" mean two things.
func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "A0-b_c.d": true, "100": true, strings.Repeat("a", 76): true,
		"": false, "-a": false, "a-": false, "a.": false, "a--b": false, "a..b": false, "a-.b": false, "a/b": false, "a b": false,
		"a\n": false, "é": false, ".": false, strings.Repeat("a", 77): false,
	} {
		if got := validID(id); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}

// TestRenderRefusesKeys wants no key written that is none of liblxc's.
func TestRenderRefusesKeys(t *testing.T) {
	for _, key := range []string{"", "lxc", "lxc.", "lxc..a", "x.lxc.a", "lxc.a b", "lxc.a=b", "lxc.a\n", "LXC.a"} {
		if b, err := (Config{{key, "x"}}).Render(); err == nil {
			t.Errorf("%q was written: %q", key, b)
		}
	}
	c := Config{{"lxc.a", "x\ny"}}
	if s := c.String(); !strings.HasPrefix(s, "# ") || strings.Count(s, "\n") != 1 {
		t.Errorf("String shows %q", s)
	}
}

// TestConfigGet wants the last value of a key.
func TestConfigGet(t *testing.T) {
	c := Config{{"lxc.a", "1"}, {"lxc.b", "2"}, {"lxc.a", "3"}}
	if v, ok := c.Get("lxc.a"); !ok || v != "3" {
		t.Errorf("%q, %v", v, ok)
	}
	if _, ok := c.Get("lxc.c"); ok {
		t.Error("a key that is not there")
	}
}
