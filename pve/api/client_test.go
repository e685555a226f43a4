package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/pvelxc/pvelxc/pve"
	"github.com/pvelxc/pvelxc/pve/api"
	"github.com/pvelxc/pvelxc/pve/pvetest"
)

func background(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func options(s *pvetest.API) api.Client {
	return api.Client{URL: s.URL, TokenFile: s.TokenFile, CAFile: s.CAFile, Backoff: time.Millisecond}
}

// client is one that trusts the server, and is quick to try again.
func client(t *testing.T, s *pvetest.API) *api.Client {
	t.Helper()
	c, err := api.New(options(s))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPool(t *testing.T) {
	s := pvetest.StartAPI(t)
	c, ctx := client(t, s), background(t)
	members := func(want ...pve.VMID) {
		t.Helper()
		got, err := c.Pool(ctx, "k8s")
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("members: %v (-want +got):\n%s", err, diff)
		}
	}
	members(900001)
	for _, step := range []struct {
		do       func() error
		requests string
	}{
		{func() error { return c.AddToPool(ctx, "k8s", 900001, 900002, 900003) }, "GET /pools poolid=k8s, PUT /pools poolid=k8s&vms=900002%2C900003"},
		{func() error { return c.AddToPool(ctx, "k8s", 900001, 900002) }, "GET /pools poolid=k8s"},
		{func() error { return c.RemoveFromPool(ctx, "k8s", 900002, 900777) }, "GET /pools poolid=k8s, PUT /pools delete=1&poolid=k8s&vms=900002"},
		{func() error { return c.AddToPool(ctx, "a/b", 5000) }, "GET /pools poolid=a%2Fb, PUT /pools poolid=a%2Fb&vms=5000"},
	} {
		s.Fail()
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := s.Seen(); got != step.requests {
			t.Errorf("requests: %s, want %s", got, step.requests)
		}
	}
	members(900001, 900003)
	if err := c.AddToPool(ctx, "k8s", 900009); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "VM 900009 belongs already to pool 'other'") {
		t.Errorf("a guest of another pool: %v", err)
	}
	if err := c.AddToPool(ctx, "none", 1); !errdefs.IsNotFound(err) {
		t.Errorf("no such pool: %v", err)
	}
	if _, err := c.Pool(ctx, "a&b=c"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name with syntax: %v", err)
	}
}

// TestLostAnswer: the change was made, its answer was lost, and it is made again.
func TestLostAnswer(t *testing.T) {
	s := pvetest.StartAPI(t)
	s.Fail(nil, s.HalfAfter("k8s", 900002))
	if err := client(t, s).AddToPool(background(t), "k8s", 900002); err != nil {
		t.Errorf("%v, after %s", err, s.Seen())
	}
}

func TestGuestsOfOtherNodes(t *testing.T) {
	got, err := client(t, pvetest.StartAPI(t)).Guests(background(t))
	want := []api.Guest{{900001, "n1", "lxc", "running", "web-0", "k8s"}, {100, "n2", "qemu", "unknown", "", ""}, {101, "n3", "lxc", "unknown", "", ""}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestPrivileges(t *testing.T) {
	s := pvetest.StartAPI(t)
	c, ctx := client(t, s), background(t)
	for path, want := range map[string]string{"/vms/900000": "[VM.Allocate VM.Audit]", "/nowhere": "[]"} {
		if got, err := c.Privileges(ctx, path); err != nil || fmt.Sprint(got) != want {
			t.Errorf("on %s: %v, %v; want %s", path, got, err, want)
		}
	}
	s.Deny("VM.Audit")
	if got, err := c.Privileges(ctx, "/vms/900000"); err != nil || fmt.Sprint(got) != "[VM.Allocate]" {
		t.Errorf("without VM.Audit: %v, %v", got, err)
	}
}

func TestOnlyGuests(t *testing.T) {
	s := pvetest.StartAPI(t)
	s.SetGuests(map[string]any{"type": "node", "node": "n1"}, map[string]any{"vmid": nil}, map[string]any{"vmid": 100, "node": "n1", "status": "stopped"})
	if got, err := client(t, s).Guests(background(t)); err != nil || len(got) != 1 || got[0].VMID != 100 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestTasks(t *testing.T) {
	s := pvetest.StartAPI(t)
	c, ctx := client(t, s), background(t)
	got, err := c.Tasks(ctx, "n1", 900001, time.Unix(1690000000, 0))
	want := []api.Task{
		{UPID: pvetest.UPID, Type: "vzstop", User: "admin@pam", Start: time.Unix(1700000000, 0), End: time.Unix(1700000005, 0), Status: "OK"},
		{UPID: pvetest.UPID, Type: "vzreboot", User: "admin@pam", Start: time.Unix(1700000010, 0)},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, want := s.Seen(), "GET /nodes/n1/tasks limit=50&since=1690000000&source=all&vmid=900001"; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	lines, err := c.TaskLog(ctx, pvetest.UPID)
	if diff := cmp.Diff([]string{"stopping", "TASK OK"}, lines); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"", "../../access/users", "UPID:n1/../x:00000000:00000000:00000000:a:b:c:", pvetest.UPID + "/../x"} {
		if _, err := c.TaskLog(ctx, bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("task %q: %v", bad, err)
		}
	}
	if _, err := c.Tasks(ctx, "n1/../n2", 1, time.Time{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a node that climbs: %v", err)
	}
}

// endless is an answer that grows past all that a cluster has to say.
func endless(w http.ResponseWriter) {
	blank := bytes.Repeat([]byte(" "), 1<<20)
	for range 65 {
		if _, err := w.Write(blank); err != nil {
			return // the client has had enough
		}
	}
}

func TestRefusals(t *testing.T) {
	s := pvetest.StartAPI(t)
	c := client(t, s)
	for _, test := range []struct {
		fault pvetest.Fault
		kind  error
		says  string
	}{
		{pvetest.Status(401, "authentication failure"), errdefs.ErrUnauthenticated, "401 authentication failure (hint: the token"},
		{pvetest.Status(403, "Permission check failed (/pool/k8s, Pool.Audit)"), errdefs.ErrPermissionDenied, "403 Permission check failed (/pool/k8s, Pool.Audit) (hint: "},
		{pvetest.Status(404, "no such path"), errdefs.ErrNotFound, "404 no such path"},
		{pvetest.Status(500, "cfs-lock 'file-user_cfg' error: no quorum!"), pve.ErrNoQuorum, "no quorum!"},
		{pvetest.Status(500, "some Perl at line 7."), errdefs.ErrUnknown, "500 some Perl at line 7."},
		{pvetest.Status(501, "not implemented"), errdefs.ErrNotImplemented, "501"},
		{func(w http.ResponseWriter) {
			w.WriteHeader(400)
			fmt.Fprint(w, `{"errors":{"poolid":"invalid format\n","a":"b"},"data":null,"message":"Parameter verification failed.\n"}`)
		}, errdefs.ErrInvalidArgument, "400 Parameter verification failed.; a: b; poolid: invalid format"},
		{func(w http.ResponseWriter) { w.WriteHeader(403) }, errdefs.ErrPermissionDenied, "403 Forbidden"},
		{func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://example.invalid/")
			w.WriteHeader(302)
		}, errdefs.ErrUnknown, "302 Found"},
		{pvetest.Text(`{"data":[{"vmid":"x"}]}`), errdefs.ErrDataLoss, "not of this API"},
		{pvetest.Text(`{"data":{"vmid":1}}`), errdefs.ErrDataLoss, "not of this API"},
		{pvetest.Text(`{"data":[{"vmid":-5}]}`), errdefs.ErrDataLoss, "not of this API"},
		{pvetest.Text(`{"data":[{"vmid":1.5}]}`), errdefs.ErrDataLoss, "not of this API"},
		{endless, errdefs.ErrResourceExhausted, "more than 67108864 bytes"},
	} {
		s.Fail(test.fault)
		_, err := c.Guests(background(t))
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%v, want %v saying %q", err, test.kind, test.says)
		}
		if strings.Contains(err.Error(), "12345678") {
			t.Errorf("the secret is in the error: %v", err)
		}
		if n := strings.Count(s.Seen(), "GET"); n != 1 {
			t.Errorf("%s: asked %d times", test.says, n)
		}
	}
}

func TestTriesAgain(t *testing.T) {
	s := pvetest.StartAPI(t)
	c := client(t, s)
	for name, fault := range map[string]pvetest.Fault{
		"half an answer": pvetest.Half,
		"half JSON":      pvetest.Text(`{"data":[`),
		"no data":        pvetest.Text(`{"data":null}`),
		"an empty body":  pvetest.Text(""),
		"a web page":     pvetest.Text("<html>"),
		"595":            pvetest.Status(595, "No route to host"),
		"596":            pvetest.Status(596, "tls_process_server_certificate: certificate verify failed"),
		"599":            pvetest.Status(599, "Too many redirections"),
		"503":            pvetest.Status(503, "Service Unavailable"),
		"a lock":         pvetest.Status(500, "cfs-lock 'file-user_cfg' error: got lock request timeout"),
		"a slow node":    pvetest.Status(500, "got timeout"),
	} {
		s.Fail(fault, fault)
		if guests, err := c.Guests(background(t)); err != nil || len(guests) != 3 {
			t.Errorf("%s twice: %v", name, err)
		}
		s.Fail(fault, fault, fault, fault, fault, fault)
		if _, err := c.Guests(background(t)); !errdefs.IsUnavailable(err) {
			t.Errorf("%s always: %v, want unavailable", name, err)
		}
		if n := strings.Count(s.Seen(), "GET"); n != 5 {
			t.Errorf("%s: asked %d times, want 5", name, n)
		}
	}
	s.Fail(pvetest.Half, pvetest.Half, pvetest.Half, pvetest.Half, pvetest.Half)
	cancelled, cancel := context.WithCancel(background(t))
	cancel()
	if _, err := c.Guests(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled request: %v", err)
	}
}

func TestTrust(t *testing.T) {
	s, stranger := pvetest.StartAPI(t), pvetest.StartAPI(t)
	sum := s.Fingerprint()
	colons := strings.ReplaceAll(strings.TrimSuffix(fmt.Sprintf("% X", sum), " "), " ", ":")
	o := options(s)
	o.CAFile, o.Fingerprint = "", colons
	c, err := api.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Guests(background(t)); err != nil {
		t.Errorf("with the fingerprint %s: %v", colons, err)
	}
	sum[0]++
	o.Fingerprint = fmt.Sprintf("%x", sum)
	if c, err = api.New(o); err != nil {
		t.Fatal(err)
	}
	s.Fail()
	if _, err := c.Guests(background(t)); !errdefs.IsFailedPrecondition(err) || s.Seen() != "" {
		t.Errorf("with another fingerprint: %v; the server saw %q", err, s.Seen())
	}
	// An authority that did not sign the server's certificate.
	o = options(s)
	o.CAFile = filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(o.CAFile, otherAuthority(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err = api.New(o); err != nil {
		t.Fatal(err)
	}
	s.Fail()
	if _, err := c.Guests(background(t)); !errdefs.IsFailedPrecondition(err) || s.Seen() != "" {
		t.Errorf("with another authority: %v; the server saw %q", err, s.Seen())
	}
	// httptest's servers share a certificate; another name makes it a stranger's.
	o = options(stranger)
	u, err := url.Parse(stranger.URL)
	if err != nil {
		t.Fatal(err)
	}
	o.URL = "https://localhost:" + u.Port()
	if c, err = api.New(o); err != nil {
		t.Fatal(err)
	}
	stranger.Fail()
	if _, err := c.Guests(background(t)); !errdefs.IsFailedPrecondition(err) || stranger.Seen() != "" {
		t.Errorf("a certificate of another name: %v; the server saw %q", err, stranger.Seen())
	}
}

// otherAuthority is a certificate that signed nothing, in PEM.
func otherAuthority(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestNewRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*api.Client)
		kind   error
	}{
		"no TLS":                  {func(c *api.Client) { c.URL = "http://127.0.0.1:8006" }, errdefs.ErrInvalidArgument},
		"a user":                  {func(c *api.Client) { c.URL = strings.Replace(c.URL, "://", "://root:hunter2@", 1) }, errdefs.ErrInvalidArgument},
		"an address that is none": {func(c *api.Client) { c.URL = "https://root:hunter2@[::1" }, errdefs.ErrInvalidArgument},
		"a query":                 {func(c *api.Client) { c.URL += "?x=y" }, errdefs.ErrInvalidArgument},
		"a pipe": {func(c *api.Client) {
			c.TokenFile += ".pipe"
			if err := syscall.Mkfifo(c.TokenFile, 0o600); err != nil {
				t.Error(err)
			}
		}, errdefs.ErrPermissionDenied},
		"a path":            {func(c *api.Client) { c.URL += "/x" }, errdefs.ErrInvalidArgument},
		"a bad fingerprint": {func(c *api.Client) { c.Fingerprint = "AA:BB" }, errdefs.ErrInvalidArgument},
		"no authority":      {func(c *api.Client) { c.CAFile = c.TokenFile }, errdefs.ErrInvalidArgument},
		"a missing token":   {func(c *api.Client) { c.TokenFile += "x" }, os.ErrNotExist},
		"a readable token":  {func(c *api.Client) { os.Chmod(c.TokenFile, 0o640) }, errdefs.ErrPermissionDenied},
		"somebody else's token": {func(c *api.Client) {
			if err := os.Chown(c.TokenFile, 12345, 0); err != nil { // not root: then it cannot be somebody else's
				os.Remove(c.TokenFile)
			}
		}, nil},
		"a token behind a link": {func(c *api.Client) { os.Symlink(c.TokenFile, c.TokenFile+".l"); c.TokenFile += ".l" }, nil},
		"a password":            {func(c *api.Client) { os.WriteFile(c.TokenFile, []byte("hunter2\n"), 0o600) }, errdefs.ErrInvalidArgument},
		"a header in the token": {func(c *api.Client) { os.WriteFile(c.TokenFile, []byte(pvetest.Secret+"\nX: y\n"), 0o600) }, errdefs.ErrInvalidArgument},
		"a directory":           {func(c *api.Client) { c.TokenFile = filepath.Dir(c.TokenFile) }, errdefs.ErrPermissionDenied},
	} {
		o := options(pvetest.StartAPI(t))
		test.change(&o)
		_, err := api.New(o)
		if err == nil || test.kind != nil && !errors.Is(err, test.kind) {
			t.Errorf("%s: %v, want %v", name, err, test.kind)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "12345678") {
			t.Errorf("%s: the secret is in the error: %v", name, err)
		}
	}
}
