package pve_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/pve"
)

// TestRunsElsewhere: a conf that PVE moved stays where the cluster says that its container runs; where it does
// not, or nobody knows, the conf is the owner's.
func TestRunsElsewhere(t *testing.T) {
	a, b := cluster(t)
	ours, stale := a.reserve("ours"), a.reserve("stale")
	move := func() {
		t.Helper()
		for _, reg := range []pve.Registration{ours, stale} {
			must(t, os.Rename(a.path(reg.VMID), a.pathOn("n2", reg.VMID)))
		}
	}
	view := func(status string, known bool) pve.View {
		v := tasks(task(ours, true))
		v.Elsewhere = func(_ context.Context, vmid pve.VMID) (pve.Remote, bool) {
			return pve.Remote{Node: "n2", Type: "lxc", Status: status, Name: fmt.Sprint("ct", vmid)}, known
		}
		return v
	}
	must(t, a.SetRunning(ctx(t), ours))
	move()
	report, err := a.Reconcile(ctx(t), view("running", true))
	must(t, err)
	if len(report.Changes) != 2 || report.Changes[0].Action != pve.Conflict || report.Changes[1].Action != pve.Orphan {
		t.Fatalf("changes: %+v", report.Changes)
	}
	for i, want := range []string{"node n2 has its conf and a running container \"ct" + ours.VMID.String(), "node n2 has a running container \"ct" + stale.VMID.String()} {
		if err := report.Changes[i].Err; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want one that says %q", err, want)
		}
	}
	if got, want := b.confs(), ours.VMID.String()+".conf "+stale.VMID.String()+".conf"; got != want {
		t.Errorf("on n2: %s, want %s", got, want)
	}
	// A guest that runs on a third node is no reason to leave this conf where it is.
	v := view("running", true)
	v.Elsewhere = func(context.Context, pve.VMID) (pve.Remote, bool) {
		return pve.Remote{Node: "n3", Status: "running"}, true
	}
	a.check("running on another node than the conf is on", v, "returned ours, removed stale")
	for _, state := range []struct {
		status string
		known  bool
	}{{"stopped", true}, {"unknown", true}, {"running", false}} {
		must(t, os.Rename(a.path(ours.VMID), a.pathOn("n2", ours.VMID)))
		a.check(state.status+fmt.Sprint(state.known), view(state.status, state.known), "returned ours")
	}
	// From this node alone it is found by its VMID.
	must(t, os.Rename(a.path(ours.VMID), a.pathOn("n2", ours.VMID)))
	v = view("running", true)
	v.Cluster = false
	a.check("from this node alone", v, "conflict ours")
	// Nobody is asked of a conf that is here.
	must(t, os.Rename(a.pathOn("n2", ours.VMID), a.path(ours.VMID)))
	v.Elsewhere = func(context.Context, pve.VMID) (pve.Remote, bool) { t.Error("asked"); return pve.Remote{}, false }
	a.check("at home", v, "")
}

// TestCameBackMeanwhile: whoever brought a conf back, and edited it, was faster.
func TestCameBackMeanwhile(t *testing.T) {
	a, _ := cluster(t)
	reg := a.reserve("c1")
	must(t, os.Rename(a.path(reg.VMID), a.pathOn("n2", reg.VMID)))
	view := tasks()
	view.Tasks = func(context.Context) ([]pve.Task, error) {
		must(t, os.Rename(a.pathOn("n2", reg.VMID), a.path(reg.VMID)))
		write(t, a.path(reg.VMID), read(t, a.path(reg.VMID))+"# mine\n")
		return []pve.Task{task(reg, false)}, nil
	}
	if got := a.reconcile(view); got != "returned c1" || !strings.HasSuffix(read(t, a.path(reg.VMID)), "# mine\n") {
		t.Errorf("%s; the conf is now\n%s", got, read(t, a.path(reg.VMID)))
	}
}

// TestVMIDOfAnotherNodesContainer: a VMID that another node's pvelxc gave meanwhile is that container's.
func TestVMIDOfAnotherNodesContainer(t *testing.T) {
	a, b := cluster(t)
	reg := a.reserve("c1")
	theirs := strings.Replace(read(t, a.path(reg.VMID)), "pvelxc/n1/", "pvelxc/n2/", 1)
	must(t, os.Remove(a.path(reg.VMID)))
	write(t, b.path(reg.VMID), theirs)
	a.check("it is theirs", tasks(task(reg, true)), "conflict c1")
	if got := read(t, b.path(reg.VMID)); got != theirs || a.confs() != "" {
		t.Errorf("their conf became\n%s\nand here is %q", got, a.confs())
	}
}

// TestConflictSaysWhose: the cluster knows more of a guest than its VMID.
func TestConflictSaysWhose(t *testing.T) {
	a, b := cluster(t)
	reg := a.reserve("c1")
	must(t, os.Remove(a.path(reg.VMID)))
	write(t, strings.Replace(b.path(reg.VMID), "/lxc/", "/qemu-server/", 1), "memory: 512\n")
	for want, elsewhere := range map[string]func(context.Context, pve.VMID) (pve.Remote, bool){
		"node n2 has a guest of that VMID": nil,
		`node n2 has a running virtual machine "db" of that VMID`: func(context.Context, pve.VMID) (pve.Remote, bool) {
			return pve.Remote{Node: "n2", Type: "qemu", Status: "running", Name: "db"}, true
		},
	} {
		view := tasks(task(reg, true))
		view.Elsewhere = elsewhere
		report, err := a.Reconcile(ctx(t), view)
		must(t, err)
		if len(report.Changes) != 1 || !errors.Is(report.Changes[0].Err, pve.ErrForeign) || !strings.Contains(report.Changes[0].Err.Error(), want) {
			t.Errorf("%+v, want a conflict that says %s", report.Changes, want)
		}
	}
}

// TestImageComesLater: the note of a container that was registered without an image gains it, and no other does.
func TestImageComesLater(t *testing.T) {
	m := local(t)
	plain, edited, pod := m.reserve("plain"), m.reserve("edited"), guest("pod")
	pod.Pod, pod.Container = "default/web-0", "main"
	ofPod, err := m.Reserve(ctx(t), pod)
	must(t, err)
	m.written(ofPod.VMID)
	const mine = "#of mine\n"
	write(t, m.path(edited.VMID), mine+read(t, m.path(edited.VMID)))
	asked := 0
	view := func(image string) pve.View {
		var list []pve.Task
		for _, reg := range []pve.Registration{plain, edited, ofPod} {
			one := task(reg, false)
			one.Image = func(context.Context) string { asked++; return image }
			list = append(list, one)
		}
		return tasks(list...)
	}
	m.check("nobody knows", view(""), "")
	if asked != 2 { // in two passes
		t.Errorf("asked %d times, want once in each pass", asked)
	}
	before := read(t, m.path(plain.VMID))
	rehearsal := view("docker.io/library/nginx:1`")
	rehearsal.DryRun = true
	m.check("dry run", rehearsal, "described plain")
	if got := read(t, m.path(plain.VMID)); got != before {
		t.Errorf("a dry run wrote\n%s", got)
	}
	m.check("containerd knows", view("docker.io/library/nginx:1`"), "described plain")
	after := m.conf(plain.VMID)
	if !pve.HasImage(after) || pve.HasImage(m.conf(edited.VMID)) || !strings.Contains(after.Description(), "**image** `docker.io/library/nginx:1'`  \n**id** `default/plain`") {
		t.Errorf("the note is %q", after.Description())
	}
	after.SetDescription("")
	want := m.conf(ofPod.VMID)
	want.SetDescription("")
	if got := strings.ReplaceAll(string(after.Bytes()), "plain", "pod"); got != string(want.Bytes()) {
		t.Errorf("more than the note changed:\n%s\nwant\n%s", got, want.Bytes())
	}
	// What is written again has it at once.
	must(t, os.Remove(m.path(plain.VMID)))
	m.check("lost", view("docker.io/library/nginx:1"), "restored plain")
	if !pve.HasImage(m.conf(plain.VMID)) {
		t.Errorf("written again without its image:\n%s", read(t, m.path(plain.VMID)))
	}
}

// TestNoteEditedMeanwhile: an edit between the look and the lock is kept.
func TestNoteEditedMeanwhile(t *testing.T) {
	m := local(t)
	reg := m.reserve("c1")
	one := task(reg, false)
	one.Image = func(context.Context) string {
		write(t, m.path(reg.VMID), "#of mine\n"+read(t, m.path(reg.VMID)))
		return "nginx"
	}
	m.reconcile(tasks(one))
	if got := m.conf(reg.VMID).Description(); !strings.HasPrefix(got, "of mine\n") || strings.Contains(got, "nginx") {
		t.Errorf("the note became %q", got)
	}
}
