package api_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/pve/api"
)

const secret = "root@pam!pvelxc=12345678-1234-1234-1234-123456789abc"

// server answers as the schema of PVE's API says, on the part that is used.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	pools    map[string]map[int]bool
	requests []string
	// faults are answers given instead of the true ones, the first to the next request.
	faults []func(http.ResponseWriter)
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{pools: map[string]map[int]bool{"k8s": {900001: true}, "other": {900009: true}, "a/b": {}}}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	s.Config.ErrorLog = nil
	return s
}

// client is one that trusts the server, and is quick to try again.
func (s *server) client(t *testing.T) *api.Client {
	t.Helper()
	c, err := api.New(s.options(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *server) options(t *testing.T) api.Client {
	t.Helper()
	dir := t.TempDir()
	o := api.Client{URL: s.URL, TokenFile: filepath.Join(dir, "token"), CAFile: filepath.Join(dir, "ca.pem"), Backoff: time.Millisecond}
	for path, data := range map[string][]byte{
		o.TokenFile: []byte(secret + "\n"),
		o.CAFile:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// fail gives the next requests other answers.
func (s *server) fail(faults ...func(http.ResponseWriter)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.requests = faults, nil
}

// seen are the requests since the last fail.
func (s *server) seen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.requests, ", ")
}

func status(code int, message string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"data":null,"message":%q}`, message+"\n")
	}
}

// half sends the beginning of an answer and drops the connection.
func half(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "1000")
	fmt.Fprint(w, `{"data":[{"vmid":900`)
}

func text(body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { fmt.Fprint(w, body) }
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := r.ParseForm(); err != nil {
		panic(err)
	}
	s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+strings.TrimPrefix(r.URL.Path, "/api2/json")+" "+r.Form.Encode()))
	if len(s.faults) > 0 {
		f := s.faults[0]
		s.faults = s.faults[1:]
		if f != nil {
			f(w)
			return
		}
	}
	if r.Header.Get("Authorization") != "PVEAPIToken="+secret {
		status(401, "no such token")(w)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /api2/json/pools":
		s.readPool(w, r.Form.Get("poolid"))
	case "PUT /api2/json/pools":
		s.updatePool(w, r)
	case "GET /api2/json/cluster/resources":
		answer(w, []map[string]any{
			{"vmid": 900001, "node": "n1", "type": "lxc", "status": "running", "name": "web-0", "pool": "k8s", "maxmem": 1 << 40, "cpu": 0.25},
			{"vmid": "100", "node": "n2", "type": "qemu", "status": "unknown"},
			{"vmid": 101.0, "node": "n3", "type": "lxc"},
		})
	case "GET /api2/json/nodes/n1/tasks":
		answer(w, []map[string]any{
			{"upid": upid, "type": "vzstop", "user": "admin@pam", "starttime": 1700000000, "endtime": 1700000005, "status": "OK", "id": "900001"},
			{"upid": upid, "type": "vzreboot", "user": "admin@pam", "starttime": "1700000010"},
		})
	case "GET /api2/json/nodes/n1/tasks/" + upid + "/log":
		answer(w, []map[string]any{{"n": 1, "t": "stopping"}, {"n": 2, "t": "TASK OK"}})
	default:
		status(501, "Method '"+r.Method+" "+r.URL.Path+"' not implemented")(w)
	}
}

const upid = "UPID:n1:0001A2B3:00C0FFEE:6553F100:vzstop:900001:admin@pam:"

func answer(w http.ResponseWriter, data any) {
	if err := json.NewEncoder(w).Encode(map[string]any{"data": data}); err != nil {
		panic(err)
	}
}

func (s *server) readPool(w http.ResponseWriter, pool string) {
	members, ok := s.pools[pool]
	if !ok {
		status(500, "pool '"+pool+"' does not exist")(w)
		return
	}
	list := []map[string]any{{"type": "storage", "id": "storage/n1/local", "node": "n1", "storage": "local"}}
	for _, v := range slices.Sorted(maps.Keys(members)) {
		list = append(list, map[string]any{"type": "lxc", "id": fmt.Sprint("lxc/", v), "node": "n1", "vmid": v})
	}
	answer(w, []map[string]any{{"poolid": pool, "members": list}})
}

// updatePool dies, as PVE does, of the first guest that is as it should become.
func (s *server) updatePool(w http.ResponseWriter, r *http.Request) {
	pool, ok := s.pools[r.Form.Get("poolid")]
	if !ok {
		status(500, "update pools failed: pool '"+r.Form.Get("poolid")+"' does not exist")(w)
		return
	}
	next := maps.Clone(pool)
	for id := range strings.SplitSeq(r.Form.Get("vms"), ",") {
		v, err := strconv.Atoi(id)
		if err != nil {
			w.WriteHeader(400)
			fmt.Fprint(w, `{"data":null,"message":"Parameter verification failed.\n","errors":{"vms":"invalid format - value does not look like a valid VM ID\n"}}`)
			return
		}
		if r.Form.Get("delete") == "1" {
			if !next[v] {
				status(500, fmt.Sprintf("update pools failed: VM %d is not a pool member", v))(w)
				return
			}
			delete(next, v)
			continue
		}
		for name, p := range s.pools {
			if p[v] {
				status(500, fmt.Sprintf("update pools failed: VM %d belongs already to pool '%s'", v, name))(w)
				return
			}
		}
		next[v] = true
	}
	s.pools[r.Form.Get("poolid")] = next
	answer(w, nil)
}
