package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// stream connects to the address that CRI gave for an exec or an attach, as a client of the API server does
// through it.
func stream(ctx context.Context, address string, o remotecommand.StreamOptions) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: u.Host}, http.MethodPost, u)
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, o)
}

// exitStatus is what a stream's error says of the process.
func exitStatus(t *testing.T, err error) int {
	t.Helper()
	var exit interface{ ExitStatus() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitStatus()
	}
	t.Fatal(err)
	return -1
}

// execStream runs a shell script with streams.
func (c *container) execStream(t *testing.T, script string, o remotecommand.StreamOptions) error {
	t.Helper()
	got, err := c.env.Runtime.Exec(c.env.ctx, &cri.ExecRequest{
		ContainerId: c.ID, Cmd: []string{"sh", "-c", script},
		Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil, Tty: o.Tty,
	})
	if err != nil {
		t.Fatal(err)
	}
	return stream(c.env.ctx, got.Url, o)
}

// TestExecStreams: standard input, output, errors and the exit status are apart.
func TestExecStreams(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		c := e.pod(t).sleeper(t)
		var stdout, stderr bytes.Buffer
		err := c.execStream(t, "cat; echo oops >&2; exit 9", remotecommand.StreamOptions{
			Stdin: strings.NewReader("through\n"), Stdout: &stdout, Stderr: &stderr,
		})
		if got := exitStatus(t, err); got != 9 {
			t.Errorf("exit status %d", got)
		}
		equal(t, "stdout", stdout.String(), "through")
		equal(t, "stderr", stderr.String(), "oops")

		big := strings.Repeat("0123456789abcdef", 1<<16)
		stdout.Reset()
		if err := c.execStream(t, "cat", remotecommand.StreamOptions{Stdin: strings.NewReader(big), Stdout: &stdout}); err != nil {
			t.Fatal(err)
		}
		if stdout.String() != big {
			t.Errorf("of %d bytes %d came back", len(big), stdout.Len())
		}
	})
}

// sizes yields one size of a terminal.
type sizes chan remotecommand.TerminalSize

// Next implements [remotecommand.TerminalSizeQueue].
func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

// TestExecTerminal: a terminal of the client's size, that follows it.
func TestExecTerminal(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		c := e.pod(t).sleeper(t)
		queue := make(sizes, 2)
		queue <- remotecommand.TerminalSize{Width: 100, Height: 40}
		defer close(queue)
		input, typed := io.Pipe()
		out := &harness.Buffer{}
		done := make(chan error, 1)
		go func() {
			done <- c.execStream(t, "tty; while [ \"$(stty size)\" != '50 120' ]; do sleep 0.1; done; echo resized; read line; echo got $line; exit 4",
				remotecommand.StreamOptions{Stdin: input, Stdout: out, Tty: true, TerminalSizeQueue: queue})
		}()
		harness.Eventually(t, "the terminal", saysSo(out, "/dev/pts/"))
		queue <- remotecommand.TerminalSize{Width: 120, Height: 50}
		harness.Eventually(t, "the new size", saysSo(out, "resized"))
		fmt.Fprintln(typed, "hello")
		if got := exitStatus(t, harness.Soon(t, "end of the exec", done)); got != 4 {
			t.Errorf("exit status %d", got)
		}
		if got := out.String(); !strings.Contains(got, "got hello\r\n") {
			t.Errorf("the terminal shows %q", got)
		}
	})
}

func saysSo(out *harness.Buffer, text string) func() error {
	return func() error {
		if got := out.String(); !strings.Contains(got, text) {
			return fmt.Errorf("no %q in %q", text, got)
		}
		return nil
	}
}

// TestExecSync: its output, its status, its time.
func TestExecSync(t *testing.T) {
	everywhere(t, func(t *testing.T, e *env) {
		c := e.pod(t).sleeper(t)
		got, err := c.Exec(e.ctx, "sh", "-c", "echo out; echo err >&2; exit 5")
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Stdout) != "out\n" || string(got.Stderr) != "err\n" || got.ExitCode != 5 {
			t.Errorf("stdout %q, stderr %q, status %d", got.Stdout, got.Stderr, got.ExitCode)
		}
		_, err = e.Runtime.ExecSync(e.ctx, &cri.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"sleep", "4321"}, Timeout: 1})
		mustFail(t, "an exec that takes longer than it may", err, "timeout", "timed out", "exceeded")
		harness.Eventually(t, "its end", func() error {
			if left := c.exec(t, "ps -o args | grep -c '^sleep 4321' || true"); strings.TrimSpace(left) != "0" {
				return fmt.Errorf("%s are left", left)
			}
			return nil
		})
		_, err = c.Exec(e.ctx, "/no/such/program")
		mustFail(t, "an exec of nothing", err, "/no/such/program")
	})
}

// TestAttach: a client that attaches has the container's streams; one that leaves, leaves the container as
// it was; the next one goes on.
func TestAttach(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		for _, tty := range []bool{false, true} {
			c := p.start(t, "while read line; do echo got $line; [ $line = end ] && exit 6; done", func(c *cri.ContainerConfig) { c.Stdin, c.Tty = true, tty })
			attach := func(ctx context.Context, stdin io.Reader, out io.Writer) <-chan error {
				got, err := e.Runtime.Attach(e.ctx, &cri.AttachRequest{ContainerId: c.ID, Stdin: true, Stdout: true, Stderr: !tty, Tty: tty})
				if err != nil {
					t.Fatal(err)
				}
				o := remotecommand.StreamOptions{Stdin: stdin, Stdout: out, Tty: tty}
				if !tty {
					o.Stderr = io.Discard
				}
				done := make(chan error, 1)
				go func() { done <- stream(ctx, got.Url, o) }()
				return done
			}
			for _, word := range []string{"one", "end"} {
				ctx, leave := context.WithCancel(e.ctx)
				input, typed := io.Pipe()
				out := &harness.Buffer{}
				done := attach(ctx, input, out)
				fmt.Fprintln(typed, word)
				harness.Eventually(t, "an answer", saysSo(out, "got "+word))
				leave()
				typed.Close()
				_ = harness.Soon(t, "end of the attachment", done)
			}
			if s := c.wait(t); s.ExitCode != 6 {
				t.Errorf("exit status %d", s.ExitCode)
			}
			if got := c.log(t)["stdout"]; !strings.Contains(got, "got one") || !strings.Contains(got, "got end") {
				t.Errorf("the log has %q", got)
			}
		}
	})
}

// TestStdinOnce: the container's input ends with that of its first client.
func TestStdinOnce(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		c := e.pod(t).start(t, "wc -c", func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
		got, err := e.Runtime.Attach(e.ctx, &cri.AttachRequest{ContainerId: c.ID, Stdin: true, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := stream(e.ctx, got.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("12345"), Stdout: io.Discard, Stderr: io.Discard}); err != nil {
			t.Fatal(err)
		}
		c.wait(t)
		equal(t, "bytes", c.log(t)["stdout"], "5")
	})
}

// TestPortForward: a connection to a port of the pod's loopback, in the pod's network namespace or the
// host's.
func TestPortForward(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		p := e.pod(t)
		c := p.start(t, "mkdir /www && echo served > /www/index.html && echo up && exec httpd -f -p 127.0.0.1:8080 -h /www")
		c.saw(t, "up")
		// The forwarder gives up at the first connection that it cannot make.
		harness.Eventually(t, "the server", func() error {
			got, err := c.Exec(e.ctx, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/")
			if err == nil && got.ExitCode != 0 {
				err = fmt.Errorf("%s", got.Stderr)
			}
			return err
		})
		got, err := e.Runtime.PortForward(e.ctx, &cri.PortForwardRequest{PodSandboxId: p.ID, Port: []int32{8080}})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(got.Url)
		if err != nil {
			t.Fatal(err)
		}
		transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: u.Host})
		if err != nil {
			t.Fatal(err)
		}
		ready := make(chan struct{})
		ctx, leave := context.WithCancel(e.ctx)
		defer leave()
		forwarder, err := portforward.NewOnAddressesWithContext(ctx, spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u),
			[]string{"127.0.0.1"}, []string{"0:8080"}, ready, io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- forwarder.ForwardPorts() }()
		harness.Soon(t, "the forwarder", ready)
		ports, err := forwarder.GetPorts()
		if err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, "the page", func() error { return served(e.ctx, fmt.Sprintf("127.0.0.1:%d", ports[0].Local), "served\n") })
		leave()
		if err := harness.Soon(t, "end of the forwarder", done); err != nil {
			t.Error(err)
		}
	})
}

// served fetches a page, whose text must be want.
func served(ctx context.Context, address, want string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	page, err := io.ReadAll(conn)
	if err == nil && !strings.HasSuffix(string(page), "\r\n\r\n"+want) {
		err = fmt.Errorf("served %q", page)
	}
	return err
}
