package conf_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/pve/conf"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

// FuzzParse holds Parse to PVE's reading of any file, and every patch to the
// lines it is about.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{adminFile, "", "a1: b", "a1b: c", "lxc.a =b", "lxc.: x", "x snapstate: delete", "[PVE:pending] \n", "[ab]x", "key:\t\v x \f\n", "#%zz%41%4"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := conf.Parse(data)
		if err != nil {
			return
		}
		if diff := cmp.Diff(string(data), string(c.Bytes())); diff != "" {
			t.Fatalf("not preserved (-want +got):\n%s", diff)
		}
		theirs := pvetest.ParsePCT(string(data))
		for k, v := range theirs.Keys {
			got, ok := c.Get(k)
			if _, isBool := map[string]bool{"onboot": true, "template": true, "console": true, "protection": true, "unprivileged": true, "debug": true}[k]; isBool {
				continue // PVE normalizes yes, on and true
			}
			if want := strings.TrimRight(v, " \t\r\f\v"); !ok || strings.TrimLeft(got, "0") != strings.TrimLeft(want, "0") {
				t.Fatalf("%s is %q, PVE reads %q", k, got, want)
			}
		}
		for _, kv := range theirs.Raw {
			found := false
			for _, v := range c.Raw(kv[0]) {
				found = found || v == kv[1]
			}
			if !found {
				t.Fatalf("%s has no %q", kv[0], kv[1])
			}
		}
		if err := c.Set("lock", "create"); err != nil {
			t.Fatal(err)
		}
		if err := c.SetRaw("lxc.group", "pvelxc/n/ns/id"); err != nil {
			t.Fatal(err)
		}
		c.SetDescription("note")
		theirs = pvetest.ParsePCT(string(c.Bytes()))
		if theirs.Keys["lock"] != "create" || strings.TrimSpace(theirs.Description) != "note" {
			t.Fatalf("PVE reads lock %q, description %q in\n%s", theirs.Keys["lock"], theirs.Description, c.Bytes())
		}
		c.Delete("lock")
		if _, ok := c.Get("lock"); ok {
			t.Fatalf("lock survives its deletion:\n%s", c.Bytes())
		}
	})
}

// FuzzDescription: whatever the note says, it is read back, by us and by PVE, and
// forms no other line.
func FuzzDescription(f *testing.F) {
	for _, seed := range []string{"", "a", "a: b\n[x]\n#y\n\n z \nrootfs: /", "%41", "ü\r\x00\xff", "\n\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > conf.MaxSize/4 {
			return
		}
		var c conf.Conf
		if err := c.Set("memory", "16"); err != nil {
			t.Fatal(err)
		}
		c.SetDescription(text)
		want := strings.TrimRight(strings.ToValidUTF8(text, "\uFFFD"), "\n")
		back, err := conf.Parse(c.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if got := back.Description(); got != want {
			t.Errorf("we read %q, want %q", got, want)
		}
		theirs := pvetest.ParsePCT(string(c.Bytes()))
		if got := strings.TrimSuffix(theirs.Description, "\n"); got != want {
			t.Errorf("PVE reads %q, want %q", got, want)
		}
		if len(theirs.Keys) != 1 || theirs.Pending != nil || len(theirs.Snapshots) > 0 || len(theirs.Warnings) > 0 {
			t.Errorf("PVE reads more than a note: %+v", theirs)
		}
		if want != "" || text == "" {
			if got := theirs.Write(); got != string(c.Bytes()) {
				t.Errorf("PVE would write\n%s\nwe wrote\n%s", got, c.Bytes())
			}
		}
	})
}
