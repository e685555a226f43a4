package spec

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// seen says where the effect of a mapped field is seen in a container that runs: a test of the integration module as
// package.Test, with "machine" for those that need the VM's machine. A field that ends in '*' stands for all that
// begin so. "-" and a reason stand where no machine at hand can show it; unit tests and goldens are all there is then.
var seen = map[string]string{
	"ociVersion":           "spec.TestEnvironment",
	"root.path":            "task.TestFromScratch",
	"root.readonly":        "spec.TestReadonlyRootfs",
	"hostname":             "spec.TestHostname",
	"domainname":           "spec.TestDomainname",
	"annotations":          "spec.TestHooks",
	"hooks.*":              "spec.TestHooks",
	"mounts[].uidMappings": "spec.TestUserNamespaceVolume",
	"mounts[].gidMappings": "spec.TestUserNamespaceVolume",
	"mounts[].*":           "spec.TestBind",

	"process.terminal":                "task.TestTerminal",
	"process.consoleSize.*":           "spec.TestConsoleSize",
	"process.user.umask":              "spec.TestUmask",
	"process.user.*":                  "spec.TestUser",
	"process.args":                    "spec.TestArguments",
	"process.env":                     "spec.TestEnvironment",
	"process.cwd":                     "spec.TestWorkingDirectory",
	"process.capabilities.*":          "spec.TestCapabilities",
	"process.rlimits*":                "spec.TestRlimits",
	"process.noNewPrivileges":         "spec.TestNoNewPrivileges",
	"process.apparmorProfile":         "machine.TestAppArmor",
	"process.oomScoreAdj":             "spec.TestOOMScore",
	"process.scheduler.policy":        "spec.TestScheduler",
	"process.scheduler.nice":          "spec.TestScheduler",
	"process.scheduler.priority":      "- real-time policies need CAP_SYS_NICE over the host's budget",
	"process.scheduler.flags":         "- as the priority",
	"process.scheduler.runtime":       "- as the priority",
	"process.scheduler.deadline":      "- as the priority",
	"process.scheduler.period":        "- as the priority",
	"process.selinuxLabel":            "- no machine with SELinux",
	"process.ioPriority.*":            "spec.TestIOPriority",
	"process.execCPUAffinity.initial": "spec.TestExecCPUAffinity",
	"process.execCPUAffinity.final":   "spec.TestExecCPUAffinity",

	"linux.uidMappings*":                        "spec.TestUserNamespace",
	"linux.gidMappings*":                        "spec.TestUserNamespace",
	"linux.sysctl":                              "spec.TestSysctl",
	"linux.resources.devices*":                  "spec.TestAddedDevice",
	"linux.resources.memory.limit":              "task.TestUpdate",
	"linux.resources.memory.reservation":        "nerdctl.TestLimits",
	"linux.resources.memory.swap":               "machine.TestLimits",
	"linux.resources.memory.swappiness":         "- of control groups v1 alone",
	"linux.resources.memory.disableOOMKiller":   "- of control groups v1 alone",
	"linux.resources.memory.checkBeforeUpdate":  "- nothing is set: it refuses",
	"linux.resources.cpu.shares":                "task.TestCPULimits",
	"linux.resources.cpu.quota":                 "task.TestCPULimits",
	"linux.resources.cpu.period":                "task.TestCPULimits",
	"linux.resources.cpu.burst":                 "spec.TestCPUExtras",
	"linux.resources.cpu.realtime*":             "- kernels with RT_GROUP_SCHED and v1 alone",
	"linux.resources.cpu.cpus":                  "spec.TestCPUExtras",
	"linux.resources.cpu.mems":                  "spec.TestCPUExtras",
	"linux.resources.cpu.idle":                  "spec.TestCPUExtras",
	"linux.resources.pids.limit":                "task.TestPidsLimit",
	"linux.resources.blockIO.throttleWriteBps*": "machine.TestLimits",
	"linux.resources.blockIO.*":                 "- no scheduler with weights; the other throttles go the way of the written bytes",
	"linux.resources.hugepageLimits*":           "- no machine with huge pages to spare",
	"linux.resources.network.*":                 "- net_cls and net_prio of v1, which no machine has",
	"linux.resources.rdma*":                     "- no RDMA device",
	"linux.resources.unified":                   "machine.TestLimits",
	"linux.cgroupsPath":                         "lxcview.TestLXCSeesTheContainer",
	"linux.namespaces[].type":                   "spec.TestNamespaces",
	"linux.namespaces[].path":                   "spec.TestJoinNetworkNamespace",
	"linux.devices*":                            "spec.TestAddedDevice",
	"linux.netDevices*":                         "spec.TestNetDevice",
	"linux.seccomp.listener*":                   "spec.TestSeccompListener",
	"linux.seccomp.syscalls[].args*":            "spec.TestSeccompArguments",
	"linux.seccomp.*":                           "spec.TestSeccomp",
	"linux.rootfsPropagation":                   "spec.TestRootfsPropagation",
	"linux.maskedPaths":                         "spec.TestMaskedAndReadonlyPaths",
	"linux.readonlyPaths":                       "spec.TestMaskedAndReadonlyPaths",
	"linux.mountLabel":                          "- no machine with SELinux",
	"linux.intelRdt.*":                          "- no processor with resctrl",
	"linux.memoryPolicy.*":                      "spec.TestMemoryPolicy",
	"linux.personality.domain":                  "spec.TestPersonality",
	"linux.timeOffsets*":                        "spec.TestTimeNamespace",
}

// place finds the rule for a field: the longest that fits.
func place(field string) (rule string) {
	for pattern := range seen {
		prefix, open := strings.CutSuffix(pattern, "*")
		fits := field == pattern || open && strings.HasPrefix(field, prefix) || strings.HasPrefix(field, pattern+"[")
		if fits && len(pattern) > len(rule) {
			rule = pattern
		}
	}
	return rule
}

// Every field that the coverage table calls mapped has a test in a running container, or a reason for none.
func TestEveryFieldIsSeen(t *testing.T) {
	text, err := os.ReadFile("../../docs/spec-coverage.md")
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("needs the sources: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t)
	used := make(map[string]bool)
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| mapped \\|").FindAllStringSubmatch(string(text), -1)
	if len(rows) < 150 {
		t.Fatalf("%d mapped fields in the table", len(rows))
	}
	for _, row := range rows {
		rule := place(row[1])
		if rule == "" {
			t.Errorf("%s: no test is named", row[1])
		}
		used[rule] = true
	}
	for rule, name := range seen {
		if !used[rule] {
			t.Errorf("%s: there is no such field", rule)
		}
		if !strings.HasPrefix(name, "- ") && !tests[name] {
			t.Errorf("%s: there is no test %s", rule, name)
		}
	}
}

// testNames are the tests of the integration module, as package.Test.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../*/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") {
				names[filepath.Base(filepath.Dir(path))+"."+f.Name.Name] = true
			}
		}
	}
	return names
}
