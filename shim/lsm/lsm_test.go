package lsm

import (
	"os"
	"strings"
	"testing"
)

func TestAllLoaded(t *testing.T) {
	const list = "lxc-container-default-cgns (enforce)\ncri-containerd.apparmor.d (enforce)\nodd (name) (complain)\n"
	for name, want := range map[string]bool{
		"cri-containerd.apparmor.d":           true,
		"cri-containerd":                      false,
		"cri-containerd.apparmor.d (enforce)": false,
		"odd (name)":                          true,
		"odd":                                 false,
		"":                                    false,
		"unconfined":                          true,
		"lxc-container-default-cgns//&odd (name)":                  true,
		"lxc-container-default-cgns//&none":                        false,
		"lxc-container-default-cgns//&unconfined":                  true,
		"lxc-container-default-cgns//&lxc-container-default-cgns":  true,
		"lxc-container-default-cgns//&lxc-container-default-cgnsx": false,
	} {
		if got, err := allLoaded(strings.NewReader(list), name); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", name, got, err, want)
		}
	}
}

func TestHost(t *testing.T) {
	if !AppArmorEnabled() {
		if _, err := ProfileLoaded("x"); err == nil {
			t.Error("profiles without AppArmor")
		}
		t.Skip("needs a kernel with AppArmor enabled")
	}
	data, err := os.ReadFile(profiles)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		name := strings.TrimSpace(line[:strings.LastIndex(line, " (")])
		if loaded, err := ProfileLoaded(name); err != nil || !loaded {
			t.Errorf("%q: %v, %v", name, loaded, err)
		}
	}
	if loaded, err := ProfileLoaded("pvelxc-no-such-profile"); err != nil || loaded {
		t.Errorf("a profile that does not exist: %v, %v", loaded, err)
	}
	if loaded, err := ProfileLoaded("unconfined"); err != nil || !loaded {
		t.Errorf("unconfined: %v, %v", loaded, err)
	}
}
