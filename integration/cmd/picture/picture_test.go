package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestPicture(t *testing.T) {
	out := filepath.Join(t.TempDir(), "p.svg")
	script := `printf '\033[1;32m1.\033[0m \033[1mA <title>\033[0m\n   \033[36m$ true\033[0m\n0123456789012345678901234\n'; test -t 1 && printf 'a\tb %s\n' "$0"`
	if err := run(out, "make demo", "/some/where", 20, []string{"sh", "-c", script, "/some/where/bin"}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, want := range []string{
		`fill="#7ee787" font-weight="bold">1.</text>`, `font-weight="bold">A &lt;title&gt;</text>`, `fill="#79c0ff">$ true</text>`,
		`>01234567890123456789</text>`, `>01234</text>`, `>a       b ~/pvelxc/b</text>`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	wellFormed(t, text)
	for _, bad := range []string{`printf 'a\rb\n'`, `printf '\033[2Kx\n'`, `printf '\033[35mx\n'`, "exit 3"} {
		if err := run(out, "", "", 20, []string{"sh", "-c", bad}); err == nil {
			t.Errorf("%s gave a picture", bad)
		}
	}
}

func wellFormed(t *testing.T, text string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// The picture in the README is of the demo as it is: each title is in it (make picture).
func TestPictureOfDemo(t *testing.T) {
	data, err := os.ReadFile("../../../docs/demo.svg")
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, string(data))
	sources, err := filepath.Glob("../demo/*.go")
	if err != nil {
		t.Fatal(err)
	}
	titles := 0
	for _, source := range sources {
		code, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\.title\("([^"]+)"\)`).FindAllStringSubmatch(string(code), -1) {
			if m[1] == "Pull an image" { // of make demo IMAGE=…
				continue
			}
			titles++
			if !strings.Contains(string(data), ">"+escape(m[1])+"</text>") {
				t.Errorf("docs/demo.svg does not show %q (make picture)", m[1])
			}
		}
	}
	if titles < 5 {
		t.Errorf("only %d titles were found in the demo", titles)
	}
	if strings.Contains(string(data), "/home/") || regexp.MustCompile(`/tmp/[a-z]+/`).Match(data) {
		t.Error("docs/demo.svg names places of the machine that it was made on")
	}
}
