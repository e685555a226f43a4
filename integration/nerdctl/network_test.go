package nerdctl

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/pvelxc/pvelxc/integration/harness"
	"github.com/pvelxc/pvelxc/integration/image"
)

// server is a script that answers HTTP on port 80.
const server = "mkdir -p /www; echo hello from $(hostname) >/www/index.html; httpd -f -h /www -p 80"

// get waits until the URL answers and returns what it says.
func get(t *testing.T, url string) string {
	t.Helper()
	var body string
	harness.Eventually(t, url, func() error {
		response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(url)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		data, err := io.ReadAll(response.Body)
		body = string(data)
		return err
	})
	return body
}

func TestPublishedPort(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, server, "--hostname", "www", "-p", "127.0.0.1:18080:80", "-p", "18081:80/tcp")
		for _, port := range []string{"18080", "18081"} {
			if got := get(t, "http://127.0.0.1:"+port+"/"); got != "hello from www\n" {
				t.Errorf("port %s answers %q", port, got)
			}
		}
		if got := n.ok(t, "port", name); !strings.Contains(got, "80/tcp -> 127.0.0.1:18080") || !strings.Contains(got, "80/tcp -> 0.0.0.0:18081") {
			t.Errorf("nerdctl port prints %q", got)
		}
		if got := n.ok(t, "port", name, "80/tcp"); !strings.Contains(got, "127.0.0.1:18080") {
			t.Errorf("nerdctl port 80/tcp prints %q", got)
		}
		address := n.inspect(t, name, ".NetworkSettings.IPAddress")
		if got := get(t, "http://"+address+"/"); got != "hello from www\n" {
			t.Errorf("the bridge address answers %q", got)
		}
		n.ok(t, "rm", "-f", name)
		if c, err := net.Dial("tcp", "127.0.0.1:18080"); err == nil {
			c.Close()
			t.Error("the port is open after the container's end")
		}
	})
}

// Containers on one bridge reach each other, by address and by name.
func TestBridge(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, server, "--hostname", "peer")
		address := n.inspect(t, name, ".NetworkSettings.IPAddress")
		get(t, "http://"+address+"/")
		for _, host := range []string{address, name} {
			if got := n.run(t, "--rm", image.Busybox, "wget", "-q", "-O", "-", "http://"+host+"/"); got != "hello from peer" {
				t.Errorf("%s answers %q", host, got)
			}
		}
	})
}

// After a restart the container has a network again.
func TestRestartKeepsNetwork(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.detach(t, server, "--hostname", "again", "-p", "127.0.0.1:18082:80")
		get(t, "http://127.0.0.1:18082/")
		n.ok(t, "restart", "--time", "0", name)
		if got := get(t, "http://127.0.0.1:18082/"); got != "hello from again\n" {
			t.Errorf("it answers %q", got)
		}
	})
}

// A new network has a working loopback interface, whoever else sets it up.
func TestLoopback(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		script := "ip -o link show dev lo | grep -c LOOPBACK,UP; ip -o addr show dev lo | grep -c 127.0.0.1/8"
		for _, network := range []string{"none", "bridge"} {
			if got := n.try(t, n.runArgs("--rm", "--net", network, image.Busybox, "sh", "-c", script)...); got.stdout != "1\n1\n" {
				t.Errorf("%s: got %s", network, got)
			}
		}
	})
}

func TestNetworkModes(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(c, "host speaking")
				c.Close()
			}
		}()
		port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
		if got := n.run(t, "--rm", "--net", "host", image.Busybox, "nc", "127.0.0.1", port); got != "host speaking" {
			t.Errorf("host: got %q", got)
		}
		if got := n.sh(t, nil, "ls /sys/class/net"); got.stdout != "lo\n" {
			t.Errorf("none: got %s", got)
		}
		name := n.detach(t, server, "--hostname", "owner")
		if got := n.run(t, "--rm", "--net", "container:"+name, image.Busybox, "sh", "-c", "until wget -q -O - http://127.0.0.1/; do sleep 0.05; done 2>/dev/null"); got != "hello from owner" {
			t.Errorf("container: got %q", got)
		}
	})
}

func TestNamespaces(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		own := func(namespace string) string {
			target, err := os.Readlink("/proc/self/ns/" + namespace)
			if err != nil {
				t.Fatal(err)
			}
			return target + "\n"
		}
		for _, namespace := range []string{"pid", "ipc"} {
			if _, err := os.Stat("/dev/mqueue"); namespace == "ipc" && err != nil {
				continue // nerdctl shares the directory along with the namespace
			}
			script := "readlink /proc/self/ns/" + namespace
			if got := n.sh(t, []string{"--" + namespace, "host"}, script); got.stdout != own(namespace) {
				t.Errorf("--%s host: got %s, want %s", namespace, got, own(namespace))
			}
			if got := n.sh(t, nil, script); got.status != 0 || got.stdout == own(namespace) {
				t.Errorf("--%s is not its own: %s", namespace, got)
			}
		}
		name := n.start(t)
		if got := n.sh(t, []string{"--pid", "container:" + name}, "tr '\\0' ' ' </proc/1/cmdline; test $$ != 1"); got.status != 0 || !strings.Contains(got.stdout, "trap 'exit 0' TERM") {
			t.Errorf("--pid container: got %s", got)
		}
	})
}

// A container that shares the machine's process numbers takes nobody else with it when it ends.
func TestHostPidStop(t *testing.T) {
	each(t, func(t *testing.T, n *cli) {
		name := n.start(t, "--pid", "host")
		n.ok(t, "exec", "-d", name, "sleep", "4243")
		processes := func() (count int) {
			out := n.ok(t, "top", name, "-o", "pid,args")
			for scanner := bufio.NewScanner(strings.NewReader(out)); scanner.Scan(); {
				if strings.HasSuffix(scanner.Text(), "sleep 4243") {
					count++
				}
			}
			return count
		}
		harness.Eventually(t, "the exec", func() error {
			if c := processes(); c != 1 {
				return fmt.Errorf("%d processes", c)
			}
			return nil
		})
		n.ok(t, "rm", "-f", name)
	})
}
