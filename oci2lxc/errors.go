package oci2lxc

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// maxFindings bounds the refusals that an error prints and the warnings that a
// Plan keeps, so that a specification with ten thousand faulty mounts still has a
// message that can be read.
const maxFindings = 50

// FieldError is the refusal of one field of the specification.
type FieldError struct {
	// Field is the JSON path of the field, for example "mounts[3].destination".
	Field string
	// Reason says what is wrong, Hint what to do about it; Hint may be empty.
	Reason, Hint string
	// Class is errdefs.ErrInvalidArgument for what the specification forbids, and
	// errdefs.ErrNotImplemented for what it allows and this runtime cannot do.
	Class error
}

// Error is "field: reason (hint: …)".
func (e *FieldError) Error() string {
	if e.Hint == "" {
		return e.Field + ": " + e.Reason
	}
	return e.Field + ": " + e.Reason + " (hint: " + e.Hint + ")"
}

// Unwrap gives Class.
func (e *FieldError) Unwrap() error { return e.Class }

// Refusals are all the refusals of one specification, in the order of its fields
// as the conversion visits them. errors.As finds the first *FieldError.
type Refusals []*FieldError

// Error joins the refusals with "; ".
func (r Refusals) Error() string {
	var b strings.Builder
	for i, e := range r {
		if i == maxFindings {
			fmt.Fprintf(&b, "; and %d more", len(r)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(e.Error())
	}
	return b.String()
}

// Unwrap gives each refusal.
func (r Refusals) Unwrap() []error {
	errs := make([]error, len(r))
	for i, e := range r {
		errs[i] = e
	}
	return errs
}

// findings collects what a conversion has to say about its input.
type findings struct {
	warnings []Warning
	refusals Refusals
}

// warn notes that a field has no effect.
func (f *findings) warn(field, reason string, args ...any) {
	switch {
	case len(f.warnings) < maxFindings:
		f.warnings = append(f.warnings, Warning{Field: field, Reason: fmt.Sprintf(reason, args...)})
	case len(f.warnings) == maxFindings:
		f.warnings = append(f.warnings, Warning{Field: field, Reason: "this and further warnings are left out"})
	}
}

// invalid refuses a field that the specification does not allow.
func (f *findings) invalid(field, hint, reason string, args ...any) {
	f.refusals = append(f.refusals, &FieldError{Field: field, Reason: fmt.Sprintf(reason, args...), Hint: hint,
		Class: errdefs.ErrInvalidArgument})
}

// unsupported refuses a field that is valid and cannot be carried out here.
func (f *findings) unsupported(field, hint, reason string, args ...any) {
	f.refusals = append(f.refusals, &FieldError{Field: field, Reason: fmt.Sprintf(reason, args...), Hint: hint,
		Class: errdefs.ErrNotImplemented})
}

// text refuses a NUL byte, which no system call can carry, and says whether s is fine.
func (f *findings) text(field, s string) bool {
	if strings.IndexByte(s, 0) < 0 {
		return true
	}
	f.invalid(field, "", "%.80q contains a NUL byte", s)
	return false
}

// err is nil without refusals, the *FieldError when there is one, else all of them.
func (f *findings) err() error {
	switch len(f.refusals) {
	case 0:
		return nil
	case 1:
		return f.refusals[0]
	}
	return f.refusals
}
