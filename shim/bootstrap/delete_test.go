package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/pvelxc/pvelxc/shim/layout"
)

// TestDelete: the front answers by itself only where nothing is left of the container.
func TestDelete(t *testing.T) {
	address := func(t *testing.T, bundle string) Socket {
		t.Helper()
		socket := shimSocket(t)
		if err := os.WriteFile(filepath.Join(bundle, addressFile), []byte(socket.Address()), 0o600); err != nil {
			t.Fatal(err)
		}
		return socket
	}
	spec := func(t *testing.T, bundle string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bundle, specFile), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	asked := 0
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root, for mounts and the state directory")
	}
	namespace := filepath.Base(t.TempDir()) + "-front" // nobody else's
	for name, leave := range map[string]func(t *testing.T, bundle string){
		"nothing": nil,
		"shim of a pod": func(t *testing.T, bundle string) {
			spec(t, bundle)
			serve(t, address(t, bundle), services[1].name, "Shutdown", func(_ context.Context, unmarshal func(any) error) (any, error) {
				request := new(taskapi.ShutdownRequest)
				if err := unmarshal(request); err != nil || request.ID != "c1" || request.Now {
					t.Errorf("request %v, %v", request, err)
				}
				asked++
				return new(emptypb.Empty), nil
			})
		},
		"state": func(t *testing.T, _ string) {
			home := layout.Home(layout.Root, namespace, "c1")
			if err := os.MkdirAll(home, 0o700); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(home)) })
		},
		"dead socket": func(t *testing.T, bundle string) {
			file, err := address(t, bundle).listen()
			if err != nil {
				t.Fatal(err)
			}
			_ = file.Close()
		},
		"shim with a sandbox": func(t *testing.T, bundle string) {
			serve(t, address(t, bundle), services[1].name, "Shutdown", func(context.Context, func(any) error) (any, error) {
				t.Error("it was asked as that of a container")
				return new(emptypb.Empty), nil
			})
		},
		"sandbox": func(t *testing.T, _ string) {
			dir := layout.Sandbox(layout.Root, namespace, "c1")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = os.RemoveAll(filepath.Dir(dir))
				_ = os.Remove(filepath.Dir(filepath.Dir(dir)))
			})
		},
		"sick shim": func(t *testing.T, bundle string) {
			spec(t, bundle)
			serve(t, address(t, bundle), services[1].name, "Shutdown", func(context.Context, func(any) error) (any, error) {
				return nil, errors.New("out of order")
			})
		},
		"mount": func(t *testing.T, bundle string) {
			rootfs := filepath.Join(bundle, "rootfs")
			if err := unix.Mount(bundle, rootfs, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(rootfs, unix.MNT_DETACH) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := t.TempDir()
			if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o700); err != nil {
				t.Fatal(err)
			}
			if leave != nil {
				leave(t, bundle)
			}
			var out bytes.Buffer
			done, err := (&Invocation{ID: "c1", Namespace: namespace, Bundle: bundle}).delete(&out)
			if err != nil || done != slices.Contains([]string{"nothing", "shim of a pod"}, name) {
				t.Fatalf("done: %v, %v", done, err)
			}
			if !done {
				if out.Len() > 0 {
					t.Errorf("answered %q beside what pvelxc-shim will answer", &out)
				}
				return
			}
			answer := new(taskapi.DeleteResponse)
			if err := proto.Unmarshal(out.Bytes(), answer); err != nil {
				t.Fatal(err)
			}
			if name == "shim of a pod" && asked != 1 {
				t.Errorf("the shim was told %d times", asked)
			}
			if answer.ExitStatus != 137 || time.Since(answer.ExitedAt.AsTime()) < 0 || answer.Pid != 0 {
				t.Errorf("answer %v", answer)
			}
		})
	}
}
