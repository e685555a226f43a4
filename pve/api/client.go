package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// DefaultCA is the authority that signs the nodes' certificates.
const DefaultCA = "/etc/pve/pve-root-ca.pem"

// maxAnswer bounds an answer in bytes: a cluster's list of ten thousand guests has 5 MB.
const maxAnswer = 64 << 20

// Client speaks to one node's API. Fields that are left zero get their defaults from
// New. It is safe for concurrent use.
type Client struct {
	// URL is of the node, such as "https://127.0.0.1:8006", which is the default.
	URL string
	// TokenFile holds "user@realm!name=secret"; nobody but root may read it.
	TokenFile string
	// CAFile holds the certificates of the authority that signed the server's. It
	// is DefaultCA unless a Fingerprint is given.
	CAFile string
	// Fingerprint is the SHA-256 of the server's certificate as PVE shows it, hexadecimal
	// with or without colons. With it no authority is asked.
	Fingerprint string
	// Timeout bounds one attempt. Default: 10 s.
	Timeout time.Duration
	// Attempts bounds how often a request is made. Default: 5.
	Attempts int
	// Backoff is the pause after the first attempt; it doubles with each. Default: 200 ms.
	Backoff time.Duration

	base  *url.URL
	token string
	http  *http.Client
}

// New checks c, reads the token and the authority, and asks the server nothing.
// It fails with ErrInvalidArgument for a field that makes no sense, and with
// ErrPermissionDenied for a token that others may read.
func New(c Client) (*Client, error) {
	if c.URL == "" {
		c.URL = "https://127.0.0.1:8006"
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Attempts <= 0 {
		c.Attempts = 5
	}
	if c.Backoff <= 0 {
		c.Backoff = 200 * time.Millisecond
	}
	base, err := url.Parse(c.URL)
	if err != nil || base.Scheme != "https" || base.Host == "" || base.User != nil || strings.Trim(base.Path, "/") != "" || base.RawQuery != "" {
		shown := "" // no password, and nothing of what cannot be parsed: there may be one in it
		if err == nil {
			shown = fmt.Sprintf(" %q", base.Redacted())
		}
		return nil, fmt.Errorf("API address%s is not https://host:port: %w", shown, errdefs.ErrInvalidArgument)
	}
	c.base = base
	if c.token, err = readToken(c.TokenFile); err != nil {
		return nil, err
	}
	trust, err := c.trust()
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{
		// No proxy: the token is for this server alone.
		Transport: &http.Transport{TLSClientConfig: trust, TLSHandshakeTimeout: c.Timeout, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute},
		// No redirect, for the same reason. PVE sends none.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &c, nil
}

// trust makes the server prove itself, by fingerprint or by authority.
func (c *Client) trust() (*tls.Config, error) {
	if c.Fingerprint == "" {
		if c.CAFile == "" {
			c.CAFile = DefaultCA
		}
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the API's certificate authority: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate: %w", c.CAFile, errdefs.ErrInvalidArgument)
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
	}
	want, err := hex.DecodeString(strings.ReplaceAll(c.Fingerprint, ":", ""))
	if err != nil || len(want) != sha256.Size {
		return nil, fmt.Errorf("fingerprint %q is not the SHA-256 of a certificate: %w", c.Fingerprint, errdefs.ErrInvalidArgument)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// The certificate is checked below, against itself instead of an authority.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if got := sha256.Sum256(s.PeerCertificates[0].Raw); subtle.ConstantTimeCompare(got[:], want) != 1 {
				return &untrusted{fmt.Errorf("the server's certificate has the fingerprint %X", got)}
			}
			return nil
		},
	}, nil
}

// call makes a request until it is answered. result may be nil.
func (c *Client) call(ctx context.Context, method, path string, parameters url.Values, result any) error {
	var err error
	for attempt := range c.Attempts {
		if attempt > 0 {
			// Half of the pause is chance: nodes that lost a server together do not
			// come back together.
			if pause := pauseBefore(attempt, c.Backoff); !sleep(ctx, pause/2+rand.N(pause/2+1)) {
				break
			}
		}
		if err = c.attempt(ctx, method, path, parameters, result); err == nil || !retriable(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// pauseBefore is how long an attempt, the first being 0, waits at most: twice as long as the
// one before it, and no longer than ten seconds.
func pauseBefore(attempt int, backoff time.Duration) time.Duration {
	const most = 10 * time.Second
	for ; attempt > 1 && backoff < most; attempt-- {
		backoff *= 2
	}
	return min(backoff, most)
}

func (c *Client) attempt(ctx context.Context, method, path string, parameters url.Values, result any) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	target := c.base.JoinPath("/api2/json", path)
	var body io.Reader
	if method == http.MethodGet {
		target.RawQuery = parameters.Encode()
	} else {
		body = strings.NewReader(parameters.Encode())
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "PVEAPIToken="+c.token)
	if body != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return unreached(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return unreached(fmt.Errorf("the answer broke off: %w", err))
	}
	if len(data) > maxAnswer {
		return fmt.Errorf("the answer has more than %d bytes: %w", maxAnswer, errdefs.ErrResourceExhausted)
	}
	if response.StatusCode != http.StatusOK {
		return refusal(response, data)
	}
	return decode(data, result)
}

// decode unwraps {"data": …}. An answer that is not whole is one that broke off.
func decode(data []byte, result any) error {
	var answer struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return unreached(fmt.Errorf("the answer is not JSON: %w", err))
	}
	if result == nil {
		return nil
	}
	if len(answer.Data) == 0 || bytes.Equal(answer.Data, []byte("null")) {
		return unreached(errors.New("the answer has no data"))
	}
	if err := json.Unmarshal(answer.Data, result); err != nil {
		return fmt.Errorf("the answer is not of this API: %w: %w", err, errdefs.ErrDataLoss)
	}
	return nil
}

// sleep reports whether ctx outlived d.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
