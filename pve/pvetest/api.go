package pvetest

import (
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Secret is the API token that [API] takes.
const Secret = "root@pam!pvelxc=12345678-1234-1234-1234-123456789abc"

// API is an HTTPS server that answers as the schema of PVE's API says, on the part that
// is used. Its pools are "k8s" with 900001, "other" with 900009, and the empty "a/b".
type API struct {
	*httptest.Server
	// TokenFile holds Secret, CAFile the certificate of the server's authority.
	TokenFile, CAFile string

	mu       sync.Mutex // guards what follows
	pools    map[string]map[int]bool
	guests   []map[string]any
	tasks    []APITask
	denied   []string
	requests []string
	faults   []Fault
}

// APITask is a task that the API shows.
type APITask struct {
	UPID, Node, Type, User string
	// VMID is the guest's.
	VMID int
	// Start and End are seconds since 1970; no End and no Status while it runs.
	Start, End int64
	Status     string
	Log        []string
}

// Fault is an answer instead of the true one. Nil is the true one.
type Fault func(http.ResponseWriter)

// StartAPI starts a server for a test.
func StartAPI(t testing.TB) *API {
	t.Helper()
	s := &API{pools: map[string]map[int]bool{"k8s": {900001: true}, "other": {900009: true}, "a/b": {}}}
	s.SetGuests(
		// PVE's Perl makes numbers, strings and floats of the same thing.
		map[string]any{"vmid": 900001, "node": "n1", "type": "lxc", "status": "running", "name": "web-0", "pool": "k8s", "maxmem": 1 << 40, "cpu": 0.25},
		map[string]any{"vmid": "100", "node": "n2", "type": "qemu", "status": "unknown"},
		map[string]any{"vmid": 101.0, "node": "n3", "type": "lxc"},
	)
	s.SetTasks(
		APITask{UPID: UPID, Node: "n1", Type: "vzstop", User: "admin@pam", VMID: 900001, Start: 1700000000, End: 1700000005, Status: "OK", Log: []string{"stopping", "TASK OK"}},
		APITask{UPID: UPID, Node: "n1", Type: "vzreboot", User: "admin@pam", VMID: 900001, Start: 1700000010},
	)
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that refuse it are part of tests
	s.StartTLS()
	t.Cleanup(s.Close)
	dir := t.TempDir()
	s.TokenFile, s.CAFile = filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	for path, data := range map[string][]byte{
		s.TokenFile: []byte(Secret + "\n"),
		s.CAFile:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Fingerprint is the SHA-256 of the server's certificate.
func (s *API) Fingerprint() [sha256.Size]byte { return sha256.Sum256(s.Certificate().Raw) }

// Fail gives the next requests other answers, the first to the next, and forgets what was
// seen.
func (s *API) Fail(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.requests = faults, nil
}

// Seen are the requests since the last Fail.
func (s *API) Seen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.requests, ", ")
}

// SetGuests replaces what /cluster/resources lists.
func (s *API) SetGuests(guests ...map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guests = append([]map[string]any{}, guests...) // none is a list, too
}

// SetTasks replaces the nodes' tasks.
func (s *API) SetTasks(tasks ...APITask) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks = tasks
}

// Deny takes privileges from the token, as far as the list of them goes.
func (s *API) Deny(privileges ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = privileges
}

// held are the privileges on paths that begin so.
var held = map[string][]string{
	"/vms/":   {"VM.Allocate", "VM.Audit"},
	"/nodes/": {"Sys.Audit"},
	"/pool/":  {"Pool.Allocate", "Pool.Audit"},
}

func (s *API) readPermissions(w http.ResponseWriter, path string) {
	on := map[string]int{}
	for prefix, privileges := range held {
		for _, p := range privileges {
			if strings.HasPrefix(path, prefix) && !slices.Contains(s.denied, p) {
				on[p] = 1
			}
		}
	}
	if len(on) == 0 {
		answer(w, map[string]any{})
		return
	}
	answer(w, map[string]any{path: on})
}

// SetMember makes a guest a pool's member, or no longer one.
func (s *API) SetMember(pool string, vmid int, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pools[pool][vmid] = true; !is {
		delete(s.pools[pool], vmid)
	}
}

// Members are the guests in a pool.
func (s *API) Members(pool string) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.pools[pool]))
}

// Status is a refusal.
func Status(code int, message string) Fault {
	return func(w http.ResponseWriter) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"data":null,"message":%q}`, message+"\n")
	}
}

// Hold keeps the request, and all that follow, until release is closed.
func Hold(release <-chan struct{}) Fault {
	return func(w http.ResponseWriter) {
		<-release
		Status(http.StatusServiceUnavailable, "held")(w)
	}
}

// Half sends the beginning of an answer and drops the connection.
func Half(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "1000")
	fmt.Fprint(w, `{"data":[{"vmid":900`)
}

// HalfAfter makes the change that was asked for, and loses its answer.
func (s *API) HalfAfter(pool string, vmid int) Fault {
	return func(w http.ResponseWriter) { // called with mu held
		s.pools[pool][vmid] = true
		Half(w)
	}
}

// Text is an answer with this body.
func Text(body string) Fault {
	return func(w http.ResponseWriter) { fmt.Fprint(w, body) }
}

// ServeHTTP implements [http.Handler].
func (s *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	if r.Header.Get("Authorization") != "PVEAPIToken="+Secret {
		Status(401, "no such token")(w)
		return
	}
	if m := taskPath.FindStringSubmatch(r.URL.Path); m != nil && r.Method == http.MethodGet {
		s.readTasks(w, m[1], m[2], r.Form)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /api2/json/pools":
		s.readPool(w, r.Form.Get("poolid"))
	case "PUT /api2/json/pools":
		s.updatePool(w, r)
	case "GET /api2/json/access/permissions":
		s.readPermissions(w, r.Form.Get("path"))
	case "GET /api2/json/cluster/resources":
		answer(w, s.guests)
	default:
		Status(501, "Method '"+r.Method+" "+r.URL.Path+"' not implemented")(w)
	}
}

// UPID is of the task that the API shows.
const UPID = "UPID:n1:0001A2B3:00C0FFEE:6553F100:vzstop:900001:admin@pam:"

// taskPath is of a node's tasks, or of the log of one.
var taskPath = regexp.MustCompile(`^/api2/json/nodes/([^/]+)/tasks(?:/([^/]+)/log)?$`)

func (s *API) readTasks(w http.ResponseWriter, node, upid string, form url.Values) {
	list := []map[string]any{}
	for _, t := range s.tasks {
		if t.Node != node {
			continue
		}
		if upid != "" {
			if t.UPID == upid {
				lines := []map[string]any{}
				for i, text := range t.Log {
					lines = append(lines, map[string]any{"n": i + 1, "t": text})
				}
				if len(lines) == 0 { // PVE::Tools::dump_logfile
					lines = append(lines, map[string]any{"n": 1, "t": "no content"})
				}
				answer(w, lines)
				return
			}
			continue
		}
		if since, _ := strconv.ParseInt(form.Get("since"), 10, 64); t.Start < since || form.Get("vmid") != strconv.Itoa(t.VMID) {
			continue
		}
		task := map[string]any{"upid": t.UPID, "node": t.Node, "type": t.Type, "user": t.User, "starttime": t.Start, "id": strconv.Itoa(t.VMID)}
		if t.End != 0 {
			task["endtime"], task["status"] = t.End, t.Status
		} else {
			task["starttime"] = strconv.FormatInt(t.Start, 10)
		}
		list = append(list, task)
	}
	if upid != "" {
		Status(500, "no such task")(w)
		return
	}
	answer(w, list)
}

func answer(w http.ResponseWriter, data any) {
	if err := json.NewEncoder(w).Encode(map[string]any{"data": data}); err != nil {
		panic(err)
	}
}

func (s *API) readPool(w http.ResponseWriter, pool string) {
	members, ok := s.pools[pool]
	if !ok {
		Status(500, "pool '"+pool+"' does not exist")(w)
		return
	}
	list := []map[string]any{{"type": "storage", "id": "storage/n1/local", "node": "n1", "storage": "local"}}
	for _, v := range slices.Sorted(maps.Keys(members)) {
		list = append(list, map[string]any{"type": "lxc", "id": fmt.Sprint("lxc/", v), "node": "n1", "vmid": v})
	}
	answer(w, []map[string]any{{"poolid": pool, "members": list}})
}

// updatePool dies, as PVE does, of the first guest that is as it should become.
func (s *API) updatePool(w http.ResponseWriter, r *http.Request) {
	pool, ok := s.pools[r.Form.Get("poolid")]
	if !ok {
		Status(500, "update pools failed: pool '"+r.Form.Get("poolid")+"' does not exist")(w)
		return
	}
	next := maps.Clone(pool)
	for id := range strings.SplitSeq(r.Form.Get("vms"), ",") {
		v, err := strconv.Atoi(id)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"data":null,"message":"Parameter verification failed.\n","errors":{"vms":"invalid format - value does not look like a valid VM ID\n"}}`)
			return
		}
		if r.Form.Get("delete") == "1" {
			if !next[v] {
				Status(500, fmt.Sprintf("update pools failed: VM %d is not a pool member", v))(w)
				return
			}
			delete(next, v)
			continue
		}
		for name, p := range s.pools {
			if p[v] {
				Status(500, fmt.Sprintf("update pools failed: VM %d belongs already to pool '%s'", v, name))(w)
				return
			}
		}
		next[v] = true
	}
	s.pools[r.Form.Get("poolid")] = next
	answer(w, nil)
}
