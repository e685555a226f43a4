package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/internal/config"
	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

func apiConf(s *pvetest.API) config.API {
	return config.API{URL: s.URL, TokenFile: s.TokenFile, CAFile: s.CAFile}
}

func TestStoppedBy(t *testing.T) {
	stop := pveTask{UPID: "u1", Type: "vzstop", Status: "OK"}
	for name, test := range map[string]struct {
		tasks []pveTask
		want  string
	}{
		"nothing was done":      {nil, ""},
		"stopped":               {[]pveTask{{Type: "vncproxy", Status: "OK"}, stop}, "u1"},
		"in vain":               {[]pveTask{{UPID: "u2", Type: "vzstop", Status: "CT is locked (create)"}}, ""},
		"still at it":           {[]pveTask{{UPID: "u2", Type: "vzshutdown"}}, ""},
		"of two the latest":     {[]pveTask{{UPID: "u2", Type: "vzshutdown", Status: "OK"}, stop}, "u2"},
		"by the HA manager":     {[]pveTask{{UPID: "u3", Type: "hastop", Status: "OK"}}, "u3"},
		"backed up, not ended":  {[]pveTask{{UPID: "u4", Type: "vzdump", Status: "OK"}}, ""},
		"started in vain later": {[]pveTask{{Type: "vzstart", Status: "no arch"}, stop}, "u1"},
	} {
		got := ""
		if by := stoppedBy(test.tasks, false); by != nil {
			got = by.UPID
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestStoppedJustNow(t *testing.T) {
	running, failed := pveTask{UPID: "u1", Type: "vzshutdown"}, pveTask{UPID: "u2", Type: "vzstop", Status: "CT is locked (create)", End: time.Unix(1, 0)}
	if by := stoppedBy([]pveTask{{Type: "vncproxy"}, failed, running}, true); by == nil || by.UPID != "u1" {
		t.Errorf("it is %+v, want the one that is at it", by)
	}
	if by := stoppedBy([]pveTask{failed}, true); by != nil {
		t.Errorf("it is %+v, which was in vain", by)
	}
}

// What the API says of a guest is printed for people, and steers no terminal.
func TestPrintTasks(t *testing.T) {
	var b strings.Builder
	printTasks(&b, []pveTask{{UPID: "UPID:x", Type: "vzstop", User: "root@pam", Log: []string{"\x1b[2Jgone"}}})
	if got := b.String(); !strings.Contains(got, "vzstop  root@pam  running  UPID:x\n    ?[2Jgone\n") {
		t.Errorf("printed %q", got)
	}
	if got := (&clusterState{Node: "n1", Status: "running", Pool: "k8s"}).String(); got != "running on node n1, in pool k8s" {
		t.Errorf("printed %q", got)
	}
}

// A reconciliation's questions: each daemon is asked once, and one that does not answer is one warning.
func TestAsker(t *testing.T) {
	s := pvetest.StartAPI(t)
	var warnings []string
	conf := config.Default()
	conf.PVE.API = apiConf(s)
	fresh := func() *asker {
		warnings = nil
		return newAsker(conf, func(err error) { warnings = append(warnings, err.Error()) })
	}
	ctx := context.Background()
	a := fresh()
	s.Fail()
	for range 2 {
		if g, ok := a.elsewhere(ctx, 900001); !ok || g != (pve.Remote{Node: "n1", Type: "lxc", Status: "running", Name: "web-0"}) {
			t.Errorf("900001 is %+v, %v", g, ok)
		}
		if g, ok := a.elsewhere(ctx, 55555); ok {
			t.Errorf("nobody's VMID is %+v", g)
		}
	}
	if got := strings.Count(s.Seen(), "GET"); got != 1 || warnings != nil {
		t.Errorf("asked %d times, warnings %q", got, warnings)
	}
	a = fresh()
	s.Fail(pvetest.Status(403, "Permission check failed"))
	for range 2 {
		if g, ok := a.elsewhere(ctx, 900001); ok {
			t.Errorf("without an answer: %+v", g)
		}
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "Permission check failed") {
		t.Errorf("warnings %q, want one in PVE's words", warnings)
	}
	conf.PVE.API.TokenFile += ".none"
	if _, ok := fresh().elsewhere(ctx, 900001); ok || len(warnings) != 1 {
		t.Errorf("without the token: %v, warnings %q", ok, warnings)
	}
	conf.PVE.API = config.API{}
	if _, ok := fresh().elsewhere(ctx, 900001); ok || warnings != nil {
		t.Errorf("without an API: %v, warnings %q", ok, warnings)
	}
	if _, err := apiClient(conf.PVE.API); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a client without a token: %v", err)
	}
}

func TestAskerOfImages(t *testing.T) {
	a := newAsker(config.Default(), func(err error) { t.Errorf("warned: %v", err) })
	var asked []string
	a.askImages = func(_ context.Context, namespace string) (map[string]string, error) {
		if asked = append(asked, namespace); namespace == "away" {
			return nil, errors.New("no answer")
		}
		return map[string]string{"c1": "nginx"}, nil
	}
	for _, of := range []struct{ namespace, id, want string }{{"default", "c1", "nginx"}, {"default", "c2", ""}, {"away", "c1", ""}, {"away", "c2", ""}, {"third", "c1", ""}, {"default", "c1", "nginx"}} {
		if got := a.image(context.Background(), of.namespace, of.id); got != of.want {
			t.Errorf("%s/%s has %q, want %q", of.namespace, of.id, got, of.want)
		}
	}
	if fmt.Sprint(asked) != "[default away]" {
		t.Errorf("asked %q", asked)
	}
}
