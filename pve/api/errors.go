package api

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/pvelxc/pvelxc/pve"
)

// Error is a refusal of the server's, in its own words.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Message is PVE's. Parameters are what it says of single ones.
	Message    string
	Parameters map[string]string
	// Kind is an errdefs class, or pve.ErrNoQuorum.
	Kind error
}

// Error reads "403 Permission check failed (/pool/k8s, Pool.Allocate) (hint: …)".
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s", e.Status, e.Message)
	for _, name := range slices.Sorted(maps.Keys(e.Parameters)) {
		fmt.Fprintf(&b, "; %s: %s", name, strings.TrimSpace(e.Parameters[name]))
	}
	switch {
	case errors.Is(e.Kind, errdefs.ErrUnauthenticated):
		b.WriteString(" (hint: the token is unknown or expired: pveum user token list)")
	case errors.Is(e.Kind, errdefs.ErrPermissionDenied):
		b.WriteString(" (hint: give the token, and its user, the privilege: pveum acl modify)")
	}
	return b.String()
}

// Unwrap returns Kind.
func (e *Error) Unwrap() error { return e.Kind }

// broken is a request that got no whole answer.
type broken struct{ cause error }

func (b *broken) Error() string   { return b.cause.Error() }
func (b *broken) Unwrap() []error { return []error{b.cause, errdefs.ErrUnavailable} }

// untrusted is a server that is not the one it should be. Asking again does not help.
type untrusted struct{ cause error }

func (u *untrusted) Error() string {
	return u.cause.Error() + " (hint: compare with pvenode cert info)"
}
func (u *untrusted) Unwrap() []error { return []error{u.cause, errdefs.ErrFailedPrecondition} }

func unreached(err error) error {
	var known *untrusted
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &certificate):
		return &untrusted{err}
	}
	return &broken{err}
}

// The statuses that PVE's HTTP server has beyond the standard's: the request could
// not be passed on to another node, or took too long there (pve-http-server).
const (
	statusNoRoute       = 595
	statusProxyFailed   = 596
	statusConnectFailed = 599
)

func refusal(response *http.Response, data []byte) error {
	e := &Error{Status: response.StatusCode, Kind: errdefs.ErrUnknown}
	var body struct {
		Message string            `json:"message"`
		Errors  map[string]string `json:"errors"`
	}
	if json.Unmarshal(data, &body) == nil {
		e.Message, e.Parameters = strings.TrimSpace(body.Message), body.Errors
	}
	if e.Message == "" {
		// Older servers say it in the status line alone.
		_, e.Message, _ = strings.Cut(response.Status, " ")
	}
	switch response.StatusCode {
	case http.StatusBadRequest:
		e.Kind = errdefs.ErrInvalidArgument
	case http.StatusUnauthorized:
		e.Kind = errdefs.ErrUnauthenticated
	case http.StatusForbidden:
		e.Kind = errdefs.ErrPermissionDenied
	case http.StatusNotFound:
		e.Kind = errdefs.ErrNotFound
	case http.StatusNotImplemented:
		e.Kind = errdefs.ErrNotImplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		statusNoRoute, statusProxyFailed, statusConnectFailed:
		e.Kind = errdefs.ErrUnavailable
	case http.StatusInternalServerError:
		e.Kind = diedOf(e.Message)
	}
	return e
}

// diedOf classifies what PVE's Perl died of, which all arrives as status 500.
func diedOf(message string) error {
	switch {
	case strings.Contains(message, "no quorum"):
		return pve.ErrNoQuorum
	case strings.Contains(message, "got timeout"), strings.Contains(message, "lock request timeout"):
		return errdefs.ErrUnavailable
	case strings.Contains(message, "does not exist"), strings.Contains(message, "no such"):
		return errdefs.ErrNotFound
	case strings.Contains(message, "already"):
		return errdefs.ErrAlreadyExists
	}
	return errdefs.ErrUnknown
}

// retriable reports whether the same request may be answered otherwise in a moment. A
// cluster without quorum stays so for longer.
func retriable(err error) bool {
	return errdefs.IsUnavailable(err) && !errors.Is(err, pve.ErrNoQuorum)
}
