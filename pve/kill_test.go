package pve_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/pve"
)

// childEnv holds the options of a process that registers until it is killed.
const childEnv = "PVE_TEST_REGISTER"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := registerForever(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func registerForever(text string) error {
	var o pve.Registrar
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	r, err := pve.New(o)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for ctx := context.Background(); ; {
		reg, err := r.Reserve(ctx, guest("c1"))
		if err != nil {
			return err
		}
		for _, do := range []func(context.Context, pve.Registration) error{r.SetRunning, r.SetStopped, r.Unregister} {
			if err := do(ctx, reg); err != nil {
				return err
			}
		}
	}
}

func TestKilledAtAnyInstructionLocalDirectory(t *testing.T) { killed(t, local(t)) }

func TestKilledAtAnyInstructionClusterFileSystem(t *testing.T) {
	m, _ := cluster(t)
	killed(t, m)
}

// killed: whatever a process was at, one reconciliation leaves nothing of it.
func killed(t *testing.T, m *machine) {
	o := *m.Registrar
	text, err := json.Marshal(struct {
		Root, Node, LockDir, StateDir, LXCPath, SocketTable, HostCPUs string
		Local                                                         bool
		Range                                                         pve.Range
		RetryFor, LockTimeout                                         time.Duration
	}{o.Root, o.Node, o.LockDir, o.StateDir, o.LXCPath, o.SocketTable, o.HostCPUs, o.Local, o.Range, o.RetryFor, o.LockTimeout})
	must(t, err)
	dirty := 0
	for range 25 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childEnv+"="+string(text))
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Errorf("the child did not get ready: %v", err)
		}
		// Any moment will do: this is where in its work it dies.
		time.Sleep(rand.N(10 * time.Millisecond))
		must(t, child.Process.Kill())
		if err := child.Wait(); child.ProcessState.Exited() {
			t.Fatalf("the child failed before it was killed: %v", err)
		}
		if m.confs() != "" {
			dirty++
		}
		if _, err := m.Reconcile(ctx(t), tasks()); err != nil {
			t.Fatal(err)
		}
		intents, err := os.ReadDir(filepath.Join(m.StateDir, "intents"))
		must(t, err)
		if left := m.confs(); left != "" || len(intents) > 0 {
			t.Fatalf("after the reconciliation are left: %q, intents %v", left, intents)
		}
	}
	if dirty == 0 {
		t.Error("no kill left anything behind: the test saw nothing")
	}
	m.reserve("afterwards")
}
