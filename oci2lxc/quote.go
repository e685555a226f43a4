package oci2lxc

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// errUnquotable says that liblxc's syntax has no form for a value.
var errUnquotable = errors.New("liblxc's config cannot hold a line break or a NUL byte")

// quote gives the text that stands after "=" such that liblxc's parse_line
// (confile.c) reads value back: a record ends at \n (and in some versions \r), blanks
// at both ends are cut, then one pair of equal outer quotes is stripped, and there is
// no escape. So any value without a line break can be written: in quotes where it
// begins or ends with a blank or with what could be taken for a quote.
func quote(value string) (string, error) {
	if strings.ContainsAny(value, "\n\r\x00") {
		return "", errUnquotable
	}
	if value == "" {
		return "", nil
	}
	if strings.ContainsRune(" \t'\"", rune(value[0])) || strings.ContainsRune(" \t'\"", rune(value[len(value)-1])) {
		return `"` + value + `"`, nil
	}
	return value, nil
}

// validKey says whether key has the form of liblxc's keys: lower-case words joined by
// dots, the first of them "lxc".
func validKey(key string) bool {
	words := strings.Split(key, ".")
	if len(words) < 2 || words[0] != "lxc" {
		return false
	}
	for _, w := range words {
		if w == "" || !only(w, "abcdefghijklmnopqrstuvwxyz0123456789_-") {
			return false
		}
	}
	return true
}

// only says whether s consists of the bytes in set.
func only(s, set string) bool {
	for i := 0; i < len(s); i++ {
		if strings.IndexByte(set, s[i]) < 0 {
			return false
		}
	}
	return true
}

const (
	digits = "0123456789"
	alnum  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" + digits
)

// validID says whether s has the form of containerd's identifiers: letters and
// digits, single '.', '_' or '-' between them, at most 76 bytes. So "--" and ".."
// never occur in one, which makes "<namespace>--<id>" unambiguous.
func validID(s string) bool {
	if s == "" || len(s) > 76 {
		return false
	}
	sep := true
	for i := 0; i < len(s); i++ {
		switch {
		case strings.IndexByte(alnum, s[i]) >= 0:
			sep = false
		case !sep && strings.IndexByte("._-", s[i]) >= 0:
			sep = true
		default:
			return false
		}
	}
	return !sep
}

// cleanAbs says whether p is an absolute path that fits a system call.
func cleanAbs(p string) bool {
	return strings.HasPrefix(p, "/") && len(p) < unix.PathMax && strings.IndexByte(p, 0) < 0
}
