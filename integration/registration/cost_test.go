package registration

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/pvelxc/pvelxc/integration/harness"
)

// TestCost measures what registration adds to the time to create and start a container. The modes
// take turns, so that a slow moment of the machine is one for all of them.
func TestCost(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("PVELXC_COST_ROUNDS"))
	if err != nil || rounds < 1 {
		t.Skip("a measurement: needs PVELXC_COST_ROUNDS, the number of rounds")
	}
	n := cluster(t)
	modes := []struct{ name, text string }{
		{"none", "registration = \"none\""},
		{"directory", fmt.Sprintf("[pve]\nroot = %q", harness.Registrations())},
		{"pmxcfs", fmt.Sprintf("[pve]\nroot = %q\nnode = \"pve1\"", n.Dir)},
	}
	times := make(map[string][]time.Duration)
	for round := range rounds + 1 {
		for i := range modes {
			m := modes[(i+round)%len(modes)]
			n.write(configuration(), "version = 1\n"+m.text+"\n")
			if took := n.createStart(t); round > 0 { // the first one warms caches
				times[m.name] = append(times[m.name], took)
			}
		}
	}
	for _, m := range modes {
		// Of one round each: what is slow in between is slow for both.
		added := make([]time.Duration, rounds)
		for i := range added {
			added[i] = times[m.name][i] - times["none"][i]
		}
		t.Logf("%-9s median %6.2f ms, adds %+.2f ms", m.name, ms(median(slices.Clone(times[m.name]))), ms(median(added)))
	}
}

// createStart also makes the container's metadata and snapshot, which costs the same in every mode.
func (n *node) createStart(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	c := n.Start(t, harness.Forever())
	took := time.Since(begin)
	c.Stop(t)
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	return took
}

func median(values []time.Duration) time.Duration {
	slices.Sort(values)
	return values[len(values)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
